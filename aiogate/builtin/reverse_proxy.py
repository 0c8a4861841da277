"""Send the request to the API's upstream: the last step of every chain that has one.

It is not listed under `plugins:`; `upstream:` of the API or of the version puts it there. One of the two built-ins that
look below the package root, because the connection pool and the forwarder are theirs alone.
"""

from __future__ import annotations

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Problem, Response, Stage, hookimpl
from aiogate.config.definition import Definition, Upstream
from aiogate.proxy.forward import CompiledUpstream, forward
from aiogate.proxy.pool import Origin, Pool, PoolOptions


class Config(Model):
    """Nothing: everything comes from `upstream:`."""


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("reverse_proxy", Stage.UPSTREAM, Config, build, "sends the request upstream", refuses=False)


def build(config: Config, context: BuildContext) -> Middleware:
    declared = upstream_of(context.definition, context.version)
    pools = context.services.upstreams
    clock = context.services.clock
    url = declared.url
    pool = pools.lease(Origin(url.scheme, url.host, url.port), PoolOptions(connect=declared.timeouts.connect))
    upstream = compiled(declared, pool, strip=context.definition.strip_listen_path)

    async def send(exchange: Exchange) -> Response | Problem:
        began = clock.monotonic()
        answer = await forward(exchange, upstream)
        assert exchange.api is not None
        counts = exchange.api.counts
        exchange.upstream_seconds = seconds = clock.monotonic() - began
        counts.asked_upstream(seconds)
        if isinstance(answer, Problem):
            counts.upstream_failed(answer.code)
        return answer

    return Middleware(on_request=send, close=lambda: pools.release(pool))


def upstream_of(definition: Definition, version: str) -> Upstream:
    """The version's own upstream, else the API's."""
    own = definition.versions.list[version].upstream if definition.versions is not None else None
    upstream = own or definition.upstream
    assert upstream is not None, "the compiler puts this step only where there is an upstream"
    return upstream


def compiled(declared: Upstream, pool: Pool, *, strip: bool) -> CompiledUpstream:
    url = declared.url
    return CompiledUpstream(
        pool=pool,
        host_header=url.authority.encode("ascii"),
        base_path="" if url.path == "/" else url.path,
        base_query=url.query,
        strip=strip,
        preserve_host=declared.preserve_host,
        response_timeout=declared.timeouts.read,
        idle_timeout=declared.timeouts.read,
    )
