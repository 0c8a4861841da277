"""JSON Schema (draft 2020-12) of what an operator writes: a definition with the plugins there are, a policy, settings.

Made from the models that read the files, so that it knows every key, with what the models do before they validate: a
bare value for a field (`shorthand`), an empty value for a section, `${…}` anywhere. A schema sees one file and no more
than types, keys and patterns: what two values say about each other, or two files, is for `aiogate check`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema

from aiogate.config.definition import Declaration
from aiogate.config.match import MatchDeclaration
from aiogate.config.model import Model
from aiogate.config.policy import PolicyDeclaration
from aiogate.config.settings import Settings

if TYPE_CHECKING:
    from pydantic_core import core_schema

__all__ = ["PluginShape", "definition_schema", "policy_schema", "settings_schema"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_VALIDATION: Final[JsonSchemaMode] = "validation"
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{", "description": "A value with `${NAME}` or `${file:/path}`."}
_TO_VARIABLE: Final = {"$ref": "#/$defs/variable"}


@dataclass(frozen=True, slots=True)
class PluginShape:
    """What an entry of a plugin looks like."""

    name: str
    config: type[Model]
    authenticates: bool
    refuses: bool = True
    summary: str = ""


class _Generator(GenerateJsonSchema):
    """Pydantic's own, with what `Model` does before it validates."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        shape = super().model_schema(schema)
        model = schema["cls"]
        shape.pop("title", None)
        if not issubclass(model, Model):
            return shape
        for name, text in _field_docstrings(model).items():
            if name in shape.get("properties", {}):
                shape["properties"][name] = {"description": text, **shape["properties"][name]}
        forms = [shape]
        if model.shorthand is not None:
            forms.append(shape["properties"][model.shorthand])
        if not shape.get("required"):
            forms.append({"type": "null"})
        if len(forms) == 1:
            return shape
        described = {"description": shape.pop("description")} if "description" in shape else {}
        return {**described, "anyOf": forms}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        shape = super().dict_schema(schema)
        if "patternProperties" in shape:
            shape["additionalProperties"] = False
        return shape

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        shape = super().function_before_schema(schema)
        # What runs before a list is there to take a single value too.
        return {"anyOf": [shape, shape["items"]]} if isinstance(shape.get("items"), dict) else shape

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        shape = super().default_schema(schema)
        # What the model holds is not what is written: seconds, not `5s`.
        if not isinstance(shape.get("default"), (bool, str)):
            shape.pop("default", None)
        return shape

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _field_docstrings(model: type[Model]) -> Mapping[str, str]:
    """The strings below the fields, of the class and its bases; none where the source is not there."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls is Model or not issubclass(cls, Model):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        assert isinstance(body, ast.ClassDef)
        for node, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    found[node.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def definition_schema(plugins: Iterable[PluginShape]) -> dict[str, Any]:
    """The schema of a file in `apis.d`, for these plugins."""
    plugins = sorted(plugins, key=lambda plugin: plugin.name)
    models: list[type[Model]] = [Declaration, MatchDeclaration, *(plugin.config for plugin in plugins)]
    references, made = models_json_schema(
        [(model, _VALIDATION) for model in dict.fromkeys(models)],
        schema_generator=_Generator,
        ref_template="#/$defs/{model}",
    )
    definitions: dict[str, Any] = made["$defs"]
    configs = {plugin.name: references[plugin.config, _VALIDATION] for plugin in plugins}
    match = references[MatchDeclaration, _VALIDATION]
    definitions["plugin"] = _entry([one for one in plugins if not one.authenticates], configs, match)
    definitions["method"] = _entry([one for one in plugins if one.authenticates], configs, None)
    name = references[Declaration, _VALIDATION]["$ref"].rpartition("/")[2]
    top = definitions.pop(name)
    top["properties"]["auth"] = _auth()
    top["properties"]["plugins"] = {
        "description": "Further middleware, in this order inside each stage.",
        "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/plugin"}}, {"type": "null"}],
    }
    top["required"] = ["listen", "auth"]
    top["description"] = "An API of aiogate: one file in apis.d/."
    return _finished("aiogate API definition", top, definitions)


def policy_schema() -> dict[str, Any]:
    """The schema of a file in `policies.d`."""
    made = TypeAdapter(PolicyDeclaration).json_schema(schema_generator=_Generator, ref_template="#/$defs/{model}")
    return _finished("aiogate policy", made, made.pop("$defs", {}))


def settings_schema() -> dict[str, Any]:
    """The schema of `aiogate.yaml`, with the short forms that some of its keys have."""
    made = TypeAdapter(Settings).json_schema(schema_generator=_Generator, ref_template="#/$defs/{model}")
    definitions = made.pop("$defs", {})
    keys = next(form["properties"] for form in made.get("anyOf", [made]) if "properties" in form)
    for name, short in (("workers", {"const": "auto"}), ("trusted_proxies", {"type": ["string", "null"]})):
        about = {"description": keys[name].pop("description")} if "description" in keys[name] else {}
        keys[name] = {**about, "anyOf": [keys[name], short]}
    return _finished("aiogate settings", made, definitions)


def _entry(
    plugins: Iterable[PluginShape], configs: Mapping[str, JsonSchemaValue], match: JsonSchemaValue | None
) -> dict[str, Any]:
    """An entry under `plugins`, or one under `auth` if there is no `match`: a name, or a mapping with it."""
    plugins = list(plugins)
    properties: dict[str, Any] = {}
    shadowless: dict[str, Any] = {}
    for plugin in plugins:
        properties[plugin.name] = {"description": plugin.summary, **configs[plugin.name]}
        if match is not None and not plugin.refuses:
            shadowless[plugin.name] = {"properties": {"mode": {"const": "enforce"}}}
    if match is not None:
        properties |= {
            "match": {"description": "Which requests it is for.", **match},
            "mode": {
                "description": "In shadow it decides and is counted, and never refuses.",
                "enum": ["enforce", "shadow"],
            },
        }
    else:
        properties["mode"] = {"const": "enforce"}
    mapping: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [{"required": [plugin.name]} for plugin in plugins],
    }
    if shadowless:
        mapping["dependentSchemas"] = shadowless
    return {"anyOf": [{"enum": [plugin.name for plugin in plugins]}, mapping]}


def _auth() -> dict[str, Any]:
    methods = {"type": "array", "items": {"$ref": "#/$defs/method"}, "minItems": 1}
    return {
        "description": "How clients prove who they are: any of a list, all of one, or `none` for an open API.",
        "anyOf": [
            {"const": "none"},
            {"$ref": "#/$defs/method"},
            methods,
            {
                "type": "object",
                "properties": {
                    "all": methods,
                    "session_from": {
                        "description": "The method that supplies the session; the first unless given.",
                        "type": ["string", "null"],
                    },
                },
                "required": ["all"],
                "additionalProperties": False,
            },
        ],
    }


def _finished(title: str, top: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The document, with a variable allowed wherever a scalar is."""
    shown = {"$schema": DIALECT, "title": title, **_with_variables(dict(top))}
    shown["$defs"] = {name: _with_variables(shape) for name, shape in sorted(definitions.items())}
    shown["$defs"]["variable"] = _VARIABLE
    return shown


def _with_variables(shape: Any) -> Any:
    """The schema in which each value that is no free text may also be the text of a variable."""
    if isinstance(shape, list):
        return [_with_variables(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    inner = {
        key: (
            {name: _with_variables(one) for name, one in value.items()} if key in _MAPPINGS else _with_variables(value)
        )
        if key in _NESTED
        else value
        for key, value in shape.items()
    }
    kind = inner.get("type")
    narrow = kind in ("integer", "number", "boolean") or "enum" in inner or (kind == "string" and "pattern" in inner)
    if not narrow:
        return inner
    about = {key: inner.pop(key) for key in ("description", "default", "examples") if key in inner}
    return {**about, "anyOf": [inner, _TO_VARIABLE]}


_MAPPINGS: Final = frozenset(("properties", "patternProperties"))
_NESTED: Final = _MAPPINGS | {"items", "prefixItems", "anyOf", "additionalProperties", "allOf"}
