"""Keys and basic-auth users: made, shown, listed and revoked over the control API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from aiogate.cli.client import Client, asks_gateway, path_to
from aiogate.cli.htpasswd import import_users, is_there, lines_of, summary
from aiogate.cli.passwords import read_password
from aiogate.cli.printing import as_json, counted, example, joined, moment, print_json, print_pairs, print_table, safe

__all__ = ["keys", "users"]

F = TypeVar("F", bound=Callable[..., Any])


class _Parsed(click.ParamType[Any]):
    """A value of the settings' own syntax, with the parser and the hints of the settings."""

    def __init__(self, name: str, parser: str) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pydantic_core import PydanticCustomError

        from aiogate.config import units

        try:
            return getattr(units, self._parser)(value)
        except PydanticCustomError as mistake:
            hint = (mistake.context or {}).get("hint")
            self.fail(f"`{value}` {mistake.message()}" + (f" ({hint})" if hint else ""), param, ctx)


class _Expiry(click.ParamType[Any]):
    """Epoch seconds of a time, `2027-01-31T00:00:00Z`, or of a duration from now, `90d`."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value)[-1:] in ("s", "m", "h", "d"):
            return int(time.time() + _Parsed("duration", "parse_duration").convert(value, param, ctx))
        return int(_Parsed("timestamp", "parse_timestamp").convert(value, param, ctx))


def session_options(command: F) -> F:
    """The options that say what a key or user may do, its parameters the fields of `_session`."""
    rate = _Parsed("rate", "parse_rate")
    for option in (
        click.option("--org", metavar="ORG", help="Organisation [default: that of the APIs and policies]."),
        click.option("--alias", metavar="TEXT", help="A label to recognise it by."),
        click.option("--expires", type=_Expiry(), metavar="TIME", help="2027-01-31T00:00:00Z, or 90d from now."),
        click.option("--quota", type=rate, metavar="N/WINDOW", help="How many requests in a long time: 100000/30d."),
        click.option("--rate", type=rate, metavar="N/WINDOW", help="How many requests in a short time: 1000/1m."),
        click.option("--policy", "policies", multiple=True, metavar="ID", help="A policy to apply; repeatable."),
        click.option(
            "--api", "apis", multiple=True, metavar="ID[:V1,V2]", help="An API to open, or versions of it; repeatable."
        ),
    ):
        command = option(command)
    return command


def _session(
    *,
    apis: tuple[str, ...],
    policies: tuple[str, ...],
    rate: Any,
    quota: Any,
    expires: int | None,
    alias: str | None,
    org: str | None,
) -> dict[str, Any]:
    """The session's JSON, as the control API takes it."""
    if not apis and not policies:
        raise click.UsageError("it would open nothing: give --api or --policy")
    session: dict[str, Any] = {"access_rights": dict(map(_access, apis)), "apply_policies": list(policies)}
    if rate is not None:
        session |= {"rate": rate.limit, "per": rate.window}
    if quota is not None:
        if quota.window % 1:
            raise click.BadParameter("a quota is renewed after whole seconds", param_hint="--quota")
        session |= {"quota_max": quota.limit, "quota_renewal_rate": int(quota.window)}
    if expires is not None:
        session["expires"] = expires
    if alias is not None:
        session["alias"] = alias
    if org is not None:
        session["org_id"] = org
    return session


def _access(text: str) -> tuple[str, dict[str, Any]]:
    api, colon, versions = text.partition(":")
    named = [version.strip() for version in versions.split(",") if version.strip()]
    if not api or (colon and not named):
        raise click.BadParameter(f"`{text}` should be an API's id, or such as login:v1,v2", param_hint="--api")
    return api, {"api_id": api, "versions": named}


def _warn(answer: Mapping[str, Any]) -> None:
    for warning in answer.get("warnings", ()):
        click.echo(safe(f"warning: {warning}"), err=True)


@click.group(epilog=example("aiogate keys create --policy gold --alias 'Partner 7'", "aiogate keys list --api login"))
def keys() -> None:
    """Make, show, list and revoke keys."""


@keys.command("create", epilog=example("aiogate keys create --api login:v1 --rate 100/1s --quota 100000/30d"))
@session_options
@as_json
@asks_gateway
def create(gateway: Client, /, as_json: bool, **session: Any) -> None:
    """Make a key and print it. It is stored as a hash: this is the only time that it is shown."""
    answer = gateway.ask("POST", "/tyk/keys/create", _session(**session))
    if as_json:
        print_json(answer)
        return
    print_pairs([("key", answer["key"]), ("hash", answer["key_hash"])])
    _warn(answer)


@keys.command("get", epilog=example("aiogate keys get alice"))
@click.argument("key")
@click.option("--raw", is_flag=True, help="As it is stored, without its policies applied.")
@as_json
@asks_gateway
def get(gateway: Client, /, key: str, raw: bool, as_json: bool) -> None:
    """Show what KEY may do and what is left of its quota. A user is named by name, a key by its text or its hash."""
    session = gateway.get(path_to("keys", key), {"raw": "1" if raw else None})
    if as_json:
        print_json(session)
        return
    print_pairs(
        [
            ("alias", session["alias"]),
            ("organisation", session["org_id"]),
            ("state", "inactive" if session["is_inactive"] else "active"),
            ("expires", _expiry(session["expires"])),
            ("policies", joined(session["apply_policies"])),
            ("APIs", joined(_granted(session["access_rights"]))),
            ("rate", _limit(session["rate"], session["per"])),
            ("quota", _quota(session)),
            ("tags", joined(session["tags"] or ())),
        ]
    )


def _expiry(expires: int) -> str:
    # The session's own rule: a small number is a flag of Tyk's for "never".
    return moment(expires) if expires > 1 else "never"


def _granted(rights: Mapping[str, Any]) -> list[str]:
    return [f"{api} ({joined(access['versions'])})" if access["versions"] else api for api, access in rights.items()]


def _limit(count: float, window: float) -> str:
    from aiogate.config.units import format_duration

    return f"{count:g}/{format_duration(window)}" if count > 0 and window > 0 else "unlimited"


def _quota(session: Mapping[str, Any]) -> str:
    if session["quota_max"] <= 0:
        return "unlimited"
    renews = f", renewed {moment(session['quota_renews'])}" if session["quota_renews"] > 0 else ""
    return f"{session['quota_remaining']} left of {session['quota_max']}{renews}"


@keys.command("list", epilog=example("aiogate keys list --api login", "aiogate keys list --filter partner"))
@click.option("--api", metavar="ID", help="Only those that open this API, by themselves or by a policy.")
@click.option("--filter", "beginning", metavar="TEXT", help="Only those whose label begins so, or of an organisation.")
@as_json
@asks_gateway
def list_keys(gateway: Client, /, api: str | None, beginning: str | None, as_json: bool) -> None:
    """List keys and users by hash, kind and label; the keys themselves are not known any more."""
    records = gateway.get("/tyk/keys", {"api_id": api, "filter": beginning, "detail": "1"})["records"]
    if as_json:
        print_json(records)
        return
    if not records:
        click.echo("there are none")
        return
    print_table(
        ("HASH", "KIND", "ORGANISATION", "LABEL"),
        [(record["key_hash"], record["kind"], record["org_id"], record["label"]) for record in records],
    )
    click.echo(counted(len(records), "entry", "entries"), err=True)


@keys.command("revoke", epilog=example("aiogate keys revoke alice"))
@click.argument("key")
@as_json
@asks_gateway
def revoke(gateway: Client, /, key: str, as_json: bool) -> None:
    """Revoke KEY at once. A user is named by name, a key by its text or its hash."""
    answer = gateway.ask("DELETE", path_to("keys", key))
    if as_json:
        print_json(answer)
    else:
        click.echo(safe(f"revoked {answer['key']}"))


@click.group(epilog=example("aiogate users add alice --policy gold"))
def users() -> None:
    """Make basic-auth users. `aiogate keys get`, `list` and `revoke` take users too."""


@users.command("add", epilog=example("aiogate users add alice --policy gold --quota 100000/30d"))
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--replace", is_flag=True, help="Overwrite a user of this name, password and rights.")
@session_options
@as_json
@asks_gateway
def add(gateway: Client, /, name: str, password_stdin: bool, replace: bool, as_json: bool, **session: Any) -> None:
    """Make the basic-auth user NAME. The password is asked for twice and not shown."""
    body = _session(**session)
    if not replace and is_there(gateway, name, session["org"]):
        raise click.ClickException(f"{safe(name)} is there already; --replace overwrites password and rights")
    body["basic_auth_data"] = {"password": read_password(password_stdin)}
    answer = gateway.ask("POST", path_to("keys", name), body)
    if as_json:
        print_json(answer)
        return
    print_pairs([("user", answer["key"]), ("hash", answer["key_hash"])])
    _warn(answer)


@users.command("import", epilog=example("aiogate users import /etc/nginx/htpasswd --policy gold"))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Overwrite users that are there, password and rights.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@session_options
@as_json
@asks_gateway
def import_(gateway: Client, /, file: Path, replace: bool, dry_run: bool, as_json: bool, **session: Any) -> None:
    """Make the users of an htpasswd FILE, with the bcrypt or Argon2id hashes that they have there.

    All of them get the same rights. A line with another kind of hash is refused and named; the others are imported.
    """
    body = _session(**session)
    try:
        done = import_users(gateway, lines_of(file), body, replace=replace, dry_run=dry_run)
    except (OSError, ValueError) as error:
        raise click.ClickException(safe(f"{file} cannot be read: {error}")) from error
    if as_json:
        print_json([{"line": one.line, "user": one.user, "refused": one.refused} for one in done])
    else:
        for one in done:
            click.echo(str(one))
        click.echo(summary(done, dry_run=dry_run), err=True)
    if any(one.refused for one in done):
        raise click.exceptions.Exit(1)
