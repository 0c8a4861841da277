"""What plugin authors import. Everything here is promised: it is documented in `docs/plugins.md`, and a test checks
that.

from aiogate import Exchange, Middleware, MiddlewareKind, Model, Problem, Stage, hookimpl
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aiogate.chain.contracts import (
        Authenticator,
        AuthenticatorKind,
        BuildContext,
        Middleware,
        MiddlewareKind,
        Services,
        Stage,
    )
    from aiogate.chain.exchange import BodyStream, Exchange, RequestBody, Response
    from aiogate.chain.hookspecs import Lifecycle
    from aiogate.config.headers import EditableHeader, HeaderName, HeaderValue
    from aiogate.config.match import Method, PathEntry, PathTable
    from aiogate.config.model import Model
    from aiogate.config.units import Capture, Duration, Pattern, Rate, Size, Timestamp, format_timestamp
    from aiogate.credentials.certificates import ClientCertificate
    from aiogate.credentials.jose import Token
    from aiogate.credentials.oauth import OAuthClient, OAuthGrant, OAuthIssued
    from aiogate.credentials.oauth_rules import OAuthRules
    from aiogate.credentials.places import Places
    from aiogate.credentials.rights import TokenRights
    from aiogate.domain.limits import Bucket
    from aiogate.domain.session import Grant, Session
    from aiogate.errors import PROBLEMS, Problem
    from aiogate.markers import hookimpl
    from aiogate.stores.repositories import LookupFailure

__version__ = "0.1.0"

__all__ = [
    "PROBLEMS",
    "Authenticator",
    "AuthenticatorKind",
    "BodyStream",
    "Bucket",
    "BuildContext",
    "Capture",
    "ClientCertificate",
    "Duration",
    "EditableHeader",
    "Exchange",
    "Grant",
    "HeaderName",
    "HeaderValue",
    "Lifecycle",
    "LookupFailure",
    "Method",
    "Middleware",
    "MiddlewareKind",
    "Model",
    "OAuthClient",
    "OAuthGrant",
    "OAuthIssued",
    "OAuthRules",
    "PathEntry",
    "PathTable",
    "Pattern",
    "Places",
    "Problem",
    "Rate",
    "RequestBody",
    "Response",
    "Services",
    "Session",
    "Size",
    "Stage",
    "Timestamp",
    "Token",
    "TokenRights",
    "format_timestamp",
    "hookimpl",
]

_MODULES: Final = (
    "chain.contracts",
    "chain.exchange",
    "chain.hookspecs",
    "config.headers",
    "config.match",
    "config.model",
    "config.units",
    "credentials.certificates",
    "credentials.jose",
    "credentials.oauth_rules",
    "credentials.places",
    "credentials.rights",
    "domain.limits",
    "domain.session",
    "errors",
    "markers",
    "stores.repositories",
    "credentials.oauth",
)


def __getattr__(name: str) -> Any:
    # Every module of the package runs this file first: the command line and pytest load no more than they use.
    if name in __all__:
        for module in _MODULES:
            home = import_module(f"aiogate.{module}")
            if name in vars(home):
                globals()[name] = getattr(home, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
