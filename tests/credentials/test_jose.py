"""Signed tokens and keys: the published examples verify, and nothing that differs from them does."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiogate.credentials.jose import ALGORITHMS, Key, Token, fitting, parse_keys, read_token
from tests.credentials.issuer import SECRET, key_for, part, pem, public_jwk, sign

PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
EXAMPLES = {
    "RFC 7515 A.1": (
        {
            "kty": "oct",
            "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        },
        f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    ),
    "RFC 7515 A.2": (
        {
            "kty": "RSA",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-y"
            "RT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQ"
            "OS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q"
            "2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        },
        (
            f"eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Q"
            "c_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHl"
            "b1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6Lb"
            "gGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        ),
    ),
    "RFC 7515 A.3": (
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
        (
            f"eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}."
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
        ),
    ),
    "RFC 7515 A.4": (
        {
            "kty": "EC",
            "crv": "P-521",
            "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
        },
        (
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDK"
            "B34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
        ),
    ),
    "RFC 8037 A.4": (
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        (
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        ),
    ),
}


def holds(keys: tuple[Key, ...], text: str) -> bool:
    """Whether some key verifies the token, as the gateway goes about it."""
    token = read_token(text)
    if isinstance(token, str):
        return False
    key = fitting(keys, token.algorithm, token.kid)
    return isinstance(key, Key) and key.verifies(token.algorithm, token.signed, token.signature)


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_examples_verify(name: str) -> None:
    jwk, text = EXAMPLES[name]
    keys = parse_keys(json.dumps(jwk))
    token = read_token(text)
    assert isinstance(token, Token)
    assert holds(keys, text)
    if PAYLOAD in text:
        assert token.claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
        assert token.claim("http://example.com/is_root") is True
    else:
        assert "is not JSON" in token.broken


def test_the_published_unsecured_token_is_refused() -> None:
    """Row 46."""
    text = f"eyJhbGciOiJub25lIn0.{PAYLOAD}."
    token = read_token(text)
    assert isinstance(token, Token)
    assert token.algorithm == "none"
    assert all(not holds(parse_keys(json.dumps(jwk)), text) for jwk, _ in EXAMPLES.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_verifies_by_its_own_key_only(algorithm: str) -> None:
    text = sign({"sub": "a"}, algorithm)
    for other in ("HS256", "RS256", "ES256", "ES384", "ES512", "Ed25519", "Ed448"):
        key = parse_keys(json.dumps(key_for(other).as_dict()))
        assert holds(key, text) == (key_for(other) is key_for(algorithm) or same(other, algorithm))


def same(one: str, other: str) -> bool:
    return one[:2] == other[:2] == "HS" or (one[:2] in ("RS", "PS") and other[:2] in ("RS", "PS"))


CHARACTERS = "ABCXYZabcxyz0189-_=.+/ \n\u00e9"


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_mutation_of_a_token_is_accepted(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))
    jwk, text = EXAMPLES[name]
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(("replace", "insert", "delete", "swap", "cut", "twice")))
    other = data.draw(st.sampled_from(CHARACTERS))
    until = data.draw(st.integers(at + 1, len(text)))
    mutated = {
        "replace": text[:at] + other + text[at + 1 :],
        "insert": text[:at] + other + text[at:],
        "delete": text[:at] + text[at + 1 :],
        "swap": text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
        "cut": text[:at],
        "twice": text[:until] + text[at:until] + text[until:],
    }[kind]
    assert mutated == text or not holds(parse_keys(json.dumps(jwk)), mutated)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_no_text_is_too_strange(header: bytes, payload: bytes, signature: bytes) -> None:
    text = ".".join(map(part, (header, payload, signature)))
    token = read_token(text)
    assert isinstance(token, (str, Token))
    assert not holds(parse_keys(SECRET), text)


def header_of(**members: object) -> str:
    return f"{part(json.dumps(members).encode())}.e30.c2ln"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "1 parts"),
        ("a.b", "2 parts"),
        ("a.b.c.d.e", "5 parts"),
        ("x" * 20000, "20000 characters"),
        ("e30=.e30.", "not base64url"),
        ("e3\u00e9.e30.", "not base64url"),
        ("e31.e30.", "not base64url"),
        ("W10.e30.", "not a JSON object"),
        ("eyI.e30.", "is not JSON"),
        (header_of(alg="HS256", kid=7), "`kid` is not a text"),
        (header_of(alg="HS256", kid="k" * 10000), "`kid` is not a text"),
        (header_of(alg="HS256", crit=["b64"], b64=False), "extensions"),
        (header_of(alg="HS256", crit=[]), "extensions"),
    ],
)
def test_malformed_tokens_are_told(text: str, reason: str) -> None:
    told = read_token(text)
    assert isinstance(told, str)
    assert reason in told


@pytest.mark.parametrize("algorithm", [None, 5, ["HS256"], {}])
def test_an_algorithm_that_is_no_text_is_none(algorithm: object) -> None:
    token = read_token(header_of(alg=algorithm))
    assert isinstance(token, Token)
    assert token.algorithm == ""


def test_a_public_key_is_no_secret() -> None:
    """Row 46."""
    text = pem("RS256")
    signed = sign({"sub": "a"}, "HS256").rpartition(".")[0]
    forged = f"{signed}.{part(hmac.digest(text.encode(), signed.encode(), 'sha256'))}"
    assert not holds(parse_keys(text), forged)
    assert not holds(parse_keys(json.dumps(public_jwk("RS256"))), forged)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("short", "5 bytes, at least 32"),
        ('{"kty": "oct", "k": "c2hvcnQ"}', "5 bytes, at least 32"),
        ('{"kty": "oct", "k": ""}', ""),
        ('{"kty": "what"}', "unknown kind"),
        ('{"kty": "RSA", "n": "AQAB", "e": "AQAB"}', ""),
        ('{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}', "not a usable JWK"),
        ('{"keys": []}', "none of its 0 keys"),
        ('{"keys": [{"kty": "what"}]}', "unknown kind"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "neither a public key"),
        (key_for("ES256").as_pem(private=True).decode(), "a private key"),
        (json.dumps(public_jwk("RS256", use="enc")), "not for signatures"),
        (json.dumps(public_jwk("RS256", alg="ES256")), "another algorithm"),
        (json.dumps(public_jwk("RS256", kid=5)), "`kid`"),
        (json.dumps({"keys": [public_jwk("ES256")] * 501}), "at most 500"),
    ],
)
def test_keys_that_cannot_be_used_are_told(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_keys(text)
    assert reason in str(caught.value)
    assert text not in str(caught.value)


def test_a_key_says_what_it_is_for() -> None:
    (key,) = parse_keys(json.dumps(public_jwk("RS256", alg="PS384", kid="k")))
    assert (key.algorithms, key.kid) == ({"PS384"}, "k")
    (certified,) = parse_keys(pem("ES384"))
    assert certified.algorithms == {"ES384"}


def test_a_kid_is_compared_as_a_whole() -> None:
    """Row 47."""
    keys = parse_keys(json.dumps({"keys": [public_jwk("ES256", kid="one"), public_jwk("ES384", kid="two")]}))
    assert isinstance(fitting(keys, "ES256", "one"), Key)
    assert isinstance(fitting(keys, "ES256", None), Key)
    for kid in ("on", "one ", "ONE", "../one", "one\0", "' OR 1=1 --", ""):
        assert fitting(keys, "ES256", kid) == f"no key has the kid {kid!r}"
    assert "another kind: EC" in str(fitting(keys, "ES384", "one"))
    twins = parse_keys(json.dumps({"keys": [public_jwk("ES256", kid=kid) for kid in "ab"]}))
    assert "does not say which" in str(fitting(twins, "ES256", None))
    unnamed = parse_keys(pem("ES256"))
    assert isinstance(fitting(unnamed, "ES256", "any"), Key)
    assert fitting(unnamed, "ES256", "any", named=True) == "no key has the kid 'any'"


def test_a_dotted_path_leads_into_claims() -> None:
    token = Token({}, {"a": {"b": "deep"}, "a.c": "flat", "list": [1]}, b"", b"")
    assert (token.claim("a.b"), token.claim("a.c"), token.claim("list.0"), token.claim("x.y")) == (
        "deep", "flat", None, None,
    )  # fmt: skip


def test_the_other_signature_of_an_elliptic_curve_is_of_the_same_key() -> None:
    """(r, n - s) verifies wherever (r, s) does: two tokens with one content, which is why nothing counts by token."""
    jwk, text = EXAMPLES["RFC 7515 A.3"]
    signed, _, signature = text.rpartition(".")
    data = urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = data[:32] + (order - int.from_bytes(data[32:], "big")).to_bytes(32, "big")
    assert holds(parse_keys(json.dumps(jwk)), f"{signed}.{part(other)}")
