"""Send the request to the API's upstream: the last step of every chain that has one.

It is not listed under `plugins:`; `upstream:` of the API or of the version puts it there. One of the two built-ins that
look below the package root, because the connection pool and the forwarder are theirs alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aiogate import BuildContext, Exchange, Middleware, MiddlewareKind, Model, Problem, Response, Stage, hookimpl
from aiogate.config.definition import Definition
from aiogate.config.upstream import Target as DeclaredTarget
from aiogate.config.upstream import Upstream
from aiogate.config.websocket import WebSocket
from aiogate.proxy.balance import EjectionRule, Group, Target
from aiogate.proxy.forward import CompiledUpstream, forward
from aiogate.proxy.pool import Origin, Pool, PoolOptions, UpstreamPools
from aiogate.proxy.tunnel import TunnelRules


class Config(Model):
    """Nothing: everything comes from `upstream:`."""


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind("reverse_proxy", Stage.UPSTREAM, Config, build, "sends the request upstream", refuses=False)


def build(config: Config, context: BuildContext) -> Middleware:
    place, declared = upstream_of(context.definition, context.version)
    pools = context.services.upstreams
    clock = context.services.clock
    made = Leases(pools, context, place, declared)
    upstream = compiled(declared, made, context.definition)

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

    return Middleware(on_request=send, close=made.release)


def upstream_of(definition: Definition, version: str) -> tuple[str, Upstream]:
    """The version's own upstream under its name, else the API's under an empty one."""
    own = definition.versions.list[version].upstream if definition.versions is not None else None
    upstream = own or definition.upstream
    assert upstream is not None, "the compiler puts this step only where there is an upstream"
    return (version if own is not None else ""), upstream


class Leases:
    """The connections that one compiled API has a share in, until `release`."""

    def __init__(self, pools: UpstreamPools, context: BuildContext, place: str, declared: Upstream) -> None:
        self._pools = pools
        self._context = context
        self._place = place
        definition = context.definition
        keepalive = declared.keepalive
        self._options = PoolOptions(
            connect=declared.timeouts.connect,
            connections=keepalive.connections,
            queue=keepalive.queue,
            wait=keepalive.wait,
            idle=keepalive.idle,
            guarded=definition.written_by_api,
        )
        self._trust = definition.trust.get(place)
        self._leased: list[Pool] = []
        # Equal for the versions of one API that share its upstream, and for an API that a reload changes elsewhere.
        self._key = (definition.id, place, declared, self._trust, self._options)
        self._grouped = False

    def target(self, declared: DeclaredTarget) -> Target:
        """One server, with its pool."""
        url = declared.url
        options = replace(self._options, trust=self._trust) if url.scheme == "https" else self._options
        pool = self._pools.lease(Origin(url.scheme, url.host, url.port, url.socket), options)
        self._leased.append(pool)
        base_path = "" if url.path == "/" else url.path
        return Target(pool, url.authority, base_path, url.query, weight=declared.weight)

    def group(self, declared: Upstream) -> Group:
        """All servers of an upstream that has several."""
        ejection = declared.ejection
        rule = EjectionRule(ejection.failures, ejection.period, ejection.at_most, frozenset(ejection.statuses))
        group = self._pools.groups.lease(
            self._key,
            lambda: Group(
                [self.target(target) for target in declared.targets],
                self._context.services.clock,
                least_requests=declared.balance == "least_requests",
                rule=rule,
                api=self._context.definition.id,
                version=self._place,
            ),
        )
        self._grouped = True
        if not self._leased:
            # Somebody else made the group; its pools must live as long as the last who uses it.
            for target in group.targets:
                self._leased.append(self._pools.lease(target.pool.origin, target.pool.options))
        return group

    def release(self) -> None:
        """Give everything back."""
        if self._grouped:
            self._pools.groups.release(self._key)
        for pool in self._leased:
            self._pools.release(pool)


def compiled(declared: Upstream, leases: Leases, definition: Definition) -> CompiledUpstream:
    """An upstream as requests meet it. A lone target is no group: there is nothing to choose."""
    group = leases.group(declared) if len(declared.targets) > 1 else None
    timeouts = declared.timeouts
    return CompiledUpstream(
        target=group.targets[0] if group is not None else leases.target(declared.listed[0]),
        group=group,
        strip=definition.strip_listen_path,
        preserve_host=declared.preserve_host,
        response_timeout=timeouts.read,
        idle_timeout=timeouts.read,
        write_timeout=timeouts.write,
        total=timeouts.total,
        tunnels=rules_of(definition.websocket, definition.upgrades),
    )


def rules_of(declared: WebSocket, others: Iterable[str]) -> TunnelRules:
    return TunnelRules(
        protocols=frozenset(("websocket", *others)),
        connections=declared.connections,
        idle=declared.idle,
        ping=declared.ping,
        lifetime=declared.lifetime,
        max_frame=declared.max_frame,
        max_message=declared.max_message,
    )
