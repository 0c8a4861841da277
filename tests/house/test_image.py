"""The Dockerfile, step by step, without Docker: the wheel is built and installed as it says, and its command is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.manual import ROOT, free_ports

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile, continuation lines joined."""

    word: str
    text: str

    def words(self) -> list[str]:
        """The exec form."""
        return [str(word) for word in json.loads(self.text)]


def stages() -> list[list[Step]]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    found: list[list[Step]] = []
    for line in filter(str.strip, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Step(word, rest.strip()))
    return found


def only(word: str) -> Step:
    """The last stage's only instruction of this kind."""
    (step,) = (step for step in stages()[-1] if step.word == word)
    return step


@dataclass(frozen=True)
class Image:
    """What the build stage leaves behind."""

    folder: Path

    @property
    def wheel(self) -> Path:
        (wheel,) = (self.folder / "wheels").glob("aiogate-*.whl")
        return wheel

    def inside(self, text: str) -> str:
        """A command with the image's folders in place of its own."""
        return re.sub(r"(?<![\w/])/(wheels|opt/aiogate)\b", rf"{self.folder}/\1", text)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    built = Image(tmp_path_factory.mktemp("image"))
    source = built.folder / "src"
    source.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The interpreter that runs this stands for the image's.
    python = f'python() {{ "{sys.executable}" "$@"; }}; '
    for step in stages()[0]:
        if step.word == "COPY":
            *names, _ = step.text.split()
            for name in names:
                copied(ROOT / name, source / name)
        elif step.word == "RUN":
            ran = subprocess.run(
                ["bash", "-c", python + built.inside(step.text)],
                cwd=source, env=environment, capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert ran.returncode == 0, f"RUN {step.text}\n{ran.stdout}{ran.stderr}"
    return built


def copied(here: Path, there: Path) -> None:
    if here.is_dir():
        shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(here, there)


def test_the_wheel_holds_the_package_and_nothing_else(image: Image) -> None:
    with zipfile.ZipFile(image.wheel) as wheel:
        names = set(wheel.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = wheel.read(entry_points).decode()
    package = {
        str(path.relative_to(ROOT)) for path in (ROOT / "aiogate").rglob("*") if path.suffix in (".py", ".typed")
    }
    assert {name for name in names if ".dist-info/" not in name} == package
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "aiogate = aiogate.cli.main:main" in commands


def test_the_command_serves_is_healthy_and_stops(image: Image, tmp_path: Path) -> None:
    gateway, control = free_ports(2)
    for folder in ("apis.d", "policies.d"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    environment = {
        "PATH": f"{image.folder}/opt/aiogate/bin:{os.environ['PATH']}",
        "AIOGATE_CONTROL__LISTEN": f"127.0.0.1:{control}",
    }
    command = [word.replace("0.0.0.0:8080", f"127.0.0.1:{gateway}") for word in only("CMD").words()]
    form, _, check = only("HEALTHCHECK").text.partition(" CMD ")
    healthy = [word.replace("8080", gateway) for word in json.loads(check)]
    assert f"127.0.0.1:{gateway}" in command
    assert "--interval" in form
    assert subprocess.run(healthy, env=environment, capture_output=True, check=False, timeout=20).returncode != 0
    serving = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith("aiogate ready: ")
        subprocess.run(healthy, env=environment, check=True, timeout=20)
        subprocess.run(
            ["aiogate", "status"], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=20
        )
        serving.send_signal(getattr(signal, only("STOPSIGNAL").text))
        assert serving.wait(20) == 0
    finally:
        serving.kill()
        serving.communicate()


def test_it_runs_as_a_user_of_its_own_who_owns_the_state() -> None:
    user = only("USER").text
    (made,) = (step.text for step in stages()[-1] if step.word == "RUN")
    assert user.isdigit()
    assert user != "0"
    assert f"useradd --uid {user} " in made
    assert f"install -d -o aiogate -g aiogate -m 0700 {only('VOLUME').text}" in made
    assert only("VOLUME").text == f"{only('WORKDIR').text}/var"


def test_what_the_image_needs_is_in_its_context() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copies = [step.text.split()[:-1] for step in stages()[0] if step.word == "COPY"]
    assert {name for names in copies for name in names} == let_in


def test_both_stages_have_the_same_slim_python() -> None:
    bases = {stage[0].text.split()[0] for stage in stages()}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(3\.\d+)-slim", bases.pop())
    assert version is not None
    assert version[1] >= "3.11"
