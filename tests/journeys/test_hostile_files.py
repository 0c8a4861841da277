"""Files that are cut, empty, huge, binary or mutated: the old ones serve on, and it is said what is wrong."""

from __future__ import annotations

import ast
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiogate.config.units import parse_pattern
from aiogate.testing import RecordingUpstream, running_gateway
from aiogate.testing.gateway import write_files

ROOT = Path(__file__).parent.parent.parent
API = "id: a\nlisten: /a/\nauth: none\nplugins:\n  - mock: {body: BODY}\nlabels: {team: x}\n"


def cut(number: int) -> bytes:
    return API.encode()[:number]


HOSTILE = {
    "empty": b"",
    "one byte": cut(1),
    "cut in a key": cut(10),
    "cut before auth": cut(19),
    "cut in a mapping": cut(API.index("body") + 2),
    "a hole where bytes were not written": cut(30) + b"\0" * 40,
    "binary": bytes(range(256)) * 4,
    "an executable": b"\x7fELF\x02\x01\x01" + b"\0" * 400,
    "UTF-16": API.encode("utf-16"),
    "Latin-1": API.replace("BODY", "caf\xe9").encode("latin-1"),
    "a tab": API.replace("  - mock", "\t- mock").encode(),
    "a bomb of aliases": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
    "deep": b"labels: " + b"[" * 5000,
    "a tag": API.replace("name", "").encode() + b"name: !!python/object/apply:os.system [true]\n",
    "two documents": API.encode() + b"---\n" + API.encode(),
}
READABLE = {
    "a byte order mark": b"\xef\xbb\xbf" + API.encode(),
    "line ends of Windows": API.replace("\n", "\r\n").encode(),
    "no last line end": API.encode().rstrip(),
}


async def refusals(gateway: Any) -> float:
    text = (await gateway.tyk("GET", "/metrics")).text
    return float(text.partition('aiogate_reloads_total{verdict="refused"} ')[2].split("\n")[0])


async def test_a_file_that_cannot_be_read_changes_nothing_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "apis.d/a.yaml"
    async with running_gateway({"apis.d/a.yaml": API.replace("BODY", "good")}, folder=tmp_path) as gateway:
        for number, (name, data) in enumerate(HOSTILE.items(), 1):
            path.write_bytes(data)
            verdict = await gateway.reload()
            assert (name, verdict.ok, verdict.generation) == (name, False, 1)
            assert {Path(one.file).name for one in verdict.diagnostics} == {"a.yaml"}
            assert (await gateway.get("/a/")).body == b"good"
            assert await refusals(gateway) == number
            shown = (await gateway.dashboard("GET", "/api/system/status")).json["last_reload"]
            assert (shown["ok"], len(shown["diagnostics"])) == (False, len(verdict.diagnostics))
        with path.open("wb") as file:
            file.truncate(100 * 1024 * 1024)
        verdict = await gateway.reload()
        assert [one.code for one in verdict.diagnostics] == ["file_too_large"]
        for number, (name, data) in enumerate(READABLE.items(), 1):
            path.write_bytes(data.replace(b"BODY", b"good %d" % number))
            verdict = await gateway.reload()
            assert (name, verdict.ok) == (name, True), verdict.diagnostics
            assert (await gateway.get("/a/")).body == b"good %d" % number


def mutated(text: bytes, chance: random.Random) -> bytes:
    """One way in which a file goes wrong."""
    at, to = sorted(chance.randrange(len(text)) for _ in range(2))
    kind = chance.randrange(7)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    if kind == 2:
        return text[:at] + text[to:]
    if kind == 3:
        return text[:to] + text[at:]
    if kind == 4:
        lines = text.splitlines(keepends=True)
        chance.shuffle(lines)
        return b"".join(lines)
    if kind == 5:
        return text[:at] + chance.choice([b"{", b"[", b"&a *a ", b"!!x ", b"${", b"\t", b"\0", b": ", b"'"]) + text[at:]
    return chance.choice(list(HOSTILE.values()))


@pytest.mark.slow
async def test_a_hundred_mutated_files_harm_no_request(
    start: Callable[..., Any], load: Any, upstream: RecordingUpstream
) -> None:
    """Written in place, as careless editors do, under load and with a gateway that looks by itself too."""
    chance = random.Random(20260601)
    victim = API.replace("BODY", "good").encode()
    steady = f"{{listen: /steady/, auth: none, upstream: '{upstream.url}'}}"
    async with start({"apis.d/steady.yaml": steady, "apis.d/a.yaml": victim.decode()}, "--watch") as gateway:
        clients = load(gateway)
        clients.send("/steady/", clients=8)
        await clients.has_answered(20)
        refused = 0
        for _ in range(100):
            (gateway.folder / "apis.d/a.yaml").write_bytes(mutated(victim, chance))
            began = time.monotonic()
            reply = await gateway.reload_now()
            assert reply.status in (200, 422), reply.text
            if reply.status == 422:
                refused += 1
                assert reply.json["diagnostics"]
                ready = await gateway.tyk("GET", "/ready")
                assert (ready.status, ready.json["last_reload"]["ok"]) == (200, False)
                assert ready.json["generation"] == reply.json["generation"]
            assert time.monotonic() - began < 10
            await clients.has_answered(4)
        write_files(gateway.folder, {"apis.d/a.yaml": victim.decode()})
        assert (await gateway.reload_now()).status == 200
        assert (await gateway.get("/a/")).body == b"good"
        await clients.stop()
    assert clients.failures == []
    assert refused > 50


PATTERNS = [
    "^(a+)+$", "^(a|a)+$", "^(a|aa)+$", "^(a*)*$", "^(a*)*b", "^(.*a){20}$", "^(.*)*x$", "^([a-z]+)+[0-9]$",
    "^(a?){30}a{30}$", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$", "^((a+)b)+$", "^(a+b?)+c$", "^(a|b|ab)*c$",
    "^(\\w+\\s?)*$", "^(\\d+)*x$", "^(\\w*)*\\W$", "^/(a/?)+$", "^/(.+)+/$", "^/([^/]+/?)+!$", "(a+){10}b",
    "^(?:a{1,50}){1,20}$", "^(a{0,30}){0,30}b$", "(?i)^(A+)+$", "^(a+)+(a+)+(a+)+b$", "^.*.*.*.*.*.*=.*$",
    "^(?:.|\\s)*b$", "^(a|[a-c]|[a-z])*d$", "^(?:(?:a*)*)*b$", "^[a-zA-Z0-9]+([._-]?[a-zA-Z0-9]+)*@$",
]  # fmt: skip
"""Each takes a backtracking engine time that doubles, or worse, with each further character."""
TEXTS = ["a" * 8000 + "!", "/" + "a/" * 4000 + "!", "ab" * 4000 + "!", "x" * 8000, "1" * 8000 + "y", "a b" * 2600 + "?"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_holds_up_a_request(pattern: str) -> None:
    """Processor time of this thread, the best of three: what a slow machine does to us is not the pattern's fault."""
    compiled = parse_pattern(pattern)
    for text in TEXTS:
        times = []
        for _ in range(3):
            began = time.thread_time()
            compiled.matches(text)
            times.append(time.thread_time() - began)
        assert min(times) < 0.010


@pytest.mark.parametrize(
    "pattern", ["(a)\\1", "a(?=b)", "a(?!b)", "(?<=a)b", "(?>a+)b", "(a{1000}){1000}", "((a{100}){100}){100}"]
)
def test_what_cannot_run_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="RE2"):
        parse_pattern(pattern)


def test_no_backtracking_engine_gets_a_pattern_that_somebody_wrote() -> None:
    """`re` is for the patterns in our own source: its first argument is a literal, or made of our own."""
    calls = ("compile", "match", "fullmatch", "search", "findall", "finditer", "sub", "subn", "split")
    for path in (ROOT / "aiogate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in calls):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                pattern = node.args[0]
                assert ours(pattern), f"{path}:{node.lineno}: {ast.unparse(pattern)}"


def ours(pattern: ast.expr) -> bool:
    if isinstance(pattern, ast.Constant):
        return True
    if isinstance(pattern, ast.JoinedStr):
        inner = [part.value for part in pattern.values if isinstance(part, ast.FormattedValue)]
        return all(ours(part) for part in inner)
    if isinstance(pattern, ast.Attribute) and pattern.attr == "pattern":
        return ours(pattern.value)
    if isinstance(pattern, ast.BinOp):
        return ours(pattern.left) and ours(pattern.right)
    if isinstance(pattern, ast.Call) and isinstance(pattern.func, ast.Attribute) and pattern.func.attr == "encode":
        return ours(pattern.func.value)
    return isinstance(pattern, ast.Name) and pattern.id.lstrip("_").isupper()
