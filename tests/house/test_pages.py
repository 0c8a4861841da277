"""The pages under `docs/` say what the code does: every key, code, hook and name, each default, each link."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import trustme
import yaml
from pydantic import BaseModel

import aiogate
import aiogate.testing
from aiogate.chain import hookspecs
from aiogate.config.definition import Declaration, Versions
from aiogate.config.policy import Access, PolicyDeclaration
from aiogate.config.settings import Settings, load_settings
from aiogate.config.upstream import Target, Upstream, UpstreamTls
from aiogate.control.application import application
from aiogate.errors import DIAGNOSTICS, PROBLEMS
from aiogate.runtime.assembly import check
from aiogate.testing import running_gateway
from aiogate.testing.gateway import write_files
from tests.house.manual import PAGES, ROOT, Block, blocks

YAML_BLOCKS = [block for page in PAGES for block in blocks(page) if block.kind == "yaml"]
HOOKS = [name for name, value in vars(hookspecs).items() if name.startswith("aiogate_") and type(value) is FunctionType]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of each row of the first table whose first heading is `first`."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            break
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a settings model, sections opened."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from keys(type(field.default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{field.alias or name}"


def code(cell: str) -> str:
    return cell.strip("`")


def test_every_setting_is_described_with_its_default() -> None:
    table = rows(page("settings.md"), "key")
    assert [code(key) for key, *_ in table] == list(keys(Settings))
    defaults = {code(key): code(default) for key, _, default in table if re.fullmatch("`[^`]+`", default)}
    assert load_settings(None, {}, defaults) == load_settings(None, {})
    # The others say in words what no value is.
    assert {code(key) for key, *_ in table} - defaults.keys() == {"control.secret", "redis.ca", "trusted_proxies"}


def test_every_key_of_a_definition_is_described() -> None:
    table = [code(part) for key, *_ in rows(page("definitions.md"), "key") for part in key.split(", ")]
    assert {key.partition(".")[0] for key in table if key[0] != "."} == set(Declaration.model_fields)
    versions = page("definitions.md").partition("## Versions")[2]
    assert [code(key) for key, *_ in rows(versions, "key")] == list(Versions.model_fields)


def test_every_key_of_an_upstream_is_described_with_its_default() -> None:
    table = rows(page("upstreams.md"), "key")
    targets = [f"targets.{name}" for name in Target.model_fields]
    expected = [key for name in keys(Upstream) for key in ([name, *targets] if name == "targets" else [name])]
    assert [code(key) for key, *_ in table] == expected
    given = {code(key): code(default) for key, _, default in table if re.fullmatch("`[^`]+`", default)}
    assert given.pop("targets.weight") == str(Target.model_fields["weight"].default)
    written: dict[str, Any] = {"url": "http://up/"}
    for key, default in given.items():
        section, _, name = key.rpartition(".")
        (written.setdefault(section, {}) if section else written)[name] = yaml.safe_load(default)
    assert Upstream.model_validate(written) == Upstream.model_validate("http://up/")
    tls = page("upstreams.md").partition("## TLS")[2]
    assert [code(key) for key, *_ in rows(tls, "key")] == list(UpstreamTls.model_fields)


def test_every_key_of_a_policy_is_described() -> None:
    named = [code(part) for key, *_ in rows(page("policies.md"), "key") for part in key.split(", ")]
    assert [key for key in named if "." not in key] == list(PolicyDeclaration.model_fields)
    assert {key.rpartition(".")[2] for key in named if "." in key} == set(Access.model_fields)


def test_every_refusal_is_described() -> None:
    table = rows(page("errors.md"), "code")
    assert [(code(word), int(status)) for word, status, _ in table] == [
        (problem.code, problem.status) for problem in PROBLEMS.values()
    ]


def test_every_diagnostic_is_described() -> None:
    table = rows(page("errors.md").partition("## Mistakes in files")[2], "code")
    assert {code(word): sentence for word, sentence in table} == dict(DIAGNOSTICS)


@pytest.mark.parametrize("word", [*PROBLEMS, *DIAGNOSTICS])
def test_every_code_is_used(word: str) -> None:
    sources = [path for path in (ROOT / "aiogate").rglob("*.py") if path.name != "errors.py"]
    assert any(f'"{word}"' in path.read_text("utf-8") for path in sources)


@pytest.mark.parametrize("name", [*aiogate.__all__, *aiogate.testing.__all__])
def test_every_public_name_is_described(name: str) -> None:
    assert re.search(rf"[`*]{name}\b", page("plugins.md"))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_docstring_a_page_entry_and_a_test(hook: str) -> None:
    assert getattr(hookspecs, hook).__doc__
    assert f"\n### {hook}\n" in page("plugins.md")
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name != "house"]
    assert any(re.search(rf"\b{hook}\(", path.read_text("utf-8")) for path in tests)


async def test_every_control_path_is_described() -> None:
    text = re.sub(r"(?<=/)(NAME|ID|API|REQUEST_ID)\b", "{}", page("control-api.md"))
    found = re.findall(r"(?<![\w.])/(?:[\w{}/-]|\.(?=\w))*", text)
    described = {path.rstrip("/") for path in found} | {"/plugins/{}/{}"}
    async with running_gateway({"apis.d/hello.yaml": "{listen: /hello-world/, auth: none, plugins: [mock: hi]}"}) as it:
        resources = application(it.gateway).router.resources()
    served = {re.sub(r"\{[^}]*\}", "{}", resource.canonical).rstrip("/") for resource in resources}
    assert served - described == set()


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
async def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    """What a page shows as YAML is accepted, beside the samples and the page's other files, which it may name."""
    assert block.file, f"{block}: say in the first line which file this is"
    samples = {f"apis.d/{path.name}": path.read_text("utf-8") for path in (ROOT / "apis.d").glob("*.yaml")}
    plugins = {f"plugins/{path.name}": path.read_text("utf-8") for path in (ROOT / "plugins").glob("*.py")}
    shown = {other.file: other.text for other in blocks(ROOT / block.page) if other.file and not other.part}
    text = block.text
    if block.part and block.file.startswith("apis.d/"):
        whole: dict[str, Any] = {"listen": "/part/", "auth": "none", "upstream": "http://127.0.0.1:9001/"}
        text = yaml.safe_dump(whole | yaml.safe_load(text))
    write_files(
        tmp_path, samples | plugins | shown | certificates("\n".join((text, *shown.values()))) | {block.file: text}
    )
    file = tmp_path / "aiogate.yaml"
    settings = load_settings(file if file.exists() else None, {}, None if file.exists() else folders(tmp_path))
    await check(settings)


def certificates(text: str) -> dict[str, str]:
    """The certificates and keys that settings name."""
    names = re.findall(r"[\w./-]+\.(?:pem|key)\b", text)
    if not names:
        return {}
    made = trustme.CA().issue_cert("localhost")
    chain, key = made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode()
    return {name: chain if name.endswith(".pem") else key for name in names}


def folders(home: Path) -> dict[str, str]:
    return {
        name: str(home / folder)
        for name, folder in (("apis", "apis.d"), ("policies", "policies.d"), ("plugins", "plugins"))
    }


def test_the_readme_shows_the_samples_as_they_are() -> None:
    shown = [block for block in YAML_BLOCKS if block.page == "README.md"]
    assert shown
    for block in shown:
        assert yaml.safe_load(block.text) == yaml.safe_load((ROOT / block.file).read_text("utf-8"))


@pytest.mark.parametrize("name", [path.name for path in PAGES])
def test_links_lead_somewhere(name: str) -> None:
    here = next(path for path in PAGES if path.name == name)
    for target in re.findall(r"\]\(([^)]+)\)", here.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (here.parent / file).resolve() if file else here
        assert there.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name}: {target}"
