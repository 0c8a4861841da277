"""The rows of the benchmark: each starts what it needs, loads it in turns, and adds what it found to the report."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import math
import os
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench import peers
from bench.load import Measured, Silent, hit, open_loop
from bench.machine import cpu_seconds, pss
from bench.ours import STEPS, Ours, ours
from bench.peers import Missing, Peer
from bench.redis_store import spent
from bench.results import Report, Summary, Target
from tests.servers import RedisServer

__all__ = ["ROWS", "Bench", "Row"]

US = "aiogate"
MODULES = Path(os.environ.get("EXPRESS_GATEWAY", "build/express-gateway"))
_POST = """\
wrk.method = "POST"
wrk.body = string.rep("x", 1024)
wrk.headers["Content-Type"] = "text/plain"
"""
_KEYS = """\
local keys = {{}}
for line in io.lines("{file}") do keys[#keys + 1] = line end
local n = 0
request = function()
  n = n % #keys + 1
  return wrk.format("GET", nil, {{["Authorization"] = keys[n]}})
end
"""
_TOKENS = """\
listen: /tokens/
upstream: http://127.0.0.1:{{port}}/
auth: {{{{jwt: {{{{algorithms: RS256, key: {key}, default_policies: bench}}}}}}}}
session_limits: {{{{rate: false, quota: false}}}}
"""
_MANY_APIS = """\
local n = 0
request = function()
  n = n % {count} + 1
  return wrk.format("GET", "/many/" .. (n - 1) .. "/", {{["Authorization"] = "{key}"}})
end
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is loaded in a row."""

    name: str
    url: str
    pid: int
    headers: Mapping[str, str]
    script: Path | None = None


class Bench:
    """The state of a run: the peers that are up, and the report."""

    def __init__(self, home: Path, report: Report, rounds: int, seconds: float, upstream: int) -> None:
        self.home = home
        self.report = report
        self.rounds = rounds
        self.seconds = seconds
        self.upstream = upstream
        self.peers: dict[str, Peer] = {}
        self.rounds_of: dict[tuple[str, str], Sequence[Measured]] = {}

    async def start(self, stack: AsyncExitStack, peer: AbstractAsyncContextManager[Peer]) -> Peer | None:
        try:
            started = await stack.enter_async_context(peer)
        except Missing as missing:
            self.report.missing.append(str(missing))
            return None
        self.peers[started.name] = started
        return started

    def plain(self, *names: str) -> list[Subject]:
        """Peers as subjects; those that are missing are left out here and named in the report."""
        found = [self.peers[name] for name in names if name in self.peers]
        return [Subject(peer.name, peer.url, peer.pid, peer.headers) for peer in found]

    async def compare(self, row: str, subjects: Sequence[Subject], *, connections: int = 64) -> None:
        """Load the subjects in turns, after one short turn each that is not counted."""
        rounds: dict[str, list[Measured]] = {subject.name: [] for subject in subjects}
        for subject in subjects:
            if subject.script is None:
                await _answers(subject)
        for number in range(self.rounds + 1):
            for subject in subjects:
                if not number:
                    await warm_up(subject, connections)
                    continue
                try:
                    measured = await hit(
                        subject.url, subject.pid, seconds=self.seconds, connections=connections,
                        headers=subject.headers, script=subject.script,
                    )  # fmt: skip
                except Silent:
                    self.report.missing.append(f"{row}, {subject.name}: a round without an answer")
                else:
                    rounds[subject.name].append(measured)
        for subject in subjects:
            self.rounds_of[row, subject.name] = rounds[subject.name]
            if rounds[subject.name]:
                self.report.summaries.append(Summary.of(row, subject.name, rounds[subject.name], pss(subject.pid)))

    def slower(self, row: str, one: str, other: str) -> float | None:
        """By how many percent the second of two subjects of a row does less in a processor second."""
        ratio = self.report.ratio((row, one), (row, other))
        return (ratio - 1) * 100 if ratio is not None else None

    def fact(self, what: str, figure: str) -> None:
        self.report.facts.append((what, figure))

    def target(
        self, what: str, value: float | None, must: float, goal: float, *, at_most: bool = False, unit: str = ""
    ) -> None:
        self.report.targets.append(Target(what, value, must, goal, at_most, unit))

    def judge(self) -> None:
        """The targets that compare subjects of the rows that ran."""
        ratio = self.report.ratio
        full, nginx, caddy = (FULL, US), (PLAIN, "nginx"), (PLAIN, "Caddy")
        express = (EXPRESS, "Express Gateway + key-auth + rate-limit")
        self.target(
            "full chain, embedded store, per CPU-second, of nginx's plain proxy", ratio(full, nginx), 0.40, 0.52
        )
        self.target("the same, of Caddy's plain proxy", ratio(full, caddy), 1.6, 2.2)
        self.target("the same, of Express Gateway with key-auth and rate limit", ratio(full, express), 15, 25)
        self.target("full chain with Redis, of nginx's plain proxy", ratio((FULL_REDIS, US), nginx), 0.33, 0.45)
        self.target("plain proxy, of nginx's", ratio((PLAIN, US), nginx), 0.45, 0.58)
        mine, other = self.report.find(EIGHT, US), self.report.find(EIGHT, "Caddy")
        self.target(
            "p99 at 8 connections, full chain, of Caddy's plain",
            mine.p99 / other.p99 if mine and other else None,
            1.0,
            0.5,
            at_most=True,
        )


PLAIN, KEY, FULL, BASIC = "plain proxy", "key auth", "full chain", "basic auth, cached"
FULL_REDIS, EXPRESS, POST, EIGHT = (
    "full chain, Redis",
    "key auth and rate limit",
    "POST of 1 KiB, full chain",
    "8 connections",
)
DOWN = "download of 1 MiB"
WORKERS = "full chain, by workers"
EMBEDDED, ONE, TWO, UNCACHED = "embedded store", "Redis, 1 worker", "Redis, 2 workers", "Redis, sessions.cache: 0s"


def _mine(
    gateway: Ours, api: str, headers: Mapping[str, str] | None = None, path: str = "", script: Path | None = None
) -> Subject:
    return Subject(US, gateway.url(api) + path, gateway.pid, gateway.keyed if headers is None else headers, script)


async def proxying(bench: Bench) -> None:
    """The rows of small requests, against one process of ours."""
    async with ours(bench.upstream) as gateway:
        everybody = bench.plain("nginx", "HAProxy", "Caddy", "naive aiohttp proxy")
        await bench.compare(PLAIN, [*everybody, _mine(gateway, "plain", {})])
        await bench.compare(KEY, [_mine(gateway, "keyed")])
        await bench.compare(FULL, [*bench.plain("nginx"), _mine(gateway, "full")])
        user = {"Authorization": "Basic YmVuY2g6YmVuY2g="}
        await bench.compare(BASIC, [_mine(gateway, "basic", user)])
        script = bench.home / "post.lua"
        script.write_text(_POST)
        posts = [Subject(each.name, each.url, each.pid, {}, script) for each in bench.plain("nginx", "Caddy")]
        await bench.compare(POST, [*posts, _mine(gateway, "full", script=script)])
        await bench.compare(EIGHT, [*bench.plain("nginx", "Caddy"), _mine(gateway, "full")], connections=8)
        files = [Subject(each.name, each.url + "files/1m", each.pid, {}) for each in bench.plain("nginx", "Caddy")]
        await bench.compare(DOWN, [*files, _mine(gateway, "plain", {}, "files/1m")], connections=16)


async def express(bench: Bench) -> None:
    """Express Gateway: plain, with key-auth, and with its rate limit on Redis."""
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(peers.redis(bench.home))
        except Missing as missing:
            bench.report.missing.append(str(missing))
            return
        for row, policies in ((PLAIN, ()), (KEY, ("key-auth",)), (EXPRESS, ("key-auth", "rate-limit"))):
            started = await bench.start(stack, peers.express(bench.home, bench.upstream, MODULES, policies, port))
            if started is None:
                return
            await bench.compare(row, bench.plain(started.name))


async def with_redis(bench: Bench) -> None:
    """The full chain with its state in a real Redis."""
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(peers.redis(bench.home))
            gateway = await stack.enter_async_context(ours(bench.upstream, "--store", f"redis://127.0.0.1:{port}/0"))
        except (Missing, RuntimeError) as missing:
            bench.report.missing.append(f"full chain with Redis: {missing}")
            return
        await bench.compare(FULL_REDIS, [*bench.plain("nginx"), _mine(gateway, "full")])


async def workers(bench: Bench) -> None:
    """Two workers on one Redis beside one, and beside the embedded store; what each costs Redis, gateway and memory.

    Nothing is bound to a core here: two workers are there to use two. On two cores client, upstream and Redis take a
    part of both.
    """
    forms = {
        EMBEDDED: ((), "{}"),
        ONE: (("--workers", "1"), "redis: {timeout: 1s}"),
        TWO: (("--workers", "2"), "redis: {timeout: 1s}"),
        UNCACHED: (("--workers", "1"), "redis: {timeout: 1s}\nsessions: {cache: 0s}"),
    }
    async with AsyncExitStack() as stack:
        subjects: dict[str, Subject] = {}
        servers: dict[str, RedisServer] = {}
        for name, (arguments, settings) in forms.items():
            if name != EMBEDDED:
                try:
                    servers[name] = RedisServer().start()
                except OSError as missing:
                    bench.report.missing.append(f"workers on Redis: {missing}")
                    return
                stack.callback(servers[name].close)
                arguments = (*arguments, "--store", servers[name].url)
            gateway = await stack.enter_async_context(ours(bench.upstream, *arguments, settings=settings, free=True))
            subjects[name] = Subject(name, gateway.url("full"), gateway.pid, gateway.keyed)
        before = {name: spent(server) for name, server in servers.items()}
        await bench.compare(WORKERS, list(subjects.values()))
        for name, server in servers.items():
            bench.fact(f"Redis, {name}, of a request", str(spent(server) - before[name]))
    one, two = bench.rounds_of[WORKERS, ONE], bench.rounds_of[WORKERS, TWO]
    # Round by round, because these take a part of the load's core, whose speed changes between rounds.
    ratios = [both.per_cpu_second / alone.per_cpu_second for alone, both in zip(one, two, strict=False)]
    bench.target(
        "two workers, of one worker's requests per CPU-second", statistics.median(ratios) if ratios else None, 0.9, 0.97
    )


async def steps(bench: Bench) -> None:
    """What one more synchronous middleware costs."""
    async with ours(bench.upstream) as gateway:
        without, with_them = _mine(gateway, "plain", {}), _mine(gateway, "steps", {})
        await bench.compare("without further steps", [Subject("aiogate ", *_rest(without))])
        pairs: list[float] = []
        for _ in range(bench.rounds + 2):
            spent = []
            for subject in (without, with_them):
                measured = await hit(subject.url, subject.pid, seconds=bench.seconds)
                spent.append(1 / measured.per_cpu_second)
            pairs.append((spent[1] - spent[0]) / STEPS * 1e6)
        cost = statistics.median(pairs)
        bench.fact(
            f"one more synchronous middleware (of {STEPS})", f"{cost:.2f} µs ({min(pairs):.2f} to {max(pairs):.2f})"
        )
        bench.target("one more synchronous middleware", cost, 1.0, 0.3, at_most=True, unit=" µs")


async def tokens(bench: Bench) -> None:
    """What a token that was verified before costs beside a key, in turns."""
    definition = _TOKENS.format(key=json.dumps(signing_key().as_pem(private=False).decode()))
    async with ours(bench.upstream, definitions={"tokens": definition}) as gateway:
        keyed = _mine(gateway, "keyed")
        signed = _mine(gateway, "tokens", {"Authorization": f"Bearer {token()}"})
        ratios = []
        for subject in (keyed, signed):
            await _answers(subject)
            await warm_up(subject, 64)
        for _ in range(bench.rounds + 2):
            key, jwt = [
                (await hit(each.url, each.pid, seconds=bench.seconds, headers=each.headers)).per_cpu_second
                for each in (keyed, signed)
            ]
            ratios.append(key / jwt)
        cost = statistics.median(ratios)
        bench.fact("a remembered RS256 token beside a key", f"{cost:.3f} × ({min(ratios):.3f} to {max(ratios):.3f})")
        bench.target("a remembered token, CPU per request, of key auth", cost, 1.10, 1.05, at_most=True)


@functools.cache
def signing_key() -> Any:
    from joserfc.jwk import RSAKey

    return RSAKey.generate_key(2048)


def token() -> str:
    """A token as issuers make them, with a dozen claims, that holds for a day."""
    from joserfc import jwt

    now = int(time.time())
    claims = {
        "iss": "https://login.example.com/", "sub": "5d1c0b2e-6f1f-4a6a-9b55-0f7f0f3d6d3a", "aud": ["api", "account"],
        "iat": now, "nbf": now, "exp": now + 86400, "jti": "c0a8012e-7d1c-4c1b-8f7e-000000000001", "azp": "web",
        "scope": "openid profile email", "email": "anna@example.com", "name": "Anna Example", "acr": "1",
    }  # fmt: skip
    return jwt.encode({"alg": "RS256", "typ": "JWT"}, claims, signing_key())


async def warm_up(subject: Subject, connections: int) -> None:
    """A first load that is not counted: some compile their code meanwhile, and answer nothing for a second."""
    for seconds in (1, 3, 3):
        with contextlib.suppress(Silent):
            await hit(
                subject.url, subject.pid, seconds=seconds, connections=connections, headers=subject.headers,
                script=subject.script,
            )  # fmt: skip
            return


async def _answers(subject: Subject) -> None:
    """Wait until the subject answers, and see that it answers rightly."""
    async with aiohttp.ClientSession(headers=subject.headers) as session:
        for _ in range(50):
            try:
                async with session.get(subject.url, timeout=aiohttp.ClientTimeout(total=2)) as response:
                    body = await response.read()
                    if response.status == 200 and (body.strip() == peers.BODY.strip() or len(body) == 1024 * 1024):
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{subject.name} does not answer rightly at {subject.url}")


def _rest(subject: Subject) -> tuple[str, int, Mapping[str, str]]:
    return subject.url, subject.pid, subject.headers


async def many_apis(bench: Bench) -> None:
    """1, 100 and 5,000 APIs, requests spread over all of them; and the memory of an API."""
    async with AsyncExitStack() as stack:
        subjects: list[Subject] = []
        memory: dict[int, float] = {}
        for count in (1, 100, 5000):
            gateway = await stack.enter_async_context(ours(bench.upstream, apis=count))
            rights = {f"many-{number}": {"api_id": f"many-{number}", "versions": []} for number in range(count)}
            key = await gateway.gateway.create_key(access_rights=rights)
            script = bench.home / f"apis-{count}.lua"
            script.write_text(_MANY_APIS.format(count=count, key=key))
            memory[count] = pss(gateway.pid)
            subjects.append(Subject(f"aiogate, {count} APIs", gateway.url("many/0"), gateway.pid, {}, script))
        await bench.compare("requests spread over all APIs", subjects)
        slower = bench.slower("requests spread over all APIs", "aiogate, 1 APIs", "aiogate, 5000 APIs")
        bench.target("5,000 APIs instead of 1, slower by", slower, 8, 3, at_most=True, unit=" %")
        bench.fact("memory of an API", f"{(memory[5000] - memory[100]) / 4900 * 1024:.1f} KiB")
        bench.target("memory of a worker with 100 APIs", memory[100], 75, 55, at_most=True, unit=" MiB")


async def many_keys(bench: Bench) -> None:
    """1, 10,000 and 1,000,000 stored keys, 1,000 of them in use; and the memory of a cached key."""
    async with AsyncExitStack() as stack:
        subjects: list[Subject] = []
        for count in (1, 10_000, 1_000_000):
            gateway = await stack.enter_async_context(ours(bench.upstream))
            active = min(count, 1000)
            keys = [await gateway.gateway.create_key("full", "keyed") for _ in range(active)]
            await asyncio.to_thread(_fill, gateway.gateway.folder / "var", count - active)
            names = bench.home / f"keys-{count}.txt"
            names.write_text("\n".join(keys) + "\n")
            script = bench.home / f"keys-{count}.lua"
            script.write_text(_KEYS.format(file=names))
            subjects.append(Subject(f"aiogate, {count} keys", gateway.url("keyed"), gateway.pid, {}, script))
        await bench.compare("1,000 keys in use of those stored", subjects)
        row = "1,000 keys in use of those stored"
        slower = bench.slower(row, "aiogate, 10000 keys", "aiogate, 1000000 keys")
        bench.target("1,000,000 stored keys instead of 10,000, slower by", slower, 8, 3, at_most=True, unit=" %")
    await _cached_key(bench)


def _fill(state: Path, count: int) -> None:
    """Copies of the first stored record under other names, put into the store from outside."""
    files = sorted(state.glob("*.db")) + sorted(state.glob("*.sqlite*"))
    if not files or count <= 0:
        return
    with sqlite3.connect(files[0], timeout=30) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(sessions)")]
        row = list(database.execute("SELECT * FROM sessions LIMIT 1").fetchone())
        name = columns.index("name_hash")
        marks = ", ".join("?" * len(columns))

        def copies() -> object:
            for number in range(count):
                row[name] = hashlib.sha256(f"filler {number}".encode()).hexdigest()
                yield tuple(row)

        database.executemany(f"INSERT OR IGNORE INTO sessions VALUES ({marks})", copies())  # type: ignore[arg-type]
    database.close()


async def _cached_key(bench: Bench) -> None:
    count = 20_000
    async with ours(bench.upstream) as gateway:
        keys = [await gateway.gateway.create_key("keyed") for _ in range(2000)]
        before = pss(gateway.pid)
        names, script = bench.home / "cached.txt", bench.home / "cached.lua"
        more = []
        for _ in range(count // 2000 - 1):
            more += [await gateway.gateway.create_key("keyed") for _ in range(2000)]
        grown_by_writing = pss(gateway.pid) - before
        names.write_text("\n".join([*keys, *more]) + "\n")
        script.write_text(_KEYS.format(file=names))
        await hit(gateway.url("keyed"), gateway.pid, seconds=max(3, bench.seconds), script=script)
        await hit(gateway.url("keyed"), gateway.pid, seconds=max(3, bench.seconds), script=script)
        each = (pss(gateway.pid) - before) * 1024 / (count - 2000)
        bench.fact(
            "memory of a cached key", f"{each:.2f} KiB ({grown_by_writing:.1f} MiB of growth came with the writes)"
        )
        bench.target("memory of a cached key", each, 2.0, 1.0, at_most=True, unit=" KiB")


async def large_bodies(bench: Bench) -> None:
    """100 MiB down and up, through nginx and through us, in turns; and what that does to memory."""
    async with ours(bench.upstream) as gateway:
        subjects = [*bench.plain("nginx"), _mine(gateway, "plain", {})]
        for what, transfer in (("down", _download), ("up", _upload)):
            speeds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
            spent: dict[str, list[float]] = {subject.name: [] for subject in subjects}
            before, peak = pss(gateway.pid), 0.0
            for number in range(bench.rounds + 1):
                for subject in subjects:
                    began, cpu = time.perf_counter(), cpu_seconds(subject.pid)
                    moving = asyncio.create_task(transfer(subject.url))
                    while not moving.done():
                        await asyncio.wait([moving], timeout=0.1)
                        peak = max(peak, pss(gateway.pid))
                    await moving
                    if number:
                        speeds[subject.name].append(100 / (time.perf_counter() - began))
                        spent[subject.name].append(100 / max(cpu_seconds(subject.pid) - cpu, 0.005))
            for name in speeds:
                bench.fact(
                    f"100 MiB {what}, {name}",
                    f"{statistics.median(speeds[name]):,.0f} MiB/s, "
                    f"{statistics.median(spent[name]):,.0f} MiB per CPU-second",
                )
            bench.fact(f"100 MiB {what}, growth of our memory", f"{peak - before:.1f} MiB")
            if "nginx" in speeds:
                share = statistics.median(speeds[US]) / statistics.median(speeds["nginx"])
                bench.target(f"100 MiB {what}, of nginx's throughput", share, 0.7, 1.0)


async def _download(url: str) -> None:
    await _curl("-o", "/dev/null", f"{url}files/100m")


async def _upload(url: str) -> None:
    await _curl(
        "-T",
        "-",
        "-o",
        "/dev/null",
        "-H",
        "Content-Length: 104857600",
        "-H",
        "Transfer-Encoding:",
        "-H",
        "Expect:",
        f"{url}sink/",
        source="head -c 104857600 /dev/zero",
    )


async def _curl(*arguments: str, source: str = "true") -> None:
    words = " ".join(f"'{argument}'" for argument in arguments)
    process = await asyncio.create_subprocess_shell(f"{source} | curl -sSf {words}", stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"curl {words}: {errors.decode()}")


async def latency(bench: Bench) -> None:
    """Open loop at a steady rate: quiet, and while one file of 1,000 changes 20 times."""
    async with ours(bench.upstream, apis=1000) as gateway:
        port = int(gateway.gateway.url.rsplit(":", 1)[1])
        request = f"GET /full/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: {gateway.key}\r\n\r\n".encode()
        rate, seconds = 500.0, max(6.0, bench.seconds * 2)
        await open_loop("127.0.0.1", port, request, rate=rate, seconds=1)
        quiet: list[float] = []
        busy: list[float] = []
        failed = 0
        for number in range(bench.rounds):
            calm = await open_loop("127.0.0.1", port, request, rate=rate, seconds=seconds)
            changing = asyncio.create_task(_reloads(gateway, bench.upstream, 20, seconds, number))
            stirred = await open_loop("127.0.0.1", port, request, rate=rate, seconds=seconds)
            await changing
            failed += sum(each == math.inf for each in (*calm, *stirred))
            quiet.append(_p99(calm))
            busy.append(_p99(stirred))
        calmly, stirring = statistics.median(quiet), statistics.median(busy)
        bench.fact(
            f"open loop at {rate:.0f} per second, p99",
            f"{calmly * 1000:.2f} ms quiet, {stirring * 1000:.2f} ms during reloads; {failed} failed",
        )
        bench.target(
            "p99 during reloads of one file among 1,000 APIs, of quiet", stirring / calmly, 2.0, 1.2, at_most=True
        )


async def _reloads(gateway: Ours, upstream: int, count: int, seconds: float, round_: int) -> None:
    file = gateway.gateway.folder / "apis.d" / "many-7.yaml"
    text = file.read_text()
    for number in range(count):
        file.write_text(f"{text}labels: {{edition: e{round_}-{number}}}\n")
        reply = await gateway.gateway.reload_now()
        assert reply.status == 200, reply.text
        await asyncio.sleep(seconds / count / 2)
    file.write_text(text)


def _p99(latencies: Sequence[float]) -> float:
    return sorted(latencies)[int(len(latencies) * 0.99)]


async def start(bench: Bench) -> None:
    """Cold start: from the process to its ready line, with 1 and 500 definitions."""
    for count in (1, 500):
        took = []
        for _ in range(bench.rounds):
            began = time.perf_counter()
            async with ours(bench.upstream, apis=count) as gateway:
                took.append(time.perf_counter() - began)
                size = pss(gateway.pid)
        bench.fact(
            f"ready with {count + 5} definitions, and a user made",
            f"{statistics.median(took):.2f} s, PSS {size:.0f} MiB",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and whether a quick run has it."""

    run: Callable[[Bench], Awaitable[None]]
    quick: bool = False


ROWS: Mapping[str, Row] = {
    "proxying": Row(proxying, quick=True),
    "express": Row(express, quick=True),
    "redis": Row(with_redis, quick=True),
    "workers": Row(workers),
    "large": Row(large_bodies),
    "apis": Row(many_apis),
    "keys": Row(many_keys),
    "steps": Row(steps),
    "tokens": Row(tokens),
    "latency": Row(latency),
    "start": Row(start),
}
