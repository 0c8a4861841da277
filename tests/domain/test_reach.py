"""Where a definition that came over HTTP may not lead to, however the address is spelled."""

from __future__ import annotations

import pytest

from aiogate.domain.reach import forbidden_address, forbidden_host, is_listener


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254",
     "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1",
     "0.0.0.0", "::", "224.0.0.1", "metadata.google.internal", "Metadata", "example.0x1", "10.0.0.300"],
)  # fmt: skip
def test_never(host):
    assert forbidden_host(host)


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "10.0.0.1", "::1", "fd12::1", "8.8.8.8", "a1", "1a.2b"])
def test_as_usual(host):
    assert forbidden_host(host) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "192.168.3.4", "::1", "fd12::1", "::ffff:10.0.0.1",
                                  "localhost", "a.localhost"])  # fmt: skip
def test_private_places_where_the_settings_close_them(host):
    assert forbidden_host(host, private=False)


def test_an_address_that_a_name_resolved_to():
    assert forbidden_address("fe80::1%eth0")
    assert forbidden_address("nothing")
    assert forbidden_address("93.184.216.34", private=False) == ""


@pytest.mark.parametrize(
    ("address", "port", "listener", "reached"),
    [
        ("127.0.0.1", 8081, ("127.0.0.1", 8081), True),
        ("127.8.8.8", 8081, ("127.0.0.1", 8081), True),
        ("::ffff:127.0.0.1", 8081, ("127.0.0.1", 8081), True),
        ("0.0.0.0", 8081, ("127.0.0.1", 8081), True),
        ("127.0.0.1", 8080, ("127.0.0.1", 8081), False),
        ("10.0.0.5", 8081, ("127.0.0.1", 8081), False),
        ("10.0.0.5", 8081, ("0.0.0.0", 8081), True),
        ("8.8.8.8", 8081, ("0.0.0.0", 8081), False),
        ("10.0.0.5", 8081, ("10.0.0.5", 8081), True),
        ("name", 8081, ("10.0.0.5", 8081), False),
    ],
)
def test_the_control_port_is_known_by_every_address(address, port, listener, reached):
    assert is_listener(address, port, listener) is reached
