"""Let pages of other origins read this API (the Fetch standard's CORS protocol).

    plugins:
      - cors:
          origins: [https://app.example.com, "https://*.example.org"]
          methods: [GET, POST, DELETE]
          headers: [Content-Type, X-Tenant]
          expose: [X-RateLimit-Remaining]
          credentials: true
          max_age: 10m

A preflight is answered here, before authentication, because browsers send it without a credential. Every other response
to an allowed origin gets the headers, refusals too, so that a page can read why. An origin that is not in the list is
never repeated; what the upstream says about CORS is replaced. With `passthrough` the upstream answers preflights, which
then skip authentication.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from aiogate import (
    PROBLEMS,
    BuildContext,
    Duration,
    Exchange,
    HeaderName,
    Method,
    Middleware,
    MiddlewareKind,
    Model,
    Problem,
    Response,
    Stage,
    hookimpl,
)

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:\[[0-9a-f:]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)
_LABELS: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)
_GRANTS: Final = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Private-Network",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
)
ANY: Final = "*"


def _parse_origin(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("should be an origin, such as `https://app.example.com`")
    if value == ANY or _ORIGIN.fullmatch(value):
        return value
    if value == "null":
        raise ValueError("`null` is the origin of every sandboxed page; leave it out")
    if _ORIGIN.fullmatch(value.lower().rstrip("/")):
        raise ValueError(f"an origin is in lower case and has no path; did you mean `{value.lower().rstrip('/')}`?")
    raise ValueError("should be an origin, such as `https://app.example.com`, `https://*.example.com` or `*`")


def _any_or(value: Any, method: ValidatorFunctionWrapHandler) -> Any:
    return value if value == ANY else method(value)


class Config(Model):
    """Who may do what. `*` in `origins`, `methods` or `headers` means any and stands alone there."""

    origins: tuple[Annotated[str, BeforeValidator(_parse_origin)], ...]
    methods: tuple[Annotated[Method, WrapValidator(_any_or)], ...] = ("GET", "HEAD", "POST")
    headers: tuple[HeaderName, ...] = ("Accept", "Content-Type", "Origin", "X-Requested-With")
    expose: tuple[HeaderName, ...] = ()
    credentials: bool = False
    max_age: Duration | None = None
    passthrough: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if not self.origins:
            raise ValueError("`origins` is empty; name who may read this API, or leave `cors` out")
        for name, values in (("origins", self.origins), ("methods", self.methods), ("headers", self.headers)):
            if ANY in values and len(values) > 1:
                raise ValueError(f"`*` stands alone under `{name}`: it is everything already")
        if self.credentials and ANY in self.origins:
            raise ValueError("`credentials` with any origin would let every page act for its visitor; name the origins")
        if self.credentials and ANY in self.expose:
            raise ValueError("browsers do not take `*` for all headers where `credentials` is true; name them")
        return self


@hookimpl
def aiogate_middleware() -> MiddlewareKind:
    return MiddlewareKind(
        "cors", Stage.ENTRY, Config, build, "lets pages of other origins read this API", refuses=False
    )


def build(config: Config, context: BuildContext) -> Middleware:
    any_origin = ANY in config.origins
    exact = frozenset(config.origins)
    wild = tuple((scheme + "://", rest) for scheme, _, rest in (one.partition("://*") for one in exact) if rest)
    methods = None if ANY in config.methods else frozenset(config.methods)
    allowed_methods = ", ".join(config.methods)
    headers = None if ANY in config.headers else frozenset(name.lower() for name in config.headers)
    allowed_headers = ", ".join(config.headers)
    exposed = ", ".join(config.expose)
    max_age = "" if config.max_age is None else str(int(config.max_age))
    refusal = PROBLEMS["cors_denied"]

    def allows(origin: str) -> bool:
        if any_origin or origin in exact:
            return True
        for scheme, rest in wild:
            if origin.startswith(scheme) and origin.endswith(rest) and len(origin) > len(scheme) + len(rest):
                if _LABELS.fullmatch(origin[len(scheme) : -len(rest)]):
                    return True
        return False

    def allow_origin(response: Response, origin: str) -> None:
        response.set("Access-Control-Allow-Origin", ANY if any_origin else origin)
        if config.credentials:
            response.set("Access-Control-Allow-Credentials", "true")

    def answer(exchange: Exchange) -> Response | Problem | None:
        asked = preflight_method(exchange)
        if asked is None:
            return None
        origins = exchange.headers.getall("Origin")
        if len(origins) > 1 or not allows(origins[0]):
            return refusal.because(f"the origin {', '.join(origins)[:200]!r} is not in the list")
        if methods is not None and asked not in methods:
            return refusal.because(f"the method {asked[:40]!r} is not in the list")
        wanted = exchange.headers.getall("Access-Control-Request-Headers", ())
        names = [name.strip().lower() for line in wanted for name in line.split(",") if name.strip()]
        unknown = [name for name in names if headers is not None and name not in headers]
        if unknown:
            return refusal.because(f"the header {unknown[0][:100]!r} is not in the list")
        response = Response(204)
        allow_origin(response, origins[0])
        response.set("Access-Control-Allow-Methods", asked if methods is None else allowed_methods)
        if told := ", ".join(names) if headers is None else allowed_headers:
            response.set("Access-Control-Allow-Headers", told)
        if max_age:
            response.set("Access-Control-Max-Age", max_age)
        response.set("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
        exchange.state["cors"] = response
        return response

    def finish(exchange: Exchange, response: Response) -> None:
        if exchange.method == "OPTIONS" and preflight_method(exchange) is not None:
            if config.passthrough or exchange.state.get("cors") is response:
                return
        for name in _GRANTS:
            response.remove(name)
        if not any_origin:
            vary(response, "Origin")
        origins = exchange.headers.getall("Origin", ())
        if len(origins) == 1 and allows(origins[0]):
            allow_origin(response, origins[0])
            if exposed:
                response.set("Access-Control-Expose-Headers", exposed)

    if config.passthrough:
        # The upstream answers preflights; browsers send them without a credential.
        return Middleware(on_response=finish, opens=lambda exchange: preflight_method(exchange) is not None)
    return Middleware(on_request=answer, on_response=finish)


def preflight_method(exchange: Exchange) -> str | None:
    """The method that a preflight asks about; None for every other request."""
    if exchange.method != "OPTIONS" or "Origin" not in exchange.headers:
        return None
    return exchange.headers.get("Access-Control-Request-Method")


def vary(response: Response, name: str) -> None:
    """Say that the response depends on a request header; what `Vary` says already stays."""
    told = ", ".join(response.headers.getall("Vary", ()))
    named = {one.strip().lower() for one in told.split(",")}
    if "*" not in named and name.lower() not in named:
        response.set("Vary", f"{told}, {name}" if told else name)
