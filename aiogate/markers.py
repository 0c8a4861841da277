"""The marker for hook implementations, importable without importing the gateway."""

from __future__ import annotations

from typing import Final

import pluggy

PROJECT: Final = "aiogate"

hookimpl: Final = pluggy.HookimplMarker(PROJECT)
hookspec: Final = pluggy.HookspecMarker(PROJECT)
