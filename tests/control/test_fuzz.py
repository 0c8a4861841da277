"""Whatever JSON, bytes or names a caller sends: an answer in the envelope of its surface, and never a 5xx."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

FIELDS = [
    "rate",
    "per",
    "expires",
    "quota_max",
    "quota_renewal_rate",
    "access_rights",
    "org_id",
    "basic_auth_data",
    "jwt_data",
    "hmac_enabled",
    "is_inactive",
    "apply_policy_id",
    "apply_policies",
    "monitor",
    "meta_data",
    "tags",
    "alias",
    "session_lifetime",
    "post_expiry_action",
    "data",
    "date_created",
    "oauth_keys",
    "throttle_interval",
    "last_updated",
    "policy",
    "user",
    "password",
    "api_model",
    "limit",
    "versions",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["gold", "login", "default", "retain", "delete", "2024-01-01", "x" * 80, "a\0b"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "login", "gone", ""]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
sessions = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8).map(
    lambda body: {"access_rights": {"login": {}}, **body}
)
bodies = sessions.map(json.dumps) | values.map(json.dumps) | st.binary(max_size=30) | st.text(max_size=30)
names = st.text(min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))

WRITES = [
    ("POST", "/tyk/keys"),
    ("POST", "/tyk/keys/create"),
    ("POST", "/tyk/keys/preview"),
    ("POST", "/tyk/keys/alice"),
    ("PUT", "/tyk/keys/alice"),
    ("POST", "/tyk/keys/policy/alice"),
    ("POST", "/api/keys"),
    ("POST", "/api/keys?basic_auth=true"),
    ("POST", "/api/keys/preview"),
    ("POST", "/api/keys/alice"),
    ("PUT", "/api/keys/alice"),
    ("POST", "/api/apis/keys/basic/alice"),
    ("PUT", "/api/apis/login/keys/alice"),
]

calm = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(answer, path):
    assert answer.status < 500, (path, answer.text)
    assert answer.status in (200, 400, 404)
    if answer.status == 200:
        return
    said = answer.json
    if path.startswith("/tyk"):
        assert (said["status"], bool(said["message"])) == ("error", True)
    else:
        assert (said["Status"], bool(said["Message"])) == ("Error", True)


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_no_body_makes_a_5xx(control, caplog, method, path):
    caplog.set_level(logging.ERROR)
    drawn = []

    @calm
    @given(bodies)
    def draw(body):
        drawn.append(body)

    draw()
    alice = {"access_rights": {"login": {}}, "basic_auth_data": {"password": "correct horse"}}
    for body in drawn:
        await control.tyk("POST", "/keys/alice", alice)
        check(await control.call(method, path, body, **credentials(path)), path)
        # What was stored can be read, listed and changed again.
        assert (await control.tyk("GET", "/keys/alice?org_id=default")).status == 200
        assert (await control.api("GET", "/keys/detailed")).status == 200
        control.answers.clear()


def credentials(path):
    site_secret, access_key = "control-secret-0123456789abcdef", "dashboard-key-0123456789abcdef"
    return {"X_Tyk_Authorization": site_secret} if path.startswith("/tyk") else {"Authorization": access_key}


@pytest.mark.parametrize(
    "path", ["/tyk/keys/", "/api/keys/", "/tyk/decisions/", "/tyk/apis/", "/api/apis/", "/tyk/chains/"]
)
async def test_no_name_makes_a_5xx(control, path):
    drawn = []

    @calm
    @given(names)
    def draw(name):
        drawn.append(name)

    draw()
    for name in drawn:
        url = URL(path + quote(name, safe=""), encoded=True)
        for method in ("GET", "PUT", "DELETE", "POST"):
            answer = await control.call(method, url, '{"access_rights": {"login": {}}}', **credentials(path))
            assert answer.status in (200, 400, 404, 405), (method, url, answer.text)
        control.answers.clear()
