"""What the running gateway is asked: to reload, how it is, where requests go, and why one was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from aiogate.cli.client import Client, Refused, asks_gateway, path_to
from aiogate.cli.printing import (
    as_json,
    counted,
    diagnostic_line,
    example,
    joined,
    moment,
    print_json,
    print_pairs,
    print_table,
    safe,
    seconds,
)

__all__ = ["chain", "plugins", "reload", "routes", "shadow", "status", "why"]

_RELOAD_PATIENCE = 300.0


@click.command(epilog=example("aiogate reload", "aiogate reload --group"))
@click.option("--group", is_flag=True, help="Call all gateways on the same Redis; the verdict is of this one.")
@as_json
@asks_gateway
def reload(gateway: Client, /, group: bool, as_json: bool) -> None:
    """Ask the running gateway to read its files again, and wait for the verdict.

    Any mistake refuses the reload: it is printed, the exit code is 1, and the gateway goes on with what it serves.
    """
    path = "/tyk/reload/group" if group else "/tyk/reload"
    try:
        verdict = gateway.get(path, {"block": "true"}, _RELOAD_PATIENCE)
    except Refused as refused:
        if refused.status != 422:
            raise
        verdict = refused.body
    if as_json:
        print_json(verdict)
    elif verdict["ok"]:
        click.echo(safe(f"generation {verdict['generation']} serves: {_change(verdict['changed'])}"))
        if waiting := verdict["changed"]["restart_needed"]:
            click.echo(safe(f"waiting for the next start of the gateway: {joined(waiting)}"))
    else:
        _print_diagnostics(verdict["diagnostics"])
        count = counted(len(verdict["diagnostics"]), "problem")
        click.echo(f"reload refused: {count}; generation {verdict['generation']} keeps serving")
    if not verdict["ok"]:
        raise click.exceptions.Exit(1)


def _change(changed: Mapping[str, Any]) -> str:
    parts = [f"{name} {joined(changed[name])}" for name in ("added", "changed", "removed") if changed[name]]
    if changed["policies"]:
        parts.append("policies changed")
    if changed["certificates"]:
        parts.append(f"certificates of {joined(changed['certificates'])} changed")
    return "; ".join(parts) or "nothing changed"


def _print_diagnostics(diagnostics: Sequence[Mapping[str, Any]]) -> None:
    for found in diagnostics:
        click.echo(diagnostic_line(found))


@click.command(epilog=example("aiogate status", "aiogate status --json"))
@as_json
@asks_gateway
def status(gateway: Client, /, as_json: bool) -> None:
    """Show what the running gateway serves, since when, and how its last reload ended."""
    shown = gateway.get("/api/system/status")
    nodes = gateway.get("/api/system/nodes")["nodes"]
    if as_json:
        shown["nodes"] = nodes
        print_json(shown)
        return
    verdict = shown["last_reload"]
    print_pairs(
        [
            ("generation", f"{shown['generation']}, since {moment(shown['since'])}"),
            ("process", f"{shown['pid']}, version {shown['version']}, since {moment(shown['started'])}"),
            ("state", "draining: it stops when the running requests have ended" if shown["draining"] else "serving"),
            ("workers", shown["workers"]),
            ("APIs", shown["apis"]),
            ("policies", shown["policies"]),
            ("store", shown["store"]),
            ("gateway", joined(shown["listen"])),
            ("control", shown["control"]),
            ("requests", _traffic(shown)),
            ("fallback", shown["fallback"]),
            ("last reload", _verdict(verdict)),
            *(("ejected", _ejected(target)) for target in shown["ejected"]),
        ]
    )
    if verdict is not None:
        _print_diagnostics(verdict["diagnostics"])
    if len(nodes) > 1:
        click.echo()
        _print_nodes(nodes)


def _print_nodes(nodes: Sequence[Mapping[str, Any]]) -> None:
    print_table(
        ("NODE", "HOST", "PROCESS", "VERSION", "GENERATION", "LAST RELOAD", "HEALTH", "SEEN"),
        [
            (
                f"{node['id']} (this one)" if node["own"] else node["id"],
                node["host"],
                node["pid"],
                node["version"],
                node["generation"],
                "ok" if node["last_reload_ok"] else "refused",
                node["health"],
                f"{node['seen_seconds_ago']:g} s ago",
            )
            for node in nodes
        ],
    )


def _ejected(target: Mapping[str, Any]) -> str:
    version = f", version {target['version']}" if target["version"] else ""
    return f"{target['target']} of API {target['api']}{version}, for {seconds(target['seconds'])} more"


def _traffic(shown: Mapping[str, Any]) -> str:
    parts = [f"{shown['requests_running']} running", counted(shown["connections"], "connection")]
    return ", ".join([*parts, counted(shown["tunnels"], "WebSocket")] if shown["tunnels"] else parts)


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "none since the start"
    when = f"at {moment(verdict['at'])}, by {verdict['reason']}, in {seconds(verdict['seconds'])}"
    if verdict["ok"]:
        return f"accepted {when}: {_change(verdict['changed'])}"
    problems = counted(len(verdict["diagnostics"]), "problem")
    return f"refused {when}: {problems}; generation {verdict['generation']} keeps serving"


@click.command(epilog=example("aiogate routes", "aiogate routes --match 'GET /login-api/users' --host api.example.com"))
@click.option("--match", "asked", metavar="'GET /PATH'", help="Show which API would take such a request, and why.")
@click.option("--host", metavar="HOST", help="Host of the request that is matched.")
@as_json
@asks_gateway
def routes(gateway: Client, /, asked: str | None, host: str | None, as_json: bool) -> None:
    """Show the route table, or what becomes of one request (exit code 1: no API takes it)."""
    if asked is None:
        if host is not None:
            raise click.UsageError("--host says more about a request: give --match too")
        _show_routes(gateway.get("/tyk/routes"), as_json)
        return
    method, path = _request_line(asked)
    shown = gateway.get("/tyk/routes", {"method": method, "path": path, "host": host})
    match = shown["match"]
    if as_json:
        print_json(match)
    else:
        print_pairs(
            [
                ("API", match["api"] or "none"),
                ("listens on", match["listen_path"]),
                ("left of the path", match["tail"]),
                ("version", match["version"]),
                ("steps", joined(match["steps"])),
                ("why", match["reason"]),
            ]
        )
    if not match["api"]:
        raise click.exceptions.Exit(1)


def _request_line(text: str) -> tuple[str, str]:
    method, _, path = text.strip().rpartition(" ")
    if not path.startswith("/") or " " in method.strip():
        raise click.BadParameter("should be a method and a path, such as 'GET /login-api/'", param_hint="--match")
    return method.strip().upper() or "GET", path


def _show_routes(shown: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    if not shown["routes"]:
        click.echo(f"generation {shown['generation']} serves no API")
        return
    print_table(
        ("HOST", "PATH", "API", "AUTH", "VERSIONS", "UPSTREAM", "FILE"),
        [
            (
                route["host"],
                route["listen_path"],
                route["api"],
                route["auth"],
                joined(route["versions"]),
                route["upstream"],
                route["file"],
            )
            for route in shown["routes"]
        ],
    )


@click.command(epilog=example("aiogate chain login"))
@click.argument("api")
@as_json
@asks_gateway
def chain(gateway: Client, /, api: str, as_json: bool) -> None:
    """Show the middleware of API in the order in which a request meets it, version by version."""
    chains = gateway.get(path_to("chains", api))
    if as_json:
        print_json(chains)
        return
    for index, shown in enumerate(chains):
        if index:
            click.echo()
        click.echo(safe(f"{shown['api']}, version {shown['version']}"))
        print_table(
            ("STAGE", "STEP", "MODE", "MATCH", "FROM", "RULE"),
            [
                (step["stage"], step["name"], step["mode"], step["match"], step["source"], step["rule"])
                for step in shown["steps"]
            ],
        )


@click.command(epilog=example("aiogate why f0420bfbc825-00000004"))
@click.argument("request_id")
@as_json
@asks_gateway
def why(gateway: Client, /, request_id: str, as_json: bool) -> None:
    """Show why the request REQUEST_ID was refused. The id is in the reply's body and in its header X-Request-Id."""
    try:
        decision = gateway.get(path_to("decisions", request_id))
    except Refused as refused:
        if refused.status != 404:
            raise
        raise click.ClickException(
            f"there is no record of {safe(request_id)}: only refusals by the gateway are recorded, "
            "and the last 10000 are kept"
        ) from refused
    if as_json:
        print_json(decision)
        return
    session = decision["session"]
    print_pairs(
        [
            ("request", decision["request_id"]),
            ("what", _what(decision)),
            ("API", joined(filter(None, (decision["api"], _version(decision["version"]))))),
            ("step", decision["step"] + (f" ({decision['stage']})" if decision["stage"] else "")),
            ("rule", decision["rule"]),
            ("client got" if not decision["shadow"] else "would get", _answer(decision)),
            ("reason", decision["reason"]),
            ("session", f"{decision['label']} {session}".strip()),
            ("client", decision["client_ip"]),
            ("time", f"{moment(decision['at'])}, generation {decision['generation']}"),
        ]
    )


def _what(decision: Mapping[str, Any]) -> str:
    fate = "let through by a rule in shadow mode that would have refused it" if decision["shadow"] else "refused"
    return f"{decision['method']} {decision['path']} was {fate}"


def _version(version: str) -> str:
    return f"version {version}" if version else ""


def _answer(decision: Mapping[str, Any]) -> str:
    return f"{decision['status']} {decision['code']}: {decision['message']}"


@click.command(epilog=example("aiogate shadow", "aiogate shadow login --json"))
@click.argument("api", required=False)
@as_json
@asks_gateway
def shadow(gateway: Client, /, api: str | None, as_json: bool) -> None:
    """Show what rules in shadow mode would have refused, of all APIs or of API."""
    shown = gateway.get("/tyk/shadow", {"api": api})
    if as_json:
        print_json(shown)
        return
    if not shown["rules"]:
        click.echo("no rule in shadow mode would have refused a request")
        return
    print_table(
        ("COUNT", "LAST", "API", "STEP", "CODE", "RULE"),
        [
            (rule["count"], moment(rule["last"]), rule["api"], rule["step"], rule["code"], rule["rule"])
            for rule in shown["rules"]
        ],
    )


@click.group(epilog=example("aiogate plugins list"))
def plugins() -> None:
    """Show what plugins the running gateway has loaded."""


@plugins.command("list", epilog=example("aiogate plugins list --json"))
@as_json
@asks_gateway
def list_plugins(gateway: Client, /, as_json: bool) -> None:
    """List the loaded plugins, and where each is from."""
    shown = gateway.get("/tyk/plugins")
    if as_json:
        print_json(shown)
        return
    print_table(
        ("PLUGIN", "PROVIDES", "FROM", "SUMMARY"),
        [(plugin["name"], joined(plugin["kinds"]), plugin["source"], plugin["summary"]) for plugin in shown],
    )
