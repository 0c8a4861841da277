"""What journeys need around the gateway: real upstreams, real clients, the real command."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aiogate.testing import GatewayClient, GatewayProcess, RecordingUpstream, recording_upstream, subprocess_gateway
from aiogate.testing.gateway import write_files


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with recording_upstream() as running:
        yield running


@dataclass(frozen=True)
class Curled:
    """What curl got. `head` is everything before the body, `headers` has lower-case names."""

    code: int
    head: str
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.strip().splitlines()[1:]
        return {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}


@pytest.fixture
def curl() -> Callable[..., Awaitable[Curled]]:
    """Runs curl with these arguments; its exit code, and the response."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")

    async def run(*arguments: str) -> Curled:
        process = await asyncio.create_subprocess_exec(
            program, "-q", "--silent", "--include", "--max-time", "20", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={},
        )  # fmt: skip
        out, _ = await process.communicate()
        head, _, body = out.partition(b"\r\n\r\n")
        return Curled(process.returncode or 0, head.decode("latin-1"), body)

    return run


@dataclass(frozen=True)
class Nginx:
    """A running nginx. It answers `/files/…` from `folder`, and `/echo` with what it was asked."""

    url: str
    folder: Path


NGINX = """
daemon off; master_process off; worker_processes 1; error_log {log} warn; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 100000; client_max_body_size 16m;
  server {{
    listen 127.0.0.1:{port};
    location /files/ {{ alias {folder}/files/; }}
    location /moved {{ return 302 /elsewhere; }}
    location / {{
      add_header X-Seen-Host $http_host;
      default_type text/plain;
      return 200 "$request_method $request_uri auth=$http_authorization xff=$http_x_forwarded_for\\n";
    }}
  }}
}}
"""


@pytest.fixture(scope="session")
def nginx() -> Iterator[Nginx]:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="aiogate-nginx-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "files").mkdir(mode=0o755)
        port = free_port()
        (folder / "conf").write_text(NGINX.format(folder=folder, port=port, log=folder / "log"))
        process = subprocess.Popen(
            [program, "-p", made, "-c", str(folder / "conf"), "-e", str(folder / "log")], stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port, process, folder / "log")
            yield Nginx(f"http://127.0.0.1:{port}/", folder / "files")
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "nginx does not take connections"
        time.sleep(0.02)


@dataclass
class RawUpstream:
    """Reads a request's head and then does what `behave` says with the connection."""

    port: int = 0
    behave: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]] | None = None
    heads: list[bytes] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(head := await reader.readuntil(b"\r\n\r\n"))
            assert self.behave is not None
            await self.behave(head, writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.accept, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    server.close()
    for task in list(upstream.tasks):
        task.cancel()
    await asyncio.gather(*upstream.tasks, return_exceptions=True)


@pytest.fixture(name="free_port")
def _free_port() -> int:
    """A port on which nobody listens."""
    return free_port()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[GatewayProcess]]:
    """Starts the gateway as a process in the test's folder, with these files."""

    def starting(files: Mapping[str, str], *arguments: str) -> AbstractAsyncContextManager[GatewayProcess]:
        write_files(tmp_path, files)
        # No test of these is about how soon it is ready, and several workers take their time on a busy machine.
        return subprocess_gateway(tmp_path, *arguments, within=60)

    return starting


@dataclass
class Load:
    """Clients in a closed loop, each on one connection at a time, that never retry.

    A request that was sent on an open connection must be answered, whole and with what belongs to it; everything else
    is in `failures`. `proxied` counts answers of the recording upstream, `bodies` holds those of others.

    Who is told `Connection: close` opens a new connection; where nobody listens any more, the client
    has gone elsewhere and is done. All requests are POST: nobody may repeat them.
    """

    host: str
    port: int
    answered: int = 0
    proxied: int = 0
    connections: int = 0
    gone: int = 0
    bodies: set[bytes] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    def send(self, *paths: str, clients: int = 16) -> None:
        """Start so many clients; client n asks for path n, counted around."""
        for number in range(clients):
            client = self._client(paths[number % len(paths)].encode())
            self.tasks.append(asyncio.get_running_loop().create_task(client))

    async def has_answered(self, more: int) -> None:
        """Wait for so many further answers."""
        target = self.answered + more
        await self._until(lambda: self.answered >= target)

    async def has_seen(self, body: bytes) -> None:
        """Wait for an answer with this body."""
        await self._until(lambda: body in self.bodies)

    async def _until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.progress:
            await self.progress.wait_for(lambda: done() or bool(self.failures) or not self.tasks)

    async def stop(self) -> None:
        self.stopped = True
        await self.ended()

    async def ended(self) -> None:
        """Wait until every client is done."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self.tasks)
        self.tasks.clear()

    async def _client(self, path: bytes) -> None:
        number = 0
        while not self.stopped:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except ConnectionRefusedError:
                self.gone += 1
                return
            self.connections += 1
            try:
                keep = True
                while keep and not self.stopped:
                    number += 1
                    keep = await self._ask(reader, writer, path, b"%d" % number)
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(f"request {number}: {type(error).__name__}: {error}")
                return
            finally:
                writer.transport.abort()
                async with self.progress:
                    self.progress.notify_all()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes, mark: bytes) -> bool:
        """One request; whether the connection serves another."""
        head = b"POST %s?mark=%s HTTP/1.1\r\nHost: load\r\nContent-Length: %d\r\n\r\n" % (path, mark, len(mark))
        writer.write(head + mark)
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        proxied = body.startswith(b'{"method"')
        if not answer.startswith(b"HTTP/1.1 200 ") or (proxied and b'?mark=%s"' % mark not in body):
            self.failures.append(f"{answer.decode()}{body.decode()}")
        if proxied:
            self.proxied += 1
        else:
            self.bodies.add(body)
        self.answered += 1
        async with self.progress:
            self.progress.notify_all()
        return b"\r\nconnection: close" not in answer.lower()


@pytest.fixture
async def load() -> AsyncIterator[Callable[[GatewayClient], Load]]:
    """Makes the load of a gateway; what still runs ends with the test."""
    made: list[Load] = []

    def of(gateway: GatewayClient) -> Load:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        made.append(Load(host, int(port)))
        return made[-1]

    yield of
    for one in made:
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)
