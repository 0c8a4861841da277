"""The base of everything that is declared: frozen, strict about unknown keys.

Plugin authors derive their configuration from `Model` too. A plugin that is configured by one bare value
(`- rate_limit: 100/1s`, `- timeout: 5s`) names the field it means in `shorthand`. A validator that refuses a value
raises what `mistake` makes, and so chooses the diagnostic's code and hint; a plain `ValueError` becomes
`invalid_value`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

__all__ = ["Model", "mistake", "scalar_schema"]

_BUILT_IN: Final = frozenset(get_args(core_schema.ErrorType))


def mistake(code: str, message: str, hint: str = "", *, show: bool = False) -> PydanticCustomError:
    """The error with which a validator refuses a value.

    `code` is one of `aiogate.errors.DIAGNOSTICS`. `message` continues a sentence whose subject is the key or, with
    `show`, the value as it stands in the file (never the resolved text of a `${…}`); do not put the value into it.
    """
    return PydanticCustomError(code, _verbatim(message), {"hint": hint, "show": show})


def scalar_schema(parse: Callable[[Any], Any], json: Mapping[str, Any]) -> CoreSchema:
    """How pydantic validates a value type of ours: by `parse`, which gets the YAML value and raises `mistake`s."""
    return core_schema.no_info_plain_validator_function(
        parse,
        serialization=core_schema.to_string_ser_schema(),
        metadata={"pydantic_js_functions": [lambda _schema, _handler: dict(json)]},
    )


class Model(BaseModel):
    """A frozen configuration model. Unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    shorthand: ClassVar[str | None] = None
    """The field that a bare value stands for; None: only a mapping is accepted."""

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if value is None:
            value = {}
        elif cls.shorthand is not None and not isinstance(value, (dict, cls)):
            value = {cls.shorthand: value}
        try:
            return handler(value)
        except ValidationError as error:
            cls._name_known_keys(error)

    @classmethod
    def _name_known_keys(cls, error: ValidationError) -> NoReturn:
        """Raise the same errors again, unknown keys of this very model with the keys that it knows.

        Whoever reports an unknown key can then say which one was meant, however deep the model is nested.
        """
        details = error.errors(include_url=False)
        if not any(detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1 for detail in details):
            raise error
        known = tuple(field.alias or name for name, field in cls.model_fields.items())
        again: list[InitErrorDetails] = []
        for detail in details:
            kind: str | PydanticCustomError = detail["type"]
            context = detail.get("ctx", {})
            if kind == "extra_forbidden" and len(detail["loc"]) == 1:
                kind = PydanticCustomError("unknown_key", "is not a known key", {"known": known})
            elif kind not in _BUILT_IN:
                kind = PydanticCustomError(kind, _verbatim(detail["msg"]), context)  # type: ignore[arg-type]  # not a LiteralString
            again.append(InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"], ctx=context))
        raise ValidationError.from_exception_data(error.title, again)


def _verbatim(message: str) -> str:
    """The message with braces that pydantic cannot take for a placeholder of ours."""
    return message.replace("{hint}", "{ hint }").replace("{show}", "{ show }").replace("{known}", "{ known }")
