"""Names: what a caller presents, what a store keeps, and what may be a name at all.

A stored name is the SHA-256 of organisation and presented name, all of its bytes. Tyk's short murmur hashes, which let
a key with characters appended pass, are not used anywhere (spec/known-pain.md row 7).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Final

import orjson

from aiogate.domain.session import Session, SessionDocument, SessionKind

__all__ = [
    "counter_keys",
    "generate_hmac_string",
    "generate_key",
    "is_name_hash",
    "kind_of",
    "name_mistake",
    "needs_hmac_string",
    "org_mistake",
    "org_of_key",
    "stored_name",
    "without_org",
]

_SHORTEST_NAME: Final = 3
_LONGEST_NAME: Final = 1024
_LONGEST_ORG: Final = 128
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_HEX_ORG: Final = re.compile(r"[0-9a-fA-F]{24}")


def stored_name(org: str, name: str) -> str:
    """The name under which a store keeps `name` of organisation `org`: 64 hex digits, safe to show and to log."""
    # A credential may hold bytes that are not UTF-8; headers decode them to surrogates.
    return hashlib.sha256(f"{org}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()


def is_name_hash(text: str) -> bool:
    """Whether `text` has the form of a stored name."""
    return _HASH.fullmatch(text) is not None


def generate_key(org: str) -> str:
    """A new key with 128 random bits: Tyk's base64 of `{"org", "id", "h"}` (spec/session.md section 2)."""
    return base64.b64encode(orjson.dumps({"org": org, "id": secrets.token_hex(16), "h": "sha256"})).decode("ascii")


def generate_hmac_string() -> str:
    """A new secret for signing requests, with 128 random bits: base64 of 32 hex digits, as Tyk makes them."""
    return base64.b64encode(secrets.token_hex(16).encode()).decode("ascii")


def needs_hmac_string(document: SessionDocument) -> bool:
    """Whether a session is to sign requests and has nothing to sign with."""
    return kind_of(document) == "hmac" and not document.hmac_string and not document.rsa_certificate_id


def org_of_key(key: str) -> str | None:
    """The organisation that a key names: its JSON, or a prefix of 24 hex digits as old Tyk made them; None: neither."""
    if key.startswith("ey"):
        try:
            value = orjson.loads(base64.b64decode(key, validate=True))
        except (binascii.Error, ValueError):
            value = None
        org = value.get("org") if isinstance(value, dict) else None
        if isinstance(org, str):
            return org
    prefix = key[:24]
    return prefix if _HEX_ORG.fullmatch(prefix) else None


def without_org(org: str, name: str) -> str:
    """`name` without its organisation in front, stripped once: org + user name names the same user (section 2)."""
    return name[len(org) :] if org and name.startswith(org) and len(name) > len(org) else name


def kind_of(document: SessionDocument) -> SessionKind:
    """The kind of credential that a document stands for. A method of authentication accepts only its own kind."""
    if document.certificate:
        return "certificate"
    if document.basic_auth_data.password:
        return "basic"
    if document.hmac_enabled or document.enable_http_signature_validation:
        return "hmac"
    if document.jwt_data.secret:
        return "jwt"
    if document.oauth_client_id:
        return "oauth"
    return "key"


def name_mistake(name: str, kind: SessionKind) -> str:
    """Why `name` cannot be the name of a key or a user; empty when it can.

    A user name has no `:` (RFC 7617). No name has control characters, blanks at its ends, or fewer than 3 characters
    (Tyk's `min_token_length`).
    """
    if len(name) < _SHORTEST_NAME:
        return f"the name has {len(name)} characters, at least {_SHORTEST_NAME} are needed"
    if len(name) > _LONGEST_NAME:
        return f"the name has {len(name)} characters, at most {_LONGEST_NAME} are allowed"
    if kind == "basic" and ":" in name:
        return "a user name cannot hold a colon: HTTP basic authentication splits there"
    if name != name.strip():
        return "the name begins or ends with a blank"
    if any(char < " " or char == "\x7f" for char in name) or not _encodes(name):
        return "the name holds a control character"
    if is_name_hash(name):
        return "the name has the form of a key hash; it could not be told from one"
    return ""


def org_mistake(org: str) -> str:
    """Why `org` cannot be an organisation; empty when it can."""
    if not org:
        return "the organisation is empty"
    if len(org) > _LONGEST_ORG:
        return f"the organisation has {len(org)} characters, at most {_LONGEST_ORG} are allowed"
    if any(char <= " " or char == "\x7f" for char in org) or not _encodes(org):
        return "the organisation holds a blank or a control character"
    return ""


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def counter_keys(session: Session) -> tuple[str, ...]:
    """The keys of every counter that the session has, for `CounterStore.read` and `reset`."""
    return tuple(dict.fromkeys(bucket.key for grant in session.grants.values() for bucket in grant.buckets))
