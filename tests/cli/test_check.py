"""`aiogate check`: every mistake at its place, by exit code, text and JSON; and which files are asked about."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aiogate.testing.gateway import write_files
from tests.cli.site import typed

BROKEN = Path(__file__).parent.parent / "broken"
HELLO = "listen: /hello/\nauth: none\nplugins: [{mock: {body: hi}}]\n"
MISTAKEN = "listen: /oops/\nauth: none\nupsteam: http://127.0.0.1:9/\n"
PLUGIN = '"""A plugin that cannot be loaded."""\nimport nothing_of_this_name\n'


def cases() -> list[Path]:
    return sorted(case for case in BROKEN.iterdir() if (case / "expected").is_file())


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_known_mistake_is_told_and_ends_with_1(case: Path) -> None:
    report = json.loads(typed(case, "check", "--json", code=1).stdout)
    told = [f"{one['file']}:{one['line']}:{one['column']} {one['code']}" for one in report["diagnostics"]]
    assert told == (case / "expected").read_text().splitlines()
    assert report["ok"] is False
    assert (report["apis"], report["policies"], report["plugins"]) == (None, None, None)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_text_has_a_line_for_each_and_a_sum(case: Path) -> None:
    lines = typed(case, "check", code=1).stdout.splitlines()
    report = json.loads(typed(case, "check", "--format", "json", code=1).stdout)
    assert len(lines) == len(report["diagnostics"]) + 1
    assert all(re.match(r".+:\d+:\d+: .+", line) for line in lines[:-1])
    assert re.fullmatch(r"\d+ problems? in \d+ files?", lines[-1])


def test_a_whole_project(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/hello.yaml": HELLO, "policies.d/gold.yaml": "id: gold\naccess: {hello: {}}\n"})
    out = typed(tmp_path, "check").stdout
    assert re.fullmatch(r"all well: 1 API, 1 policy, \d+ plugins\n", out)
    report = json.loads(typed(tmp_path, "check", "--json").stdout)
    assert (report["ok"], report["diagnostics"], report["apis"], report["policies"]) == (True, [], 1, 1)


def test_an_upstream_that_is_not_verified_is_a_warning(tmp_path: Path) -> None:
    text = "listen: /a/\nauth: key\nupstream: {url: 'https://127.0.0.1:9/', tls: {verify: false}}\n"
    write_files(tmp_path, {"apis.d/a.yaml": text})
    lines = typed(tmp_path, "check").stdout.splitlines()
    assert lines[0].startswith("apis.d/a.yaml:3:55: warning: the upstream's certificate is not verified")
    assert lines[1].endswith("1 warning")


def test_nothing_is_made(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/hello.yaml": HELLO})
    typed(tmp_path, "check")
    assert [path.name for path in tmp_path.iterdir()] == ["apis.d"]


def test_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    out = typed(tmp_path, "check", code=1).stdout
    assert out.startswith("apis.d:0:0: there is no such folder (make it and put a file such as `hello.yaml` into it")
    assert out.endswith("\n1 problem in 1 file\n")


def test_a_hint_follows_in_parentheses(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/oops.yaml": MISTAKEN})
    out = typed(tmp_path, "check", code=1).stdout
    assert "apis.d/oops.yaml:3:1: `upsteam` is not a known key (did you mean `upstream`?)\n" in out


def test_a_warning_is_told_and_refuses_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/hello.yaml": HELLO, "apis.d/old.json": "{}"})
    out = typed(tmp_path, "check").stdout
    assert out.startswith("apis.d/old.json:0:0: warning: is not read")
    assert out.endswith("1 warning\n")


OPEN = "listen: /open/\nauth: none\nupstream: http://127.0.0.1:9/\n"


def test_warnings_are_problems_only_if_asked(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/open.yaml": OPEN})
    out = typed(tmp_path, "check").stdout
    assert out.startswith(
        "apis.d/open.yaml:2:7: warning: whoever reaches the gateway reaches this upstream (ignore this "
    )
    assert out.endswith(", 1 warning\n")
    strict = typed(tmp_path, "check", "--strict", code=1).stdout
    assert strict.startswith("apis.d/open.yaml:2:7: whoever reaches the gateway")
    assert strict.endswith("1 problem in 1 file\n")
    report = json.loads(typed(tmp_path, "check", "--strict", "--json", code=1).stdout)
    assert [(one["code"], one["severity"]) for one in report["diagnostics"]] == [("api_open", "error")]


def test_annotations_for_a_workflow(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/oops.yaml": MISTAKEN, "apis.d/open.yaml": OPEN, "policies.d/a,b.yaml": "id: '%:'\n"})
    assert typed(tmp_path, "check", "--format", "github", code=1).stdout == (
        "::error file=apis.d/oops.yaml,line=3,col=1,title=aiogate unknown_key::"
        "`upsteam` is not a known key (did you mean `upstream`?)\n"
        "::error file=policies.d/a%2Cb.yaml,line=1,col=5,title=aiogate invalid_id::"
        "`%25:` is not an id (up to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit)\n"
    )
    write_files(tmp_path, {"apis.d/oops.yaml": HELLO, "policies.d/a,b.yaml": "{id: a, access: {open: {}}}"})
    assert typed(tmp_path, "check", "--format", "github").stdout == (
        "::warning file=apis.d/open.yaml,line=2,col=7,title=aiogate api_open::"
        "whoever reaches the gateway reaches this upstream (ignore this if the API is meant to be open)\n"
    )
    nowhere = typed(tmp_path, "check", "--apis", "none", "--format", "github", code=1).stdout
    assert nowhere.startswith("::error file=none,title=aiogate file_unreadable::there is no such folder (make it")


def test_mistaken_settings_do_not_hide_mistakes_in_files(tmp_path: Path) -> None:
    site = {"aiogate.yaml": "wrokers: 1\nlimits: {connections: none}\n", "apis.d/oops.yaml": MISTAKEN}
    write_files(tmp_path, site | {"apis.d/hello.yaml": HELLO})
    told = [one["code"] for one in json.loads(typed(tmp_path, "check", "--json", code=1).stdout)["diagnostics"]]
    assert told == ["unknown_key", "wrong_type", "unknown_key"]
    assert files_told(typed(tmp_path, "check", "apis.d/hello.yaml", "--json", code=1).stdout) == {"aiogate.yaml"}
    # Where the files are cannot be said.
    for settings in ("apis: []\n", "state: [\n"):
        write_files(tmp_path, {"aiogate.yaml": settings})
        assert files_told(typed(tmp_path, "check", "--json", code=1).stdout) == {"aiogate.yaml"}


def test_an_access_log_that_a_start_could_not_open(tmp_path: Path) -> None:
    def told(file: str, code: int) -> str:
        write_files(
            tmp_path, {"apis.d/hello.yaml": HELLO, "aiogate.yaml": f"access_log:\n  format: json\n  file: {file}\n"}
        )
        return typed(tmp_path, "check", code=code).stdout.splitlines()[0]

    assert told("no/log", 1) == "aiogate.yaml:3:9: the access log no/log cannot be opened: there is no folder no"
    assert told("apis.d", 1) == "aiogate.yaml:3:9: the access log apis.d cannot be opened: it is a folder"
    for file in ("log", "/dev/null", "'-'"):
        assert told(file, 0).startswith("all well")
    assert not (tmp_path / "log").exists()
    write_files(tmp_path, {"aiogate.yaml": "access_log: {format: json, file: no/log}\n", "apis.d/oops.yaml": MISTAKEN})
    codes = [one["code"] for one in json.loads(typed(tmp_path, "check", "--json", code=1).stdout)["diagnostics"]]
    assert codes == ["access_log_unwritable", "unknown_key"]
    write_files(tmp_path, {"aiogate.yaml": "access_log: {format: off, file: no/log}\n", "apis.d/oops.yaml": HELLO})
    (tmp_path / "apis.d/hello.yaml").unlink()
    assert typed(tmp_path, "check").stdout.startswith("all well")


def test_authorities_of_a_redis_that_cannot_be_read(tmp_path: Path) -> None:
    site = {"apis.d/hello.yaml": HELLO, "ca.pem": "nothing\n"}

    def told(store: str, ca: str, code: int) -> str:
        write_files(tmp_path, site | {"aiogate.yaml": f"store: {store}\nredis:\n  ca: {ca}\n"})
        return typed(tmp_path, "check", code=code).stdout.splitlines()[0]

    secure = "rediss://:secret@redis.example:6380"
    assert told(secure, "no.pem", 1) == (
        "aiogate.yaml:3:7: no.pem cannot be read: No such file or directory (looked for no.pem)"
    )
    assert told("rediss+sentinel://redis.example/main", "ca.pem", 1) == (
        "aiogate.yaml:3:7: ca.pem holds no certificate that can be used (PEM, one certificate after another)"
    )
    assert told("redis://redis.example", "no.pem", 0).startswith("all well")


# what a path means


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A good definition, a bad one, a bad plugin."""
    write_files(
        tmp_path, {"apis.d/hello.yaml": HELLO, "apis.d/oops.yaml": MISTAKEN, "plugins/lost.py": PLUGIN},
    )  # fmt: skip
    return tmp_path


def files_told(report: str) -> set[str]:
    return {one["file"] for one in json.loads(report)["diagnostics"]}


def test_a_file_has_only_its_own_problems_told(mixed: Path) -> None:
    assert files_told(typed(mixed, "check", "--json", code=1).stdout) == {"apis.d/oops.yaml", "plugins/lost.py"}
    assert files_told(typed(mixed, "check", "apis.d/oops.yaml", "--json", code=1).stdout) == {"apis.d/oops.yaml"}
    assert files_told(typed(mixed, "check", "plugins/lost.py", "--json", code=1).stdout) == {"plugins/lost.py"}
    out = typed(mixed, "check", "apis.d/hello.yaml").stdout
    assert re.fullmatch(r"all well: apis.d/hello.yaml; \d+ problems in other files\n", out)


def test_a_folder_of_the_project_has_only_its_own_problems_told(mixed: Path) -> None:
    assert files_told(typed(mixed, "check", "apis.d", "--json", code=1).stdout) == {"apis.d/oops.yaml"}
    both = typed(mixed, "check", "apis.d/hello.yaml", "plugins", "apis.d/oops.yaml", "--json", code=1).stdout
    assert files_told(both) == {"apis.d/oops.yaml", "plugins/lost.py"}


def test_a_project_elsewhere_and_a_file_in_it(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    whole = typed(away, "check", str(mixed), "--json", code=1).stdout
    assert files_told(whole) == {str(mixed / "apis.d/oops.yaml"), str(mixed / "plugins/lost.py")}
    one = typed(away, "check", str(mixed / "apis.d" / "oops.yaml"), "--json", code=1).stdout
    assert files_told(one) == {str(mixed / "apis.d/oops.yaml")}
    below = typed(mixed.parent, "check", mixed.name, "--json", code=1).stdout
    assert f"{mixed.name}/apis.d/oops.yaml" in files_told(below)


def test_settings_of_a_project_elsewhere_say_where_its_folders_are(tmp_path: Path) -> None:
    write_files(tmp_path, {"site/aiogate.yaml": "apis: conf\n", "site/conf/oops.yaml": MISTAKEN})
    assert files_told(typed(tmp_path, "check", "site", "--json", code=1).stdout) == {"site/conf/oops.yaml"}
    named = typed(tmp_path, "check", "-c", "site/aiogate.yaml", "--json", code=1).stdout
    assert files_told(named) == {"site/conf/oops.yaml"}


def test_flags_are_relative_to_where_they_are_typed(tmp_path: Path) -> None:
    write_files(tmp_path, {"site/aiogate.yaml": "workers: 1\n", "mine/oops.yaml": MISTAKEN})
    told = typed(tmp_path, "check", "-c", "site/aiogate.yaml", "--apis", "mine", "--json", code=1).stdout
    assert files_told(told) == {"mine/oops.yaml"}


def test_a_folder_of_yaml_without_a_project_is_a_folder_of_definitions(tmp_path: Path) -> None:
    write_files(tmp_path, {"drafts/oops.yaml": MISTAKEN, "drafts/hello.yaml": HELLO})
    assert files_told(typed(tmp_path, "check", "drafts", "--json", code=1).stdout) == {"drafts/oops.yaml"}
    assert files_told(typed(tmp_path, "check", "drafts/oops.yaml", "--json", code=1).stdout) == {"drafts/oops.yaml"}
    assert typed(tmp_path, "check", "drafts/hello.yaml").stdout.startswith("all well: drafts/hello.yaml; ")


def test_mistaken_settings_are_told_whatever_was_asked(tmp_path: Path) -> None:
    write_files(tmp_path, {"aiogate.yaml": "wrokers: 1\n", "apis.d/hello.yaml": HELLO})
    for arguments in ([], ["apis.d/hello.yaml"], ["aiogate.yaml"], ["."]):
        assert files_told(typed(tmp_path, "check", *arguments, "--json", code=1).stdout) == {"aiogate.yaml"}


def test_a_file_that_a_gateway_passes_over_is_not_called_well_in_silence(tmp_path: Path) -> None:
    write_files(tmp_path, {"apis.d/hello.yaml": HELLO, "apis.d/_draft.yaml": MISTAKEN, "notes.txt": "x"})
    out = typed(tmp_path, "check", "apis.d/_draft.yaml").stdout
    assert out.startswith("apis.d/_draft.yaml:0:0: warning: is left alone (its name begins with _)\n")
    assert "not a file that the gateway would read" in typed(tmp_path, "check", "notes.txt", code=2).stderr
