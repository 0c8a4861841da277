"""`aiogate users import`: users of an htpasswd file come in with the passwords that they had."""

from __future__ import annotations

import base64
import json
import urllib.request

import bcrypt
import pytest

from aiogate.credentials.hashes import hashed
from tests.cli.site import Site

ANN = bcrypt.hashpw(b"anns-secret", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")


def comes_in(site: Site, user: str, password: str) -> int:
    request = urllib.request.Request(f"{site.gateway}/login-api/", headers={"Host": "api.example.com"})
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_each_line_is_imported_or_named(site: Site) -> None:
    lines = [
        "# made by htpasswd -B",
        f"ann:{ANN}",
        f"dan:{hashed(b'dans-secret', 'argon2id', 4)}",
        "",
        "bob:$apr1$abcdefgh$0123456789012345678901",
        "eve:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "carl:rl0uE3N2wZ4ac",
        "nobody",
        f":{ANN}",
        f"ann:{ANN}",
        f"bad\tname:{ANN}",
        f"fred:{ANN}:further:fields",
    ]
    file = site.folder / "htpasswd"
    file.write_text("\n".join(lines) + "\n")
    tried = site.run("users", "import", "htpasswd", "--policy", "gold", "--dry-run", code=1)
    assert "could be imported" in tried.stderr
    assert comes_in(site, "ann", "anns-secret") == 401
    result = site.run("users", "import", "htpasswd", "--policy", "gold", code=1)
    told = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert told["line 2"] == "ann: imported"
    assert told["line 3"] == "dan: imported"
    assert "Apache's MD5" in told["line 5"]
    assert "SHA-1" in told["line 6"]
    assert "crypt's DES" in told["line 7"]
    assert "no colon" in told["line 8"]
    assert "no name" in told["line 9"]
    assert "first one counts" in told["line 10"]
    assert "imported" not in told["line 11"]
    assert told["line 12"] == "fred: imported"
    assert result.stderr.strip() == "3 users imported, 7 lines refused"
    assert ANN not in result.stdout
    # The upstream is not there: 502 is behind the door.
    assert comes_in(site, "ann", "anns-secret") == 502
    assert comes_in(site, "dan", "dans-secret") == 502
    assert comes_in(site, "ann", "wrong") == 401


def test_who_is_there_stays_unless_told(site: Site) -> None:
    file = site.folder / "more"
    file.write_text(f"gus:{ANN}\n")
    site.run("users", "import", "more", "--api", "login")
    again = site.run("users", "import", "more", "--api", "login", "--json", code=1)
    [told] = json.loads(again.stdout)
    assert (told["line"], told["user"]) == (1, "gus")
    assert "--replace" in told["refused"]
    site.run("users", "import", "more", "--api", "login", "--replace")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"ann:\xc3"])
def test_a_file_that_is_no_text(site: Site, data: bytes) -> None:
    (site.folder / "data").write_bytes(data)
    assert "cannot be read" in site.run("users", "import", "data", "--policy", "gold", code=1).stderr


def test_rights_must_be_given(site: Site) -> None:
    (site.folder / "some").write_text(f"ida:{ANN}\n")
    assert "--api or --policy" in site.run("users", "import", "some", code=2).stderr
