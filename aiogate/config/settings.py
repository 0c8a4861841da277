"""The settings of the process: flags beat the environment beats `aiogate.yaml`; every key is optional.

The environment sets any key as `AIOGATE_<KEY>` or `AIOGATE_<SECTION>__<KEY>`; lists are separated by commas.
`AIOGATE_SECRET` is another name for `AIOGATE_CONTROL__SECRET`. A variable with our prefix that sets nothing is a
mistake like any other: its diagnostics have `environment` for a file, those of flags `command line`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo

from aiogate.config import files
from aiogate.config.addresses import Address, parse_address
from aiogate.config.diagnose import diagnostics_of, did_you_mean
from aiogate.config.listening import Listen, Listens
from aiogate.config.model import Model, mistake
from aiogate.config.redis_url import is_redis_url, parse_redis_url
from aiogate.config.source import Path as YamlPath
from aiogate.config.source import Source, examine, show_path
from aiogate.config.units import Duration, Rate, Size
from aiogate.config.variables import Unresolved, Variables, expand, without_echo
from aiogate.errors import Diagnostic, DiagnosticsFound, Position

__all__ = [
    "Address",
    "Control",
    "FailureLimits",
    "Limits",
    "LimitsWithoutStore",
    "Network",
    "Passwords",
    "Redis",
    "Sessions",
    "Settings",
    "SettingsMistaken",
    "Timeouts",
    "load_settings",
    "where_state_is",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ENVIRONMENT: Final = "environment"
COMMAND_LINE: Final = "command line"
_PREFIX: Final = "AIOGATE_"
_SECRET_ALIAS: Final = "AIOGATE_SECRET"  # noqa: S105  # the variable's name
_SHORTEST_SECRET: Final = 16
_WELL_KNOWN: Final = frozenset(
    (
        "352d20ee67be67f6340b4c0605b044b7",
        "admin",
        "aiogate",
        "changeme",
        "change-me",
        "default",
        "password",
        "secret",
        "test",
        "tyk",
        "0123456789abcdef",
        "1234567890123456",
    )
)
_SECRET_WORDS: Final = "leave it out, and one is made at the first start; or use `openssl rand -hex 24`"  # noqa: S105  # prose


def _parse_control_listen(value: Any) -> Any:
    return "same" if value == "same" else parse_address(value)


def _parse_secret(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise mistake("secret_weak", "should be text", "quote it")
    if value.strip().lower() in _WELL_KNOWN or len(set(value)) < 5:
        raise mistake("secret_weak", "is empty or widely known", _SECRET_WORDS)
    if len(value) < _SHORTEST_SECRET:
        raise mistake("secret_weak", f"is shorter than {_SHORTEST_SECRET} characters", _SECRET_WORDS)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise mistake("invalid_value", "holds a character that a header cannot carry", "use letters and digits")
    return value


def _parse_store(value: Any) -> Any:
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be the name of a store", "such as `sqlite`")
    if value in ("sqlite", "memory"):
        return value
    if is_redis_url(value):
        try:
            parse_redis_url(value)
        except ValueError as error:
            # The URL may hold a password: it is not shown.
            raise mistake(
                "store_unknown", f"is a Redis URL that {error}", "such as `redis://127.0.0.1:6379/0`"
            ) from error
        return value
    scheme = value.partition(":")[0].lower()
    raise mistake("store_unknown", "is not a store", did_you_mean(scheme, ("sqlite", "memory", "redis")))


def _parse_share(value: Any) -> Any:
    text = str(value).replace(" ", "")
    above, slash, below = text.partition("/")
    if text == "auto":
        return text
    if isinstance(value, bool) or not (above.isascii() and above.isdigit() and (not slash or below.isdigit())):
        raise mistake("invalid_value", "is not a share", "`auto`, or a fraction such as `1/3`")
    if not 0 < int(above) <= int(below or 1) <= 10_000:
        raise mistake("invalid_value", "is not a share between 0 and 1", "such as `1/3`")
    return text


def _parse_workers(value: Any) -> Any:
    if value == "auto":
        return _cores()
    return _parse_whole(value)


def _parse_whole(value: Any) -> Any:
    """A whole number; from the environment it arrives as text."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise mistake("wrong_type", "should be a whole number")
    return value


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parse_networks(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return () if value is None else value


def _parse_network(value: Any) -> Network:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str):
        raise mistake("wrong_type", "should be an address or a network", "such as `10.0.0.0/8`")
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        try:
            hint = f"did you mean `{ipaddress.ip_network(value, strict=False)}`?"
        except ValueError:
            hint = "such as `10.0.0.0/8` or `::1`"
        raise mistake("invalid_value", "is not a network", hint, show=True) from error


def _parse_file(value: Any) -> Any:
    return None if value is None else _parse_path(value)


def _parse_path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise mistake("wrong_type", "should be the path of a folder")
    return Path(value)


_Whole = BeforeValidator(_parse_whole)
_Folder = Annotated[Path, BeforeValidator(_parse_path)]


class Control(Model):
    """The management side."""

    listen: Annotated[Address | Literal["same"], BeforeValidator(_parse_control_listen)] = Address("127.0.0.1", 8081)
    """Its own address, or `same` for the gateway's."""
    secret: Annotated[
        str | None,
        BeforeValidator(_parse_secret),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"^[!-~]{{{_SHORTEST_SECRET},}}$"}, {"type": "null"}]}),
    ] = Field(default=None, repr=False)
    """What authorises control calls; None: made at the first start and kept in `<state>/control.secret`."""
    metrics: Literal["open", "secret"] = "open"
    """Who may read `/metrics`: whoever reaches the port, or has the secret. With `listen: same` the latter."""
    private_upstreams: bool = True
    """Whether APIs that are written through the control API may lead to private and loopback addresses."""


def _parse_format(value: Any) -> Any:
    return "off" if value is False else value  # YAML's `off` may be a boolean


class AccessLog(Model):
    """What is written about each request."""

    format: Annotated[Literal["off", "json", "combined"], BeforeValidator(_parse_format)] = "off"
    """`json`: one object a line; `combined`: as Apache and nginx do; `off`: nothing."""
    file: str = Field(default="-", min_length=1)
    """Where to: a path, or `-` for standard output. Opened anew at each reload."""
    query: bool = False
    """Whether queries are logged; the values of credentials in them are not."""


class Timeouts(Model):
    """How long the gateway waits for a client, in seconds."""

    client_header: Annotated[Duration, Field(gt=0)] = 10.0
    """From the first byte of a request (or the opening of the connection) to the end of its header block."""
    client_body: Annotated[Duration, Field(gt=0)] = 30.0
    """Without a byte of the body."""
    keepalive: Annotated[Duration, Field(gt=0)] = 75.0
    """Between two requests on one connection."""
    drain: Duration = 30.0
    """For running requests when the gateway stops; then they are cut."""
    send_stall: Annotated[Duration, Field(gt=0)] = 30.0
    """Without progress in sending a response to a client that does not read."""


class Limits(Model):
    """What one client may ask of the process."""

    header_bytes: Annotated[Size, Field(ge=1024, le=1024 * 1024)] = 64 * 1024
    """The request line and all headers together; 1 KiB to 1 MiB. More is answered with 431."""
    connections: Annotated[int, _Whole, Field(ge=1, le=1_000_000)] = 10_000
    """Open client connections of one process; further ones are answered with 503."""


class Passwords(Model):
    """How passwords of basic-auth users are hashed and verified."""

    algorithm: Literal["bcrypt", "argon2id"] = "bcrypt"
    """What new passwords are hashed by; the latter needs the extra `argon2`. Existing hashes are verified by theirs."""
    cost: Annotated[int, _Whole, Field(ge=4, le=16)] = 10
    """bcrypt's cost of new hashes; each step doubles the time. Existing hashes keep theirs."""
    cache: Duration = 60.0
    """Seconds for which a verified password is not verified again; 0s: each request pays."""


class Redis(Model):
    """How a Redis store is spoken to."""

    timeout: Annotated[Duration, Field(ge=0.001, le=10)] = 0.05
    """What a request waits for an answer, in seconds; then the store is away for it."""
    connect_timeout: Annotated[Duration, Field(ge=0.01, le=60)] = 1.0
    """For a new connection; no request waits for it."""
    prefix: str = Field(default="aiogate:", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    """What every key begins with. Gateways with one prefix share their state."""
    ca: Annotated[Path | None, BeforeValidator(_parse_file)] = None
    """Certificates to trust instead of the system's, for `rediss`."""


class Sessions(Model):
    """How long sessions of a store that others write too are believed."""

    cache: Duration = 10.0
    """Seconds for which a session that was read is not read again: a revocation elsewhere holds by then."""
    stale: Duration = 300.0
    """Seconds for which a session that was read is used on while the store is away."""


class LimitsWithoutStore(Model):
    """What becomes of limits while the store cannot be asked."""

    rate: Literal["local", "deny", "allow"] = "local"
    """`local`: counted in this process; `deny`: 503; `allow`: let through."""
    quota: Literal["local", "deny", "allow"] = "deny"
    """The same for quotas."""
    share: Annotated[str, BeforeValidator(_parse_share)] = "auto"
    """This gateway's part of a limit that is counted locally: a fraction, or `auto`, one of the gateways last seen."""


def _parse_off(value: Any) -> Any:
    return None if value is False or value == "off" else value  # YAML's `off` may be a boolean


_RateOrOff = Annotated[Rate | None, BeforeValidator(_parse_off)]


class FailureLimits(Model):
    """How often a client may present wrong credentials before it is refused unheard, at all APIs together."""

    user: _RateOrOff = Rate(10, 60.0)
    """Of one basic-auth user, or one OAuth client, from one address."""
    address: _RateOrOff = Rate(100, 60.0)
    """From one address (of IPv6: one /64): of all users and clients, and of keys that differ."""


class _Places:
    """Where the keys of settings stand. Settings from two places are equal when they say the same."""

    __slots__ = ("locate",)

    def __init__(self, source: Source) -> None:
        self.locate = source.locate

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Places)

    __hash__ = None  # type: ignore[assignment]  # as for everything mutable


class Settings(Model):
    """The settings in force. Folders are relative to the settings file's folder, or to the working directory."""

    listen: Listens = (Listen(address=Address("127.0.0.1", 8080)),)
    """Where the gateway takes requests: an address, one with `tls` or `proxy_protocol`, or a list of both."""
    control: Control = Control()
    state: _Folder = Path("var")
    """The store's file, generated secrets, the process id."""
    store: Annotated[str, BeforeValidator(_parse_store)] = "sqlite"
    """`sqlite` (in `state`) or `memory`, which serve one gateway, or the URL of a Redis."""
    redis: Redis = Redis()
    sessions: Sessions = Sessions()
    limits_without_store: LimitsWithoutStore = LimitsWithoutStore()
    apis: _Folder = Path("apis.d")
    policies: _Folder = Path("policies.d")
    plugins: _Folder = Path("plugins")
    workers: Annotated[int, BeforeValidator(_parse_workers), Field(ge=1, le=1024)] = 1
    """Processes that take requests; `auto` is one per core."""
    watch: bool = False
    """Whether a change of a declared file, of a plugin or of the settings file reloads by itself."""
    trusted_proxies: Annotated[
        tuple[Annotated[Network, BeforeValidator(_parse_network)], ...], BeforeValidator(_parse_networks)
    ] = ()
    """Networks whose `X-Forwarded-*` and `Forwarded` headers, and PROXY headers, are believed."""
    access_log: AccessLog = AccessLog()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    quota_status: Annotated[Literal[403, 429], _Whole] = 403
    """The status of a refusal by quota."""
    passwords: Passwords = Passwords()
    failures: FailureLimits = FailureLimits()
    _file: Path | None = PrivateAttr(default=None)
    _places: _Places = PrivateAttr(default=_Places(Source("", {}, raw={})))

    @property
    def file(self) -> Path | None:
        """The file that these were read from; None: there was none."""
        return self._file

    def place(self, *path: str | int) -> Position:
        """Where a key stands, for what is found out about its value later."""
        return self._places.locate(path)


class SettingsMistaken(DiagnosticsFound):
    """Settings that cannot be used.

    `readable` has their defaults where the mistakes are: enough to look at the declared files too, in the same breath.
    None: the file cannot be read at all, and where those files are cannot be said.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic], readable: Settings | None) -> None:
        super().__init__(diagnostics)
        self.readable = readable


def load_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    instead: Path | None = None,
) -> Settings:
    """The settings from a file (None: there is none), the environment and flags.

    `flags` has keys such as `listen` or `control.listen`; a value of None was not given. `instead` is a copy that is
    read in place of the file: folders are relative to the file all the same. Raises `SettingsMistaken`, a
    `DiagnosticsFound`, with every mistake in all three.
    """
    environ = os.environ if environ is None else environ
    variables = Variables(environ, files.read_secret)
    found: list[Diagnostic] = []
    source = Source(ENVIRONMENT, {}, raw={})
    missing: list[Diagnostic] = []
    names: dict[YamlPath, str] = {}
    parsed = True
    if file is not None:
        try:
            read = instead or file
            source, found = examine(str(read), files.read_bytes(read), may_be_empty=True)
            source, missing = expand(source, variables)
        except DiagnosticsFound as unreadable:
            found.extend(unreadable.diagnostics)
            parsed = False
    for layer in (*_from_environment(environ, variables, found), *_from_flags(flags or {})):
        source = _overlaid(source, layer)
        names[layer.path] = layer.name
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(source.value)
    except ValidationError as error:
        found.extend(diagnostics_of(error, source))
    missing = [one for one in missing if tuple(one.path.split(".")) not in names]
    found = without_echo(found, missing)
    if settings is not None:
        found.extend(_contradictions(settings, source))
    found = [_naming(one, names) for one in found]
    base = file.parent if file is not None else Path()
    if found or settings is None:
        readable = _readable(source) if parsed else None
        raise SettingsMistaken(found, _placed(readable, file, base, source) if readable is not None else None)
    return _placed(settings, file, base, source)


def _readable(source: Source) -> Settings | None:
    """The settings without the keys that have mistakes; None where a folder is among them."""
    value = source.value
    for _ in range(2):
        try:
            return Settings.model_validate(value)
        except ValidationError as error:
            mistaken = {detail["loc"][0] for detail in error.errors(include_url=False) if detail["loc"]}
            if mistaken & {*_FOLDERS}:
                return None
            value = {key: inner for key, inner in value.items() if key not in mistaken}
    return None


def _placed(settings: Settings, file: Path | None, base: Path, source: Source) -> Settings:
    """The settings with their paths as seen from the working directory."""
    access_log = settings.access_log
    if access_log.file != "-":
        access_log = access_log.model_copy(update={"file": str(base / access_log.file)})
    redis = settings.redis
    if redis.ca is not None:
        redis = redis.model_copy(update={"ca": base / redis.ca})
    folders = {key: base / getattr(settings, key) for key in _FOLDERS}
    listen = tuple(one.below(base) for one in settings.listen)
    placed = {**folders, "access_log": access_log, "redis": redis, "listen": listen}
    settings = settings.model_copy(update=placed)
    settings._file = file
    settings._places = _Places(source)
    return settings


def where_state_is(file: Path | None, environ: Mapping[str, str] | None, flags: Mapping[str, object]) -> Path:
    """The state folder, also of settings that have mistakes elsewhere; the default where it cannot be said."""
    environ = os.environ if environ is None else environ
    base = file.parent if file is not None else Path()
    declared: object = flags.get("state") or environ.get("AIOGATE_STATE")
    if not declared and file is not None:
        try:
            source, _ = examine(str(file), files.read_bytes(file), may_be_empty=True)
            declared = expand(source, Variables(environ, files.read_secret))[0].value.get("state")
        except DiagnosticsFound:
            declared = None
    return base / (declared if isinstance(declared, (str, Path)) and declared else Settings().state)


_FOLDERS: Final = ("state", "apis", "policies", "plugins")


def _contradictions(settings: Settings, source: Source) -> Iterator[Diagnostic]:
    """What one key says about another."""
    if settings.workers > 1 and settings.store in ("sqlite", "memory"):
        yield Diagnostic.at(
            source.locate(("workers",)),
            "store_workers",
            f"{settings.workers} workers cannot share the store `{settings.store}`",
            "say `workers: 1`, or keep state in Redis: `store: redis://…`",
            "workers",
        )
    if settings.passwords.algorithm == "argon2id" and find_spec("argon2") is None:
        place: YamlPath = ("passwords", "algorithm")
        hint = "pip install 'aiogate[argon2]'"
        yield Diagnostic.at(
            source.locate(place),
            "invalid_value",
            "`argon2id` needs the extra `argon2`",
            hint,
            ".".join(map(str, place)),
        )
    addresses = [one.address for one in settings.listen]
    if settings.control.listen != "same":
        addresses.append(settings.control.listen)
    for index, address in enumerate(addresses):
        if address.port and address in addresses[:index]:
            path: YamlPath = ("listen", index, "address") if index < len(settings.listen) else ("control", "listen")
            hint = "for one port say `control: {listen: same}`" if path[0] == "control" else "remove one"
            message = f"`{address}` is listened on twice"
            yield Diagnostic.at(source.locate(path), "invalid_value", message, hint, show_path(source.existing(path)))
    for index, one in enumerate(settings.listen):
        if one.proxy_protocol and not settings.trusted_proxies:
            path = ("listen", index, "proxy_protocol")
            message = "`proxy_protocol` lets nobody in: `trusted_proxies` is empty"
            hint = "name the addresses of the proxies under `trusted_proxies`"
            yield Diagnostic.at(source.locate(path), "invalid_value", message, hint, show_path(source.existing(path)))


@dataclass(frozen=True, slots=True)
class _Layer:
    """One key that something other than the file sets; `name` is the variable or the flag."""

    path: YamlPath
    name: str
    value: Any
    raw: Any
    position: Position


def _naming(found: Diagnostic, names: Mapping[YamlPath, str]) -> Diagnostic:
    """A diagnostic of a place without lines, with the name of the variable or flag that it is about."""
    if found.line:
        return found
    path = tuple(found.path.split("."))
    name = next((names[path[:length]] for length in range(len(path), 0, -1) if path[:length] in names), None)
    return found if name is None else replace(found, message=f"{name}: {found.message}")


def _from_environment(environ: Mapping[str, str], variables: Variables, found: list[Diagnostic]) -> Iterator[_Layer]:
    """The keys that the environment sets. What sets none goes to `found`."""
    known = {_PREFIX + "__".join(path).upper(): path for path in _keys(Settings)}
    secret = "AIOGATE_CONTROL__SECRET"  # noqa: S105  # the variable's name
    for name in sorted(name for name in environ if name.startswith(_PREFIX)):
        path = known[secret] if name == _SECRET_ALIAS else known.get(name)
        position = Position(ENVIRONMENT)
        if path is None:
            hint = did_you_mean(name, (*known, _SECRET_ALIAS))
            found.append(Diagnostic.at(position, "unknown_key", f"{name} sets nothing", hint, name))
            continue
        if name == _SECRET_ALIAS and environ.get(secret, environ[name]) != environ[name]:
            message = f"{_SECRET_ALIAS} and {secret} differ"
            found.append(Diagnostic.at(position, "invalid_value", message, "set one of them", name))
        try:
            yield _Layer(path, name, variables.expand_text(environ[name], {}), environ[name], position)
        except Unresolved as problem:
            found.append(Diagnostic.at(position, problem.code, f"{name}: {problem.message}", problem.hint, name))


def _keys(model: type[Model], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key that is no section."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is None:
            yield (*prefix, name)
        else:
            yield from _keys(section, (*prefix, name))


def _section(field: FieldInfo) -> type[Model] | None:
    if get_origin(field.annotation) is tuple:
        return None
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Model):
            return kind
    return None


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Layer]:
    for name, value in flags.items():
        if value is not None:
            given = list(value) if isinstance(value, tuple) else value
            yield _Layer(tuple(name.split(".")), name, given, given, Position(COMMAND_LINE))


def _overlaid(source: Source, layer: _Layer) -> Source:
    """The source with one value from elsewhere laid over its own."""
    path = layer.path
    return replace(
        source,
        value=_put(source.value, path, layer.value),
        raw=_put(source.raw, path, layer.raw),
        overrides=((path, layer.position), *(other for other in source.overrides if other[0] != path)),
    )


def _put(tree: Any, path: YamlPath, value: Any) -> Any:
    if not path:
        return value
    branch = tree if isinstance(tree, dict) else {}
    return {**branch, path[0]: _put(branch.get(path[0]), path[1:], value)}
