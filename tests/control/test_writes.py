"""APIs and policies written over HTTP: into files, checked with the whole set, live at the next reload."""

from __future__ import annotations

import asyncio
import io
import stat

import pytest
import yaml

from aiogate.config.provenance import is_written_by_api

OTHER_KEY = "other-org-key-0123456789abcdef"
USERS = {
    "api_id": "users",
    "name": "Users",
    "use_basic_auth": True,
    "tags": ["eu"],
    "version_data": {"not_versioned": True, "versions": {"Default": {"name": "Default"}}},
    "proxy": {"listen_path": "/users/", "target_url": "http://127.0.0.1:9009/", "strip_listen_path": True},
}
SILVER = {"id": "silver", "name": "Silver", "rate": 10, "per": 1, "access_rights": {"login": {"api_id": "login"}}}


def users(**changed):
    return {**USERS, **changed}


def at(url):
    return users(proxy={**USERS["proxy"], "target_url": url})


def files(control, folder="apis.d"):
    return sorted(path.name for path in (control.folder / folder).iterdir())


async def test_a_definition_becomes_a_file_and_is_live_after_a_reload(control):
    answer = await control.tyk("POST", "/apis", users())
    assert (answer.status, answer.json) == (
        200,
        {
            "key": "users",
            "status": "ok",
            "action": "added",
            "pending": "reload",
            "ignored": [
                "tags: there are no shards",
                "version_data.versions.Default.name: the key above it is the name",
            ],
        },
    )
    file = control.folder / "apis.d" / "users.yaml"
    assert file.read_text().startswith("# Written through the control API: from Tyk's classic JSON.\n# digest: ")
    assert is_written_by_api(file.read_bytes())
    assert yaml.safe_load(file.read_text()) == {
        "id": "users", "name": "Users", "listen": "/users/", "upstream": "http://127.0.0.1:9009/", "auth": "basic",
    }  # fmt: skip
    assert (await control.tyk("GET", "/apis/users")).status == 404
    await control.tyk("GET", "/reload?block=true")
    shown = (await control.tyk("GET", "/apis/users")).json
    assert (shown["name"], shown["use_basic_auth"], shown["proxy"]["listen_path"]) == ("Users", True, "/users/")
    assert control.site.current.table.apis["users"].definition.written_by_api
    assert not control.site.current.table.apis["login"].definition.written_by_api


async def test_what_get_gave_may_be_put_and_changes_nothing(control):
    await control.tyk("POST", "/apis", users(global_rate_limit={"rate": 5, "per": 60}))
    await control.tyk("GET", "/reload?block=true")
    before = (control.folder / "apis.d/users.yaml").read_bytes()
    answer = await control.tyk("PUT", "/apis/users", (await control.tyk("GET", "/apis/users")).json)
    assert (answer.status, answer.json["action"]) == (200, "modified")
    assert (control.folder / "apis.d/users.yaml").read_bytes() == before


async def test_our_own_format_is_taken_and_given(control):
    native = {"id": "mine", "listen": "/mine/", "auth": "none", "plugins": [{"mock": "hi"}], "labels": {"a": "b"}}
    assert (await control.tyk("POST", "/apis?format=native", native)).status == 200
    await control.tyk("GET", "/reload?block=true")
    assert (await control.tyk("GET", "/apis/mine?format=native")).json == native
    assert (await control.tyk("PUT", "/apis/mine?format=native", native)).status == 200
    assert (await control.tyk("POST", "/apis?format=xml", native)).status == 400
    policy = {"id": "silver", "access": {"mine": {}}, "rate": "5/1s"}
    assert (await control.tyk("POST", "/policies?format=native", policy)).status == 200
    await control.tyk("GET", "/reload?block=true")
    assert (await control.tyk("GET", "/policies/silver?format=native")).json == policy


async def test_an_id_is_made_where_none_is_given(control):
    key = (await control.tyk("POST", "/apis", users(api_id=""))).json["key"]
    assert (len(key), set(key) <= set("0123456789abcdef")) == (32, True)
    assert f"{key}.yaml" in files(control)


@pytest.mark.parametrize("identifier", ["../x", "a/b", ".a", "_a", "x" * 65, "a\nb", "ä", "a b", "..", "a\0b"])
async def test_an_id_that_is_none_is_refused(control, identifier):
    before = files(control)
    assert (await control.tyk("POST", "/apis", users(api_id=identifier))).json["message"] == "Invalid API ID"
    refused = await control.tyk("POST", "/policies", {**SILVER, "id": identifier})
    assert (refused.status, refused.json["message"][:17]) == (400, "Invalid Policy ID")
    assert files(control) == before


async def test_the_id_in_the_path_and_in_the_body_are_one(control):
    await control.tyk("POST", "/apis", users())
    answer = await control.tyk("PUT", "/apis/users", users(api_id="others"))
    assert (answer.status, "must match" in answer.json["message"]) == (400, True)
    assert (await control.tyk("PUT", "/apis/users", users(api_id=""))).status == 200
    assert (await control.tyk("PUT", "/policies/silver", {**SILVER, "id": "gold"})).status == 400


async def test_what_is_not_there(control):
    for method, path, body in (
        ("PUT", "/apis/gone", users(api_id="gone")),
        ("DELETE", "/apis/gone", None),
        ("DELETE", "/apis/a%2Fb", None),
        ("DELETE", "/policies/gone", None),
    ):
        answer = await control.tyk(method, path, body)
        assert (answer.status, answer.json["status"]) == (404, "error")
    assert (await control.tyk("POST", "/policies", {"rate": 1, "per": 1})).status == 400


async def test_each_refused_field_is_named_and_nothing_is_written(control):
    before = files(control)
    answer = await control.tyk("POST", "/apis", users(graphql={"enabled": True}, nonsense=1))
    assert answer.status == 400
    assert answer.json["message"].startswith("Validation of API Definition failed. Reason: graphql")
    assert [line.partition(":")[0] for line in answer.json["details"]] == ["graphql", "nonsense"]
    answer = await control.tyk("POST", "/apis?format=native", {"id": "a", "listen": 5, "auht": "none"})
    assert {line.partition(":")[0] for line in answer.json["details"]} == {"listen", "auht", "auth"}
    assert files(control) == before


async def test_the_whole_set_is_asked(control):
    taken = users(proxy={**USERS["proxy"], "listen_path": "/login-api/"})
    answer = await control.tyk("POST", "/apis", taken)
    assert (answer.status, "is taken by" in answer.json["message"]) == (400, True)
    answer = await control.tyk("POST", "/policies", {**SILVER, "access_rights": {"gone": {}}})
    assert (answer.status, "there is no API `gone`" in answer.json["message"]) == (400, True)
    answer = await control.tyk("POST", "/policies", {**SILVER, "org_id": "acme"})
    assert (answer.status, "belongs to the organisation" in answer.json["message"]) == (400, True)
    assert "users.yaml" not in files(control)


async def test_somebody_elses_mistake_is_told_and_does_not_hinder(control):
    control.write("apis.d/broken.yaml", "listen: /broken/\n")
    answer = await control.tyk("POST", "/apis", users())
    assert answer.status == 200
    assert "broken.yaml" in answer.json["warnings"][0]


async def test_what_was_written_by_hand_stays(control):
    before = (control.folder / "apis.d/login.yaml").read_text()
    login = users(api_id="login")
    for answer in (
        await control.tyk("POST", "/apis", login),
        await control.tyk("PUT", "/apis/login", login),
        await control.tyk("DELETE", "/apis/login"),
        await control.tyk("PUT", "/policies/gold", {**SILVER, "id": "gold"}),
        await control.tyk("DELETE", "/policies/trial"),
        await control.api("DELETE", "/portal/policies/trial"),
    ):
        assert answer.status == 409
        assert "written by hand" in answer.text
    assert (control.folder / "apis.d/login.yaml").read_text() == before
    assert (await control.tyk("PUT", "/apis/login?force=1", login)).status == 200
    assert (control.folder / "apis.d/login.yaml").read_text() != before
    assert "login.yml" not in files(control)


async def test_an_edit_by_hand_makes_it_the_operators(control):
    await control.tyk("POST", "/apis", users())
    file = control.folder / "apis.d/users.yaml"
    file.write_text(file.read_text() + "labels: {mine: text}\n")
    assert (await control.tyk("POST", "/apis", users())).status == 409
    assert (await control.tyk("DELETE", "/apis/users")).status == 409


async def test_a_file_of_another_name_is_found_by_its_id(control):
    control.write("apis.d/one.yaml", "{id: users, listen: /users/, auth: none, upstream: 'http://127.0.0.1:1/'}")
    assert (await control.tyk("POST", "/apis", users())).status == 409
    assert (await control.tyk("POST", "/apis?force=1", users())).status == 200
    assert "users.yaml" not in files(control)
    assert yaml.safe_load((control.folder / "apis.d/one.yaml").read_text())["auth"] == "basic"


async def test_a_link_is_never_replaced(control, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (control.folder / "apis.d/users.yaml").symlink_to(outside)
    assert (await control.tyk("POST", "/apis?force=1", users())).status == 409
    assert outside.read_text() == "mine"


async def test_an_api_that_is_named_is_not_deleted(control):
    await control.tyk("POST", "/apis", users())
    await control.tyk("POST", "/policies", {**SILVER, "access_rights": {"users": {}}})
    await control.tyk("POST", "/keys/alice", {"access_rights": {"users": {}}, "basic_auth_data": {"password": "x" * 8}})
    answer = await control.tyk("DELETE", "/apis/users")
    assert (answer.status, answer.json["details"]) == (409, ["policy silver", "user alice"])
    assert (await control.tyk("DELETE", "/apis/users?force=1")).json["details"] == ["policy silver"]
    assert (await control.tyk("DELETE", "/policies/silver")).json["action"] == "deleted"
    assert (await control.tyk("DELETE", "/apis/users")).status == 409
    assert (await control.tyk("DELETE", "/apis/users?force=1")).json == {
        "key": "users", "status": "ok", "action": "deleted", "pending": "reload",
    }  # fmt: skip
    assert "users.yaml" not in files(control)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://2130706433/",
     "http://0x7f.1/", "http://127.0.0.1:8081/", "http://localhost:8081/", "http://[::1]:8081/", "http://0.0.0.0:1/",
     "http://metadata.google.internal/", "file:///etc/passwd", "gopher://a/", "ftp://a/"],
)  # fmt: skip
async def test_where_an_api_may_not_lead(control, url):
    answer = await control.tyk("POST", "/apis", at(url))
    assert (answer.status, "upstream" in answer.json["message"]) == (400, True)
    assert "users.yaml" not in files(control)


async def test_a_plugin_may_not_lead_there_either(control):
    native = {"id": "a", "listen": "/a/", "auth": "none", "upstream": "http://127.0.0.1:1/",
              "plugins": [{"mock": "http://169.254.169.254/x"}]}  # fmt: skip
    assert (await control.tyk("POST", "/apis?format=native", native)).status == 400


async def test_names_are_judged_by_what_they_lead_to(control, monkeypatch):
    async def resolve(host, port, **_):
        return [(2, 1, 6, "", ("169.254.169.254" if host == "evil.example" else "93.184.216.34", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    assert "evil.example: 169.254.169.254" in (await control.tyk("POST", "/apis", at("http://evil.example/"))).text


async def test_no_variable_of_the_machine_is_read(control):
    await control.tyk("POST", "/apis", users(name="${HOME}"))
    assert yaml.safe_load((control.folder / "apis.d/users.yaml").read_text())["name"] == "$${HOME}"
    await control.tyk("GET", "/reload?block=true")
    assert control.site.current.table.apis["users"].definition.name == "${HOME}"
    before = (control.folder / "apis.d/users.yaml").read_bytes()
    assert (await control.tyk("PUT", "/apis/users", (await control.tyk("GET", "/apis/users")).json)).status == 200
    assert (control.folder / "apis.d/users.yaml").read_bytes() == before
    native = {"id": "a", "listen": "/a/", "auth": "none", "plugins": [{"mock": "${file:/etc/passwd}"}]}
    assert (await control.tyk("POST", "/apis?format=native", native)).status == 400


async def test_no_file_of_the_machine_is_used(control):
    native = {"id": "a", "listen": "/a/", "auth": "none",
              "upstream": {"url": "https://up.example/", "tls": {"ca": "/etc/ssl/ca.pem", "key": ["x"]}}}  # fmt: skip
    answer = await control.tyk("POST", "/apis?format=native", native)
    assert (answer.status, [line.partition(":")[0] for line in answer.json["details"]]) == (
        400,
        ["upstream.tls.ca", "upstream.tls.key"],
    )
    classic = users(x_aiogate={"upstream": {"tls": {"certificate": "/etc/ssl/gateway.pem"}}})
    assert "upstream.tls.certificate" in (await control.tyk("POST", "/apis", classic)).text


async def test_a_variable_that_stands_there_stays(control):
    shown = (await control.tyk("GET", "/apis/portal")).json
    assert "${UPSTREAM_PORT:-9002}" in shown["proxy"]["target_url"]
    shown["x_aiogate"].pop("plugins", None)
    answer = await control.tyk("PUT", "/apis/portal?force=1", shown)
    assert answer.status == 200, answer.text
    written = yaml.safe_load((control.folder / "apis.d/portal.yaml").read_text())
    assert written["upstream"]["url"] == "http://127.0.0.1:${UPSTREAM_PORT:-9002}/"


async def test_files_with_secrets_are_for_the_gateway_alone(control):
    native = {"id": "a", "listen": "/a/", "auth": "none", "upstream": "http://127.0.0.1:1/",
              "plugins": [{"request_headers": {"set": {"Authorization": "Basic abc"}}}]}  # fmt: skip
    await control.tyk("POST", "/apis?format=native", native)
    await control.tyk("POST", "/apis", users())
    modes = [stat.S_IMODE((control.folder / "apis.d" / f"{name}.yaml").stat().st_mode) for name in ("a", "users")]
    assert modes[0] == 0o600
    assert modes[1] & 0o600 == 0o600


async def test_many_writers_leave_whole_files(control):
    bodies = [users(name=f"Users {number}") for number in range(10)]
    bodies += [users(api_id=f"u{n}", proxy={**USERS["proxy"], "listen_path": f"/u{n}/"}) for n in range(10)]
    answers = await asyncio.gather(*(control.tyk("POST", "/apis", body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert [name for name in files(control) if name.startswith(".")] == []
    assert (await control.tyk("GET", "/reload?block=true")).status == 200


async def test_one_listen_path_has_one_winner(control):
    bodies = [users(api_id=f"u{number}") for number in range(8)]
    answers = await asyncio.gather(*(control.tyk("POST", "/apis", body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200, *[400] * 7]


async def test_a_full_disk_is_told_and_leaves_nothing(control, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aiogate.control.operations.definition_files.os.fsync", full)
    answer = await control.tyk("POST", "/apis", users())
    assert (answer.status, answer.json["details"]) == (507, ["No space left on device"])
    assert [name for name in files(control) if "users" in name] == []


async def test_a_policy_goes_round(control):
    whole = {**SILVER, "quota_max": 100, "quota_renewal_rate": 3600, "key_expires_in": 86400, "tags": ["t"],
             "meta_data": {"a": ["x"]}, "partitions": {"rate_limit": True, "quota": True, "acl": True}}  # fmt: skip
    assert (await control.tyk("POST", "/policies/silver", {**whole, "id": ""})).json["action"] == "added"
    assert (await control.tyk("GET", "/reload?block=true")).status == 200
    shown = (await control.tyk("GET", "/policies/silver")).json
    assert {key: shown[key] for key in ("rate", "per", "quota_max", "tags", "meta_data")} == {
        key: whole[key] for key in ("rate", "per", "quota_max", "tags", "meta_data")
    }
    before = (control.folder / "policies.d/silver.yaml").read_bytes()
    assert (await control.tyk("PUT", "/policies/silver", shown)).json["action"] == "modified"
    assert (control.folder / "policies.d/silver.yaml").read_bytes() == before
    assert stat.S_IMODE((control.folder / "policies.d/silver.yaml").stat().st_mode) == 0o600


async def test_a_dashboard_user_writes_into_one_organisation(control):
    made = await control.api("POST", "/apis", {"api_definition": users(org_id="acme"), "hook_references": []})
    assert made.status == 200
    assert {key: made.json[key] for key in ("Status", "Message", "Meta", "ID", "pending")} == {
        "Status": "OK", "Message": "API created", "Meta": "users", "ID": "users", "pending": "reload",
    }  # fmt: skip
    assert "org" not in yaml.safe_load((control.folder / "apis.d/users.yaml").read_text())
    wrapped = {"api_definition": users()}
    assert (await control.api("POST", "/apis", wrapped)).json["Message"] == "Found API with the same ID"
    assert (await control.api("POST", "/apis", wrapped, OTHER_KEY)).status == 409
    assert (await control.api("PUT", "/apis/users", wrapped, OTHER_KEY)).status == 404
    assert (await control.api("DELETE", "/apis/users", None, OTHER_KEY)).status == 404
    assert (await control.api("PUT", "/apis/users", wrapped)).json["Message"] == "API updated"
    assert (await control.api("POST", "/apis", users())).status == 400
    hooked = {"api_definition": users(api_id="h"), "hook_references": [{"event_name": "x"}]}
    assert "hook_references" in (await control.api("POST", "/apis", hooked)).text
    assert (await control.api("DELETE", "/apis/users")).json["Message"] == "API deleted"


async def test_policies_of_the_dashboard(control):
    made = await control.api("POST", "/portal/policies", {key: SILVER[key] for key in SILVER if key != "id"})
    identifier = made.json["Message"]
    assert (made.status, len(identifier)) == (200, 24)
    again = await control.api("POST", "/portal/policies", {**SILVER, "id": "other"})
    assert (again.status, "already been used" in again.json["Message"]) == (400, True)
    assert (await control.api("PUT", f"/portal/policies/{identifier}", {**SILVER, "id": ""})).json["Message"] == (
        "Data updated"
    )
    assert (await control.api("DELETE", f"/portal/policies/{identifier}", None, OTHER_KEY)).status == 404
    assert (await control.api("DELETE", f"/portal/policies/{identifier}")).json["Message"] == "Data deleted"
    await control.tyk("GET", "/reload?block=true")
    assert (await control.api("GET", f"/portal/policies/{identifier}")).status == 404


HARMLESS = {
    '{"version_data": []}': ("/policies/p",),
    '{"name": "\\u0000"}': ("/policies/p", "/policies/p?format=native"),
}


@pytest.mark.parametrize(
    "body",
    ['{"api_id": "a", "api_id": "b"}', '{"proxy": {"listen_path": "/a/", "listen_path": "/b/"}}', "[]", "{", "",
     '{"a":' * 900 + "1" + "}" * 900, '{"x_aiogate": {"labels": ' + "[" * 700 + "]" * 700 + "}}", '{"proxy": 5}',
     '{"proxy": {"listen_path": {"a": 1}}}', '{"api_id": 7}', '{"version_data": []}', '{"auth": "none"}',
     '{"x_aiogate": {"plugins": [[[]]]}}', '{"x_aiogate": 3}', '{"name": "\\u0000"}',
     '{"constructor": {"prototype": 1}}',
     '{"global_rate_limit": {"rate": 1e400, "per": 1}}', '{"id": 99999999999999999999999999}'],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/apis", "/apis?format=native", "/policies/p", "/policies/p?format=native"])
async def test_strange_bodies_are_the_callers_mistake(control, path, body):
    answer = await control.tyk("POST", path, body)
    # An empty policy is one.
    expected = 200 if path in HARMLESS.get(body, ()) else 400
    assert answer.status == expected, answer.text


async def test_a_key_that_stands_twice_is_told_with_its_place(control):
    answer = await control.tyk("POST", "/apis", '{"proxy": {"a": [{}, {"b": 1, "b": 2}]}}')
    assert answer.json["details"] == ["the key 'proxy.a.1.b' stands twice in one object"]


async def test_a_large_body_is_refused_before_it_is_read(control):
    answer = await control.tyk("POST", "/apis", io.BytesIO(b'{"name": "' + b"x" * 10_000_000 + b'"}'))
    assert answer.status == 413
