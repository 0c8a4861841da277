"""The order of a chain: by stage, then as in the file, then as `before` and `after` ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiogate import Exchange, Middleware, MiddlewareKind, Model, Response, Stage
from aiogate.chain.compile import CompiledApi, Step, ordered
from aiogate.errors import Position

Names = Callable[[CompiledApi], list[str]]


class NoConfig(Model):
    pass


def step(name: str, before: tuple[str, ...] = (), after: tuple[str, ...] = (), stage: Stage = Stage.REQUEST) -> Step:
    return Step(name, stage, "test", Position("x"), before=before, after=after)


def order(*steps: Step) -> str:
    return "".join(one.name for one in ordered(steps))


def test_without_wishes_the_order_stays() -> None:
    assert order(step("c"), step("a"), step("b")) == "cab"


def test_the_stage_goes_before_everything() -> None:
    assert order(step("a"), step("b", stage=Stage.ENTRY), step("c", after=("a",), stage=Stage.VERSION)) == "bca"


@pytest.mark.parametrize(
    "steps, expected",
    [
        ([step("a"), step("b", before=("a",))], "ba"),
        ([step("a", after=("b",)), step("b")], "ba"),
        ([step("a", after=("c",)), step("b"), step("c")], "bca"),
        ([step("a", after=("nobody",)), step("b", before=("nobody",))], "ab"),
        ([step("a"), step("b"), step("c", before=("a",)), step("d", after=("a",))], "bcad"),
        ([step("a", after=("b",)), step("b", after=("c",)), step("c")], "cba"),
        ([step("a"), step("a"), step("b", before=("a",))], "baa"),
        ([step("a", before=("b",)), step("b", after=("a",))], "ab"),
    ],
)
def test_wishes_move_a_step_no_further_than_they_ask(steps: list[Step], expected: str) -> None:
    assert order(*steps) == expected


def test_wishes_that_contradict_are_an_error() -> None:
    with pytest.raises(ValueError, match="of a, b contradict"):
        order(step("a", before=("b",)), step("b", before=("a",)))


def test_a_contradiction_is_a_diagnostic(bench: Any) -> None:
    bench.offer(
        MiddlewareKind("one", Stage.REQUEST, NoConfig, lambda c, x: Middleware(lambda e: None), before=("two",)),
        MiddlewareKind("two", Stage.REQUEST, NoConfig, lambda c, x: Middleware(lambda e: None), before=("one",)),
    )
    assert bench.mistakes(
        """
        listen: /test/
        auth: none
        plugins: [one, two, mock: x]
        """
    ) == ["3:1 build_failed"]


def test_the_whole_chain_reads_as_documented(bench: Any, names: Names) -> None:
    passing: Any = lambda config, context: Middleware(on_request=lambda exchange: None)  # noqa: E731
    bench.offer(*(MiddlewareKind(f"in_{stage.name.lower()}", stage, NoConfig, passing) for stage in Stage))
    listed = ", ".join(f"in_{stage.name.lower()}" for stage in reversed(Stage))
    api = bench.compile(
        f"""
        expires: 2030-01-01T00:00:00Z
        upstream: http://127.0.0.1:9/
        auth: [basic, key]
        strip_credentials: true
        plugins: [{listed}, rate_limit: 1/1s]
        """
    )
    assert names(api) == [
        "in_entry",
        "versions", "in_version",
        "auth", "strip_credentials", "in_authenticate",
        "access", "in_authorise",
        "in_limit", "rate_limit", "limits",
        "in_validate", "in_request", "in_cache",
        "in_upstream", "reverse_proxy",
    ]  # fmt: skip


async def test_the_way_back_is_the_reverse_of_the_way_in(bench: Any) -> None:
    seen: list[str] = []

    def marking(name: str, answer: Response | None = None) -> Any:
        def on_request(exchange: Exchange) -> Response | None:
            seen.append(f">{name}")
            return answer

        async def on_response(exchange: Exchange, response: Response) -> None:
            seen.append(f"<{name}")

        return MiddlewareKind(
            name, Stage.REQUEST, NoConfig, lambda config, context: Middleware(on_request, on_response), answers=True
        )

    bench.offer(marking("a"), marking("b"), marking("c", Response(201)), marking("d"))
    response, _ = await bench.ask(bench.compile("plugins: [a, b, c, d]"))
    assert response.status == 201
    assert seen == [">a", ">b", ">c", "<c", "<b", "<a"], "d was never entered"
