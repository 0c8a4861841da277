"""Everything at once on one gateway for minutes, and what it has not given back afterwards.

    make soak                 ten minutes
    MINUTES=3 make soak       shorter

A real process is asked with keys, passwords and tokens, right and wrong; clients leave in the middle, bodies drip,
WebSockets, event streams and uploads go through; meanwhile files change, some of them badly, and keys and APIs are
written over the control API. Every answer has one status that is right for it.

Printed is a table of samples: memory (PSS and RSS of the process and its children), descriptors, tasks of the event
loop, requests. The exit code is 1 when, after the warm-up (a quarter of the time, at most two minutes), memory grew by
1 MiB a minute or more; when descriptors or tasks are not what they were before the load, give or take two; when a
status was another than the right one; or when the gateway logged an error.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from aiogate.testing import GatewayProcess, subprocess_gateway
from aiogate.testing.gateway import write_files
from bench.machine import cpu_seconds, describe, pss, tree

MINUTES = float(os.environ.get("MINUTES", "10"))
GROWTH = 1.0
"""MiB a minute that are too much."""
SPARE = 2
"""Descriptors or tasks that may be more or fewer than before the load."""
SAMPLE_EVERY = 2.0
CLIENTS = 2
"""Of each kind."""
SECRET = "a secret of at least thirty-two bytes"
UPLOAD = os.urandom(1024 * 1024)

_UPSTREAM = "upstream: {url: 'http://127.0.0.1:PORT/', keepalive: {idle: 1s}}\n"
FILES = {
    "aiogate.yaml": "timeouts: {keepalive: 5s}\n",
    "apis.d/open.yaml": "listen: /open/\nauth: none\n" + _UPSTREAM,
    "apis.d/key.yaml": "listen: /key/\nauth: key\n" + _UPSTREAM,
    "apis.d/basic.yaml": "listen: /basic/\nauth: basic\n" + _UPSTREAM,
    "apis.d/jwt.yaml": (
        f"listen: /jwt/\nauth:\n  - jwt: {{algorithms: HS256, key: '{SECRET}', default_policies: [soak]}}\n{_UPSTREAM}"
    ),
    "apis.d/inside.yaml": "listen: /inside/\nauth: none\nplugins: [count_tasks: {}]\n",
    "apis.d/changing.yaml": "listen: /changing/\nauth: none\nplugins: [mock: '0']\n",
    "policies.d/soak.yaml": "access: {key: {}, basic: {}, jwt: {}}\nrate: 1000000/1s\nquota: 1000000000/30d\n",
    "plugins/count_tasks.py": '''\
"""Answers with the number of tasks of the event loop that serves it."""

from __future__ import annotations

import asyncio

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Response, Stage, hookimpl


class Config(Model):
    """There is nothing to say."""


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("count_tasks", Stage.CACHE, Config, build, "counts tasks", refuses=False, answers=True)


def build(config: Config, context: BuildContext) -> Middleware:
    def count(exchange: Exchange) -> Response:
        return Response(200, b"%d" % len(asyncio.all_tasks()))

    return Middleware(on_request=count)
''',
}  # fmt: skip

CUT_SHORT = (
    b"GET /open/late HTTP/1.1\r\nHo",
    b"GET /open/late HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
    b"POST /open/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"GET /open/chunks HTTP/1.1\r\nHost: a\r\n\r\n" * 5,
    (
        b"GET /open/socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
    b"not HTTP\r\n\r\n",
)
"""What clients send that leave then, answered or not."""


class Upstream:
    """Answers plainly, in chunks, as an event stream, late, or as a WebSocket that echoes."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        what = request.path.strip("/")
        if what == "chunks":
            return await self._pieces(request, [b"x" * 16384] * 16, 0.0, "application/octet-stream")
        if what == "events":
            return await self._pieces(request, [b"data: %d\n\n" % n for n in range(10)], 0.05, "text/event-stream")
        if what == "late":
            await asyncio.sleep(0.5)
        if what == "socket":
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(message.data)
            return ws
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.json_response({"size": size})

    async def _pieces(self, request: web.Request, pieces: list[bytes], pause: float, kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            if pause:
                await asyncio.sleep(pause)
        return response


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", Upstream().handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass
class Sample:
    """What the gateway holds `at` seconds after the start."""

    at: float
    pss: float
    rss: float
    descriptors: int
    tasks: int
    requests: int
    cpu: float

    def __str__(self) -> str:
        return (
            f"{self.at:7.0f} {self.pss:9.1f} {self.rss:9.1f} {self.descriptors:6} {self.tasks:6}"
            f" {self.requests:9} {self.cpu:8.1f}"
        )


HEAD = "seconds   PSS MiB   RSS MiB    fds  tasks  requests    cpu s"


def rss(pid: int) -> float:
    """Resident memory of a process and its descendants, in MiB."""
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    return sum(sum(1 for _ in Path(f"/proc/{each}/fd").iterdir()) for each in tree(pid))


def token(**claims: object) -> str:
    """A token signed by HS256."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = part(b'{"alg":"HS256","typ":"JWT"}') + "." + part(json.dumps(claims).encode())
    return text + "." + part(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())


@dataclass
class Soak:
    """The load. `wrong` holds what came instead of what should have."""

    gateway: GatewayProcess
    port: int
    key: str
    session: aiohttp.ClientSession
    guesser: aiohttp.ClientSession
    """Has an address of its own: those that guess are stopped by their address."""
    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)
    expiry: int = field(default_factory=lambda: int(time.time()) + 24 * 3600)
    number: int = 0
    edition: int = 0

    # Clients. Each does its thing once.

    async def ask(
        self, kind: str, method: str, path: str, status: int, size: int | None = None,
        data: bytes | AsyncIterator[bytes] | None = None, **headers: str,
    ) -> None:  # fmt: skip
        async with self.session.request(method, self.gateway.url + path, headers=headers, data=data) as reply:
            body = await reply.read()
        if size is not None and status == reply.status == 200:
            told = len(body) if size and method == "GET" else json.loads(body)["size"]
            self.expect(kind, told, size)
        self.expect(kind, reply.status, status)

    def expect(self, kind: str, seen: object, right: object) -> None:
        self.done[kind] += 1
        if seen != right:
            self.wrong[f"{kind}: {seen} instead of {right}"] += 1

    async def open(self) -> None:
        await self.ask("open", "GET", "/open/x", 200)

    async def keyed(self) -> None:
        await self.ask("key", "POST", "/key/x", 200, 5, b"hello", Authorization=self.key)

    async def passwords(self) -> None:
        right = base64.b64encode(b"soaker:right").decode()
        await self.ask("basic", "GET", "/basic/x", 200, Authorization=f"Basic {right}")

    async def tokens(self) -> None:
        self.number += 1
        # So many that the memory of verified tokens has them all before the warm-up is over.
        signed = token(sub=f"somebody-{self.number % 1000}", exp=self.expiry)
        await self.ask("jwt", "GET", "/jwt/x", 200, Authorization=f"Bearer {signed}")

    async def wrong_credentials(self) -> None:
        wrong = base64.b64encode(b"nobody%d:wrong" % random.randrange(100)).decode()
        for path, credential in (
            ("/key/x", f"nobody-{random.random()}"),
            ("/jwt/x", f"Bearer {token(sub='x', exp=9)[:-4]}AAAA"),
            ("/basic/x", f"Basic {wrong}"),
        ):
            async with self.guesser.get(self.gateway.url + path, headers={"Authorization": credential}) as reply:
                # Whoever guesses too often gets 429 for a while.
                self.expect("wrong credential", reply.status in (401, 403, 429), True)
        await self.ask("no key", "GET", "/key/x", 401)
        await asyncio.sleep(0.1)

    async def nowhere(self) -> None:
        await self.ask("not found", "GET", f"/nowhere/{random.random()}", 404)
        await self.ask("bad path", "GET", "/open/a%2fb", 400)

    async def uploads(self) -> None:
        await self.ask("upload", "PUT", "/open/up", 200, len(UPLOAD), UPLOAD)
        await asyncio.sleep(0.2)

    async def chunks(self) -> None:
        await self.ask("chunks", "GET", "/open/chunks", 200, 16 * 16384)

    async def drip(self) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 200
                await asyncio.sleep(0.1)

        await self.ask("slow body", "POST", "/open/slow", 200, 2000, pieces())

    async def events(self) -> None:
        async with self.session.get(self.gateway.url + "/open/events") as reply:
            if random.random() < 0.5:
                await reply.content.readexactly(len(b"data: 0\n\n") * 3)  # and leave
                self.expect("left stream", reply.status, 200)
                reply.close()
            else:
                self.expect("events", (reply.status, len(await reply.read())), (200, 90))

    async def sockets(self) -> None:
        async with self.session.ws_connect(self.gateway.url + "/open/socket") as ws:
            for number in range(10):
                await ws.send_str(f"message {number}")
                self.expect("websocket", await ws.receive_str(timeout=10), f"message {number}")
                await asyncio.sleep(0.02)
            if random.random() < 0.3:
                assert ws._response.connection is not None
                assert ws._response.connection.transport is not None
                ws._response.connection.transport.abort()

    async def aborts(self) -> None:
        host, port = self.gateway.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(random.choice(CUT_SHORT))
        await asyncio.sleep(random.random() / 5)
        if random.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        self.done["left"] += 1

    # The operator. Its doings exclude each other, so that a broken file refuses its own reload and nobody else's.

    async def operate(self) -> None:
        self.edition += 1
        edition = str(self.edition)
        file = self.gateway.folder / "apis.d/changing.yaml"
        text = f"listen: /changing/\nauth: none\nplugins: [mock: '{edition}']\n"
        file.write_text(text)
        self.expect("reload", (await self.gateway.reload_now()).status, 200)
        reply = await self.gateway.get("/changing/")
        self.expect("changed", (reply.status, reply.text), (200, edition))
        await asyncio.sleep(1)
        file.write_text(text + "colour: green\n")
        self.expect("refused reload", (await self.gateway.reload_now()).status, 422)
        file.write_text(text)
        await asyncio.sleep(1)
        made = {"id": "made", "listen": "/made/", "auth": "none", "plugins": [{"mock": "made"}]}
        self.expect("write", (await self.gateway.tyk("POST", "/tyk/apis?format=native", made)).status, 200)
        self.expect("reload", (await self.gateway.reload_now()).status, 200)
        self.expect("written", (await self.gateway.get("/made/")).status, 200)
        self.expect("delete", (await self.gateway.tyk("DELETE", "/tyk/apis/made")).status, 200)
        self.expect("reload", (await self.gateway.reload_now()).status, 200)
        self.expect("deleted", (await self.gateway.get("/made/")).status, 404)
        await asyncio.sleep(1)

    async def keys(self) -> None:
        key = await self.gateway.create_key("key", rate=1000, per=1, quota_max=-1)
        self.expect("new key", (await self.gateway.get("/key/x", key=key)).status, 200)
        await self.gateway.revoke(key)
        async with self.guesser.get(self.gateway.url + "/key/x", headers={"Authorization": key}) as refused:
            self.expect("revoked key", refused.status in (403, 429), True)
        await asyncio.sleep(0.3)

    # Running it all

    @property
    def kinds(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        return (
            self.open, self.keyed, self.passwords, self.tokens, self.wrong_credentials, self.nowhere, self.uploads,
            self.chunks, self.drip, self.events, self.sockets, self.aborts, self.keys,
        )  # fmt: skip

    async def again(self, once: Callable[[], Awaitable[None]]) -> None:
        while not self.stopped:
            try:
                await once()
            except (aiohttp.ClientError, OSError, EOFError, TimeoutError, AssertionError, TypeError) as error:
                self.wrong[f"{once.__name__}: {type(error).__name__}: {error}"[:200]] += 1
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)

    async def tasks(self) -> int:
        return int((await self.gateway.get("/inside/")).text)

    async def sample(self) -> Sample:
        pid = self.gateway.pid
        return Sample(
            time.monotonic() - self.began, pss(pid), rss(pid), descriptors(pid), await self.tasks(),
            sum(self.done.values()), cpu_seconds(pid),
        )  # fmt: skip

    async def rest(self, like: Sample | None = None) -> Sample:
        """A sample when nothing is asked any more; `like` may take half a minute to come."""
        await asyncio.sleep(8)
        sample = await self.sample()
        deadline = time.monotonic() + 30
        while like is not None and leaks(like, sample) and time.monotonic() < deadline:
            await asyncio.sleep(1)
            sample = await self.sample()
        return sample


def leaks(before: Sample, after: Sample) -> list[str]:
    """What is held after the load that was not before it."""
    pairs = (("descriptors", before.descriptors, after.descriptors), ("tasks", before.tasks, after.tasks))
    return [f"{then} {name} before the load, {now} after it" for name, then, now in pairs if abs(now - then) > SPARE]


def growth(samples: list[Sample]) -> float:
    """MiB a minute, by least squares."""
    if len(samples) < 3:
        return 0.0
    return statistics.linear_regression([one.at for one in samples], [one.pss for one in samples]).slope * 60


async def soak(minutes: float) -> int:
    print(describe(), flush=True)
    # The upstream's own complaints about connections that end while it answers: that is what some clients are for.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiogate-soak-")))
        port = await stack.enter_async_context(upstream())
        write_files(home, {name: text.replace("PORT", str(port)) for name, text in FILES.items()})
        gateway = await stack.enter_async_context(subprocess_gateway(home))
        key = await gateway.create_key("key", apply_policies=["soak"])
        await gateway.create_user("soaker", "right", "basic", apply_policies=["soak"])
        session, guesser = [
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2, local_addr=(address, 0)),
                    requote_redirect_url=False,
                    timeout=aiohttp.ClientTimeout(total=30),
                )
            )
            for address in ("127.0.0.1", "127.0.0.2")
        ]
        load = Soak(gateway, port, key, session, guesser)
        for once in (*load.kinds, load.operate):  # what is made at its first use is not a leak
            await once()
        # So are the processes that hash passwords, one for each processor: they are started when several hash at once.
        await asyncio.gather(
            *(gateway.create_user(f"hashed-{number}", "right", "basic") for number in range(2 * (os.cpu_count() or 1)))
        )
        before = await load.rest()
        print(HEAD, before, sep="\n", flush=True)
        samples = await under_load(load, minutes * 60)
        after = await load.rest(before)
        print(after, flush=True)
        logged = [
            line
            for line in gateway.log.read_text().splitlines()
            if (" ERROR " in line and " aiogate.reload: " not in line) or "Traceback" in line
        ]
    return verdict(load, before, after, samples, min(minutes * 15, 120.0), logged)


async def under_load(load: Soak, seconds: float) -> list[Sample]:
    load.began = time.monotonic()
    clients = [asyncio.create_task(load.again(once)) for once in load.kinds * CLIENTS]
    clients.append(asyncio.create_task(load.again(load.operate)))
    samples: list[Sample] = []
    shown = 0.0
    while (left := load.began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(SAMPLE_EVERY, left))
        samples.append(await load.sample())
        if samples[-1].at >= shown:
            print(samples[-1], flush=True)
            shown += seconds / 20
    load.stopped = True
    await asyncio.gather(*clients)
    return samples


def verdict(
    load: Soak, before: Sample, after: Sample, samples: list[Sample], warm: float, logged: list[str]
) -> int:  # fmt: skip
    slope = growth([one for one in samples if one.at >= warm])
    broken = leaks(before, after)
    if slope >= GROWTH:
        broken.append(f"memory grew by {slope:.2f} MiB a minute")
    broken += [f"{count} times {what}" for what, count in load.wrong.most_common(20)]
    broken += [f"logged: {line}" for line in logged[:20]]
    print("asked:", ", ".join(f"{count} {kind}" for kind, count in sorted(load.done.items())))
    print(f"memory {slope:+.2f} MiB a minute after {warm:.0f} s")
    for one in broken:
        print("NOT KEPT:", one)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(asyncio.run(soak(MINUTES)))
