"""The process's own log: one line per record on standard error.

What clients sent may stand in a message; control characters are escaped, so that nobody writes lines of their own into
the log. Access logs are not written here.
"""

from __future__ import annotations

import logging
import time
from typing import Final

__all__ = ["LEVELS", "LOGGERS", "configure", "levels", "set_level"]

LEVELS: Final = ("debug", "info", "warning", "error")
LOGGERS: Final = ("aiogate", *(f"aiogate.{room}" for room in (
    "access", "chain", "control", "events", "listener", "plugins", "reload", "stores",
)))  # fmt: skip
"""The loggers whose level can be changed while the gateway runs."""

_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_CONTROL)


def configure(level: str = "INFO") -> None:
    """Send the gateway's records of at least this level to standard error. Replaces an earlier configuration."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    for name in ("aiogate", "aiohttp", "asyncio"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(level if name == "aiogate" else "WARNING")


def levels() -> dict[str, str]:
    """The level in force of each of `LOGGERS`."""
    return {name: logging.getLevelName(logging.getLogger(name).getEffectiveLevel()).lower() for name in LOGGERS}


def set_level(level: str, logger: str = "aiogate") -> None:
    """Change the level of one of `LOGGERS` to one of `LEVELS`, until the process ends."""
    assert level in LEVELS
    assert logger in LOGGERS
    logging.getLogger(logger).setLevel(level.upper())
