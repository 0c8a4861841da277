"""The base of everything that is declared: frozen, strict about unknown keys.

Plugin authors derive their configuration from `Model` too. A plugin that is configured by one bare value
(`- rate_limit: 100/1s`, `- timeout: 5s`) names the field it means in `shorthand`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Model(BaseModel):
    """A frozen configuration model. Unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    shorthand: ClassVar[str | None] = None
    """The field that a bare value stands for; None: only a mapping is accepted."""

    @model_validator(mode="before")
    @classmethod
    def _bare_value(cls, value: Any) -> Any:
        if cls.shorthand is not None and value is not None and not isinstance(value, (dict, cls)):
            return {cls.shorthand: value}
        if value is None:
            return {}
        return value
