"""Signed tokens and the keys that verify them: JWS in its compact form (RFC 7515), JWK (RFC 7517), JWA (RFC 7518).

A key says itself which algorithms it can verify: by its type, its curve, its size and, where it has one, its `alg`. The
header of a token only chooses among what the API allows and the key can do, so that no token talks the gateway into
another use of a key: there is no `none`, and the text of a public key is never a secret. What a header says about where
keys are to be found (`jku`, `x5u`, `jwk`, `x5c`) is not read.

joserfc and cryptography are loaded when the first key is read: a gateway without tokens does not pay for them.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

__all__ = ["ALGORITHMS", "Key", "Token", "fitting", "parse_keys", "read_token"]

_BY_TYPE: Final[Mapping[str, tuple[str, ...]]] = {
    "oct": ("HS256", "HS384", "HS512"),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA", "Ed25519", "Ed448"),
}
_BY_CURVE: Final[Mapping[str, tuple[str, ...]]] = {
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA", "Ed25519"),
    "Ed448": ("EdDSA", "Ed448"),
}
ALGORITHMS: Final[tuple[str, ...]] = tuple(name for names in _BY_TYPE.values() for name in names)
"""Every algorithm that can be allowed; `EdDSA` is RFC 8037's name for both curves, the others are RFC 9864's."""
SHORTEST_SECRET: Final = 32
"""Bytes of a secret for HS256, HS384, HS512 (RFC 7518 section 3.2 asks for as many as the digest has)."""
_RSA_BITS: Final = range(2048, 8193)
"""RFC 7518 section 3.3 asks for 2048 at least; verifying with more than 8192 takes too long for the event loop."""
_LONGEST_TOKEN: Final = 16 * 1024
_LONGEST_KID: Final = 1024
_MOST_KEYS: Final = 500


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token, read and not yet verified. `broken` says why its claims cannot be read; empty when they can."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)
    broken: str = ""

    @property
    def algorithm(self) -> str:
        """The `alg` of its header; empty where there is none."""
        name = self.header.get("alg")
        return name if isinstance(name, str) else ""

    @property
    def kid(self) -> str | None:
        """The name that its header gives to the key; None: it has none."""
        kid: str | None = self.header.get("kid")
        return kid

    def claim(self, path: str) -> Any:
        """The claim of that name, or the one that a dotted path leads to; None: there is none."""
        if path in self.claims:
            return self.claims[path]
        value: Any = self.claims
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        return value


def read_token(text: str) -> Token | str:
    """A token in compact form, or what is wrong with it. Nothing is verified."""
    if len(text) > _LONGEST_TOKEN:
        return f"the token has {len(text)} characters, at most {_LONGEST_TOKEN} are read"
    parts = text.split(".")
    if len(parts) != 3:
        return f"the token has {len(parts)} parts, a signed one has 3"
    decoded = [_decoded(part) for part in parts]
    for name, part in zip(("header", "payload", "signature"), decoded, strict=True):
        if part is None:
            return f"the {name} of the token is not base64url without padding"
    header_bytes, payload, signature = (part or b"" for part in decoded)
    header, mistake = _object(header_bytes)
    if mistake:
        return f"the header of the token {mistake}"
    if "crit" in header:
        # RFC 7515 section 4.1.11: what must be understood and is not makes the token invalid.
        return f"the header of the token asks for extensions that are not understood: {header['crit']!r}"[:300]
    kid = header.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > _LONGEST_KID):
        return f"the header `kid` is not a text of at most {_LONGEST_KID} characters"
    claims, mistake = _object(payload)
    broken = f"the payload of the token {mistake}" if mistake else ""
    return Token(header, claims, f"{parts[0]}.{parts[1]}".encode("ascii"), signature, broken)


def _decoded(part: str) -> bytes | None:
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (ValueError, binascii.Error):
        return None
    # One spelling for each value: no padding, no bits left over, no characters that a decoder skips.
    return data if urlsafe_b64encode(data).rstrip(b"=").decode("ascii") == part else None


def _object(data: bytes) -> tuple[dict[str, Any], str]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as mistake:
        return {}, f"is not JSON: {mistake.msg}"
    return (value, "") if isinstance(value, dict) else ({}, "is not a JSON object")


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key that verifies signatures. `kid` None: it has no name, and serves tokens whatever they call their key."""

    kind: str
    """`oct`, `RSA`, `EC` or `OKP`."""
    algorithms: frozenset[str]
    kid: str | None = None
    native: Any = field(default=None, repr=False)
    """joserfc's."""

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is the one that this key makes of `signed`, in constant time for secrets."""
        from joserfc.jws import JWSRegistry

        assert algorithm in self.algorithms
        try:
            return JWSRegistry.algorithms[algorithm].verify(signed, signature, self.native)
        except ValueError:
            return False


def fitting(keys: Iterable[Key], algorithm: str, kid: str | None, *, named: bool = False) -> Key | str:
    """The key for a token of this `alg` and `kid`, or why there is none.

    A `kid` is compared as a whole and is looked up nowhere but here. `named`: a key without a name serves only tokens
    without `kid`. A token without `kid` is verified when a single key fits.
    """
    keys = tuple(keys)
    if kid is not None:
        chosen = [key for key in keys if key.kid == kid or (key.kid is None and not named)]
        if not chosen:
            return f"no key has the kid {kid!r}"
    else:
        chosen = list(keys)
    fit = [key for key in chosen if algorithm in key.algorithms]
    if not fit:
        kinds = ", ".join(sorted({key.kind for key in chosen})) or "none"
        return f"the token is signed by {algorithm}, the keys for it are of another kind: {kinds}"
    if len(fit) > 1 and kid is None:
        return f"{len(fit)} keys could have signed by {algorithm}, and the token does not say which: it has no kid"
    return fit[0]


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys in a text: a PEM public key or certificate, a JWK, a JWK Set, or a secret for HS256 and its like.

    Raises ValueError, with a text that tells nothing of the key, for what is none of these or is too weak.
    """
    stripped = text.strip()
    if stripped.startswith("-----BEGIN"):
        return (_from_pem(stripped),)
    if stripped.startswith("{"):
        value, mistake = _object(stripped.encode("utf-8", "surrogateescape"))
        if not mistake and isinstance(value.get("keys"), list):
            return keys_of_set(value, secrets=True)
        if not mistake and "kty" in value:
            return (_from_jwk(value),)
    return (secret_key(text.encode("utf-8", "surrogateescape")),)


def secret_key(secret: bytes) -> Key:
    """The key that a shared secret is. Raises ValueError for one of fewer than 32 bytes."""
    from joserfc.jwk import OctKey

    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"the secret has {len(secret)} bytes, at least {SHORTEST_SECRET} are needed")
    return Key("oct", frozenset(_BY_TYPE["oct"]), None, OctKey.import_key(secret))


def keys_of_set(value: Mapping[str, Any], *, secrets: bool = False) -> tuple[Key, ...]:
    """The usable keys of a JWK Set; what is for another purpose, or unknown, is passed over (RFC 7517 section 5).

    `secrets`: symmetric keys too; one that was fetched from a URL is known to everybody. Raises ValueError when nothing
    usable is left.
    """
    listed = value.get("keys")
    if not isinstance(listed, list):
        raise ValueError("it has no list `keys`")
    if len(listed) > _MOST_KEYS:
        raise ValueError(f"it has {len(listed)} keys, at most {_MOST_KEYS} are read")
    keys: list[Key] = []
    reasons: list[str] = []
    for entry in listed:
        try:
            if not secrets and isinstance(entry, dict) and entry.get("kty") == "oct":
                raise ValueError("a symmetric key")
            keys.append(_from_jwk(entry))
        except ValueError as reason:
            reasons.append(str(reason))
    if not keys:
        raise ValueError(": ".join([f"none of its {len(listed)} keys can verify a signature", *reasons[:1]]))
    return tuple(keys)


def _from_jwk(value: Any) -> Key:
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    if not isinstance(value, dict):
        raise ValueError("a JWK is a JSON object")
    if value.get("kty") not in _BY_TYPE:
        raise ValueError("a key of an unknown kind")
    if value.get("use", "sig") != "sig" or "verify" not in value.get("key_ops", ["verify"]):
        raise ValueError("a key that is not for signatures")
    kid = value.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("a `kid` is text")
    native: Any
    if value["kty"] == "oct":
        secret = value.get("k")
        native = secret_key(_decoded(secret) or b"" if isinstance(secret, str) else b"").native
    else:
        try:
            native = import_key(value)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, binascii.Error) as mistake:
            raise ValueError(f"not a usable JWK: {type(mistake).__name__}") from None
    algorithms = frozenset(_algorithms(value["kty"], native))
    declared = value.get("alg")
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else set()
    if not algorithms:
        raise ValueError("a key for another algorithm")
    return Key(value["kty"], algorithms, kid, native)


def _from_pem(text: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    if "PRIVATE KEY-----" in text:
        raise ValueError("a private key stands where the public one belongs")
    data = text.encode("utf-8", "surrogateescape")
    try:
        public = (
            load_pem_x509_certificate(data).public_key() if "CERTIFICATE-----" in text else load_pem_public_key(data)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion):
        raise ValueError("the PEM text is neither a public key nor a certificate") from None
    native: Any
    if isinstance(public, rsa.RSAPublicKey):
        kind, native = "RSA", RSAKey(public, public)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        kind, native = "EC", ECKey(public, public)
    elif isinstance(public, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        kind, native = "OKP", OKPKey(public, public)
    else:
        raise ValueError("the PEM text is a key of another kind than RSA, EC and Ed25519")
    return Key(kind, frozenset(_algorithms(kind, native)), None, native)


def _algorithms(kind: str, native: Any) -> tuple[str, ...]:
    """What a key can verify. Raises ValueError for one that is too weak, too large, or on another curve."""
    if kind == "oct":
        return _BY_TYPE["oct"]
    if kind == "RSA":
        bits = native.public_key.key_size
        if bits not in _RSA_BITS:
            raise ValueError(f"an RSA key of {bits} bits; {_RSA_BITS.start} to {_RSA_BITS.stop - 1} are accepted")
        if native.public_key.public_numbers().e >= 1 << 33:
            raise ValueError("an RSA key with an exponent of more than 33 bits")
        return _BY_TYPE["RSA"]
    algorithms = _BY_CURVE.get(native.curve_name)
    if algorithms is None:
        raise ValueError(f"a key on the curve {native.curve_name}")
    return algorithms
