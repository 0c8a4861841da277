"""The files under `docs/deploy`: what they say of the gateway is so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from aiogate.cli.main import main
from aiogate.config.settings import Settings, load_settings
from tests.house.manual import ROOT

DEPLOY = ROOT / "docs" / "deploy"


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))


def container() -> dict[str, Any]:
    deployment = next(each for each in manifests() if each["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def settings_of(environment: dict[str, str]) -> Settings:
    """The settings that a container's environment makes. Raises for a name that is none, or a value that cannot be."""
    return load_settings(None, environment, {})


def flags(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def test_the_commands_have_the_flags_that_they_use() -> None:
    unit = (DEPLOY / "aiogate.service").read_text("utf-8")
    starts = [line.partition("=")[2].split() for line in unit.splitlines() if re.match(r"Exec\w+=", line)]
    for words in [*(words[1:] for words in starts), container()["args"][1:], ["reload", "--group"]]:
        shown = CliRunner().invoke(main, [words[0], "--help"])
        assert shown.exit_code == 0
        assert all(flag in shown.output for flag in flags(words)), words


def test_the_environments_are_settings() -> None:
    secret = "0123456789abcdefABCDEF"
    values = {"AIOGATE_SECRET": secret, "AIOGATE_STORE": "redis://redis:6379/0"}
    named = {entry["name"]: entry.get("value", values.get(entry["name"], "")) for entry in container()["env"]}
    assert settings_of(named).workers == 2
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    environment = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: secret, value)
        for name, value in compose["services"]["gateway-a"]["environment"].items()
    }
    assert settings_of(environment).store.startswith("redis://")
    unit = (DEPLOY / "aiogate.service").read_text("utf-8")
    named = dict(line.split("=", 2)[1:] for line in unit.splitlines() if line.startswith("Environment="))
    assert settings_of(named).state == Path("/var/lib/aiogate")


def test_nobody_is_killed_before_the_drain_has_ended() -> None:
    drain = Settings().timeouts.drain
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    deployment = next(each for each in manifests() if each["kind"] == "Deployment")
    pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert int(compose["services"]["gateway-b"]["stop_grace_period"].removesuffix("s")) > drain
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain + pause
    assert int(re.search(r"TimeoutStopSec=(\d+)", (DEPLOY / "aiogate.service").read_text("utf-8"))[1]) > drain  # type: ignore[index]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_services_and_probes_lead_to_ports_that_are_there() -> None:
    ports = {port["name"]: str(port["containerPort"]) for port in container()["ports"]}
    listens = dict(zip(container()["args"][2::2], container()["args"][3::2], strict=False))
    assert listens["--listen"].endswith(f":{ports['gateway']}")
    assert listens["--control"].endswith(f":{ports['control']}")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] in ports
        assert container()[probe]["httpGet"]["path"] in ("/hello", "/ready")
    for service in (each for each in manifests() if each["kind"] == "Service"):
        assert service["spec"]["selector"] == {"app": "aiogate"}
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "aiogate.service").read_text("utf-8")
    here = unit.replace("/srv/gateway/.venv/bin/aiogate", "/bin/true").replace("User=aiogate", "User=root")
    (tmp_path / "aiogate.service").write_text(here)
    said = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "aiogate.service")], capture_output=True, text=True, timeout=60
    )
    mine = [line for line in said.stderr.splitlines() if "aiogate.service" in line]
    assert mine == []
