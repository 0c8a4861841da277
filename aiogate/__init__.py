"""What plugin authors import. Everything here is promised: it is documented in `docs/plugins.md`, and a test checks
that.

from aiogate import Exchange, Middleware, MiddlewareKind, Model, Problem, Stage, hookimpl
"""

from __future__ import annotations

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
from aiogate.config.model import Model
from aiogate.config.units import Duration, Pattern, Rate, Size, Timestamp
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
    "Duration",
    "Exchange",
    "Grant",
    "Lifecycle",
    "LookupFailure",
    "Middleware",
    "MiddlewareKind",
    "Model",
    "Pattern",
    "Problem",
    "Rate",
    "RequestBody",
    "Response",
    "Services",
    "Session",
    "Size",
    "Stage",
    "Timestamp",
    "hookimpl",
]
