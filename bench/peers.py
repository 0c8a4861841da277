"""The gateways that are measured beside ours, and the upstream behind all of them.

Each is a real server in a process of its own, bound to the gateway's core, doing as little as it can: one listener, one
upstream on kept-alive connections. What is not installed is named as missing, never left out silently.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import GATEWAY_CORE, LOAD_CORE, pinned

__all__ = ["Missing", "Peer", "caddy", "express", "free_port", "haproxy", "naive", "nginx", "redis", "upstream"]

BODY = b'{"id":"7c1f","name":"a small JSON document","tags":["one","two","three"],"text":"' + b"x" * 109 + b'"}\n'
assert 190 <= len(BODY) <= 210

_NGINX = """\
worker_processes 1;
daemon off;
{user}
pid {home}/nginx.pid;
error_log {home}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  {http}
}}
"""
_UPSTREAM = """\
server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {home}/files;
    default_type application/octet-stream;
    location / {{ default_type application/json; return 200 '{body}'; }}
    location /files/ {{ alias {home}/files/; sendfile on; }}
    location /sink/ {{ client_body_buffer_size 64k; proxy_request_buffering off; proxy_pass http://127.0.0.1:{sink}; }}
  }}
"""
_PROXY = """\
upstream backend {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_request_buffering off;
    }}
    location /ws/ {{
      proxy_pass http://127.0.0.1:{websocket}/;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
    }}
  }}
"""
_HAPROXY = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  option forwardfor
  server s 127.0.0.1:{upstream}
"""
_CADDY = """\
{{
  admin off
  auto_https off
  log {{
    level ERROR
  }}
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{upstream}
}}
"""
_NAIVE = """\
import sys
from aiohttp import ClientSession, web

async def proxy(request):
    async with request.app["session"].request(
        request.method, "http://127.0.0.1:%s%s" % (sys.argv[2], request.rel_url),
        headers={name: value for name, value in request.headers.items() if name != "Host"}, data=await request.read(),
    ) as response:
        return web.Response(
            status=response.status, body=await response.read(), content_type=response.content_type)

async def session(app):
    app["session"] = ClientSession()
    yield
    await app["session"].close()

app = web.Application()
app.router.add_route("*", "/{tail:.*}", proxy)
app.cleanup_ctx.append(session)
try:
    import uvloop
    uvloop.install()
except ImportError:
    pass
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


class Missing(Exception):
    """A peer is not installed here."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server under measurement. `url` ends in a slash."""

    name: str
    url: str
    pid: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/", 1)[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _found(*names: str) -> str:
    for name in names:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if path is not None:
            return path
    raise Missing(f"{names[0]} is not installed")


@asynccontextmanager
async def _running(
    command: Sequence[str], port: int, core: int, *, cwd: Path, env: Mapping[str, str] | None = None, within: float = 20
) -> AsyncIterator[int]:
    """The process, once its port answers; ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *pinned(core, *command), cwd=cwd, env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(within):
            while True:
                if process.returncode is not None:
                    raise Missing(f"{command[0]} ended with {process.returncode}")
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def _folder(home: Path, name: str) -> Path:
    """A new folder of this name; numbered when an earlier row had one."""
    for number in itertools.count():
        folder = home / (f"{name}-{number}" if number else name)
        if not folder.exists():
            break
    folder.mkdir()
    return folder


@asynccontextmanager
async def upstream(home: Path) -> AsyncIterator[int]:
    """nginx with a 200-byte JSON answer, files under `/files/`, a sink for uploads under `/sink/`; gives its port."""
    folder = _folder(home, "upstream")
    files = _folder(folder, "files")
    (files / "1m").write_bytes(os.urandom(1024 * 1024))
    with (files / "100m").open("wb") as large:
        large.truncate(100 * 1024 * 1024)
    sink = await asyncio.start_server(_swallow, "127.0.0.1", 0, limit=1024 * 1024)
    port = free_port()
    text = _UPSTREAM.format(port=port, home=folder, body=BODY.decode().strip(), sink=sink.sockets[0].getsockname()[1])
    async with _nginx(folder, port, text, LOAD_CORE):
        yield port
    sink.close()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one request with a length to its end, and say so."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        left = int(lengths[0].partition(b":")[2]) if lengths else 0
        while left:
            left -= len(await reader.read(min(left, 256 * 1024)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def _nginx(folder: Path, port: int, http: str, core: int) -> AsyncIterator[int]:
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(home=folder, http=http, user="user root;" if os.geteuid() == 0 else ""))
    command = (_found("nginx"), "-p", str(folder), "-c", str(configuration))
    async with _running(command, port, core, cwd=folder) as pid:
        yield pid


@asynccontextmanager
async def nginx(home: Path, upstream_port: int, websocket: int = 9) -> AsyncIterator[Peer]:
    """A plain proxy with one worker."""
    folder, port = _folder(home, "nginx"), free_port()
    text = _PROXY.format(port=port, upstream=upstream_port, websocket=websocket)
    async with _nginx(folder, port, text, GATEWAY_CORE) as pid:
        yield Peer("nginx", f"http://127.0.0.1:{port}/", pid)


@asynccontextmanager
async def haproxy(home: Path, upstream_port: int) -> AsyncIterator[Peer]:
    """A plain proxy with one thread."""
    folder, port = _folder(home, "haproxy"), free_port()
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(port=port, upstream=upstream_port))
    command = (_found("haproxy"), "-db", "-f", str(folder / "haproxy.cfg"))
    async with _running(command, port, GATEWAY_CORE, cwd=folder) as pid:
        yield Peer("HAProxy", f"http://127.0.0.1:{port}/", pid)


@asynccontextmanager
async def caddy(home: Path, upstream_port: int) -> AsyncIterator[Peer]:
    """A plain proxy on one processor."""
    folder, port = _folder(home, "caddy"), free_port()
    (folder / "Caddyfile").write_text(_CADDY.format(port=port, upstream=upstream_port))
    command = (_found("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
    environ = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    async with _running(command, port, GATEWAY_CORE, cwd=folder, env=environ) as pid:
        yield Peer("Caddy", f"http://127.0.0.1:{port}/", pid)


@asynccontextmanager
async def naive(home: Path, upstream_port: int) -> AsyncIterator[Peer]:
    """What one writes in an afternoon: an aiohttp Application that asks with a ClientSession, on uvloop."""
    folder, port = _folder(home, "naive"), free_port()
    (folder / "naive.py").write_text(_NAIVE)
    command = (sys.executable, str(folder / "naive.py"), str(port), str(upstream_port))
    async with _running(command, port, GATEWAY_CORE, cwd=folder) as pid:
        yield Peer("naive aiohttp proxy", f"http://127.0.0.1:{port}/", pid)


@asynccontextmanager
async def redis(home: Path) -> AsyncIterator[int]:
    """A Redis server that writes nothing to disk, on the load's core; gives its port."""
    folder, port = _folder(home, "redis"), free_port()
    command = (_found("redis-server", "valkey-server"), "--port", str(port), "--bind", "127.0.0.1",
               "--save", "", "--appendonly", "no", "--dir", str(folder))  # fmt: skip
    async with _running(command, port, LOAD_CORE, cwd=folder):
        yield port


@asynccontextmanager
async def express(
    home: Path, upstream_port: int, modules: Path, policies: Sequence[str] = (), redis_port: int | None = None
) -> AsyncIterator[Peer]:
    """Express Gateway with `policies` (`key-auth`, `rate-limit`) before its proxy.

    `modules` is the folder where npm installed it. With `redis_port` its users and counters are kept there.
    """
    node = _found("node")
    if not (modules / "node_modules" / "express-gateway").is_dir():
        raise Missing("express-gateway is not installed (npm)")
    name = " + ".join(["Express Gateway", *policies])
    folder = _folder(home, name.lower().replace(" ", "").replace("+", "-"))
    port, admin = free_port(), free_port()
    steps: list[object] = []
    if "key-auth" in policies:
        steps.append({"key-auth": [{"action": {"apiKeyHeader": "Authorization"}}]})
    if "rate-limit" in policies:
        # Unless told otherwise it delays each request by a second more than the last one.
        limit = {"max": 1_000_000_000, "windowMs": 60_000, "delayMs": 0}
        steps.append({"rate-limit": [{"action": limit}]})
    steps.append({"proxy": [{"action": {"serviceEndpoint": "backend", "changeOrigin": True}}]})
    gateway = {
        "http": {"port": port, "hostname": "127.0.0.1"},
        "admin": {"port": admin, "host": "127.0.0.1"},
        "apiEndpoints": {"all": {"host": "*"}},
        "serviceEndpoints": {"backend": {"url": f"http://127.0.0.1:{upstream_port}"}},
        "policies": [*policies, "proxy"],
        "pipelines": {"p": {"apiEndpoints": ["all"], "policies": steps}},
    }
    store: dict[str, object] = {"emulate": True, "namespace": "EG"}
    if redis_port is not None:
        store = {"host": "127.0.0.1", "port": redis_port, "namespace": name.replace(" ", "")}
    system = {"db": {"redis": store}, "crypto": {"cipherKey": "bench", "algorithm": "aes256", "saltRounds": 10},
              "session": {"secret": "bench", "resave": False, "saveUninitialized": False}}  # fmt: skip
    configuration = _folder(folder, "config")
    (configuration / "gateway.config.json").write_text(json.dumps(gateway))
    (configuration / "system.config.json").write_text(json.dumps(system))
    shutil.copytree(modules / "node_modules/express-gateway/lib/config/models", configuration / "models")
    (folder / "server.js").write_text(
        "require('express-gateway')().load(require('path').join(__dirname, 'config')).run();\n"
    )
    environ = {"NODE_PATH": str(modules / "node_modules"), "NODE_ENV": "production", "LOG_LEVEL": "error"}
    async with _running((node, "server.js"), port, GATEWAY_CORE, cwd=folder, env=environ) as pid:
        headers = {"Authorization": await asyncio.to_thread(_express_key, admin)} if "key-auth" in policies else {}
        yield Peer(name, f"http://127.0.0.1:{port}/", pid, headers)


def _express_key(admin: int) -> str:
    """A user with a key, made over the admin API."""

    def post(path: str, body: object) -> dict[str, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{admin}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            made: dict[str, str] = json.load(answer)
            return made

    post("users", {"username": "bench", "firstname": "B", "lastname": "B", "email": "b@example.com"})
    made = post("credentials", {"consumerId": "bench", "type": "key-auth", "credential": {}})
    return f"apiKey {made['keyId']}:{made['keySecret']}"
