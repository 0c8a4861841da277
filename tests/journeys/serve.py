"""`aiogate serve`, as much of it as the journeys need."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aiogate.config.settings import Settings, load_settings
from aiogate.control.application import application
from aiogate.errors import DiagnosticsFound
from aiogate.runtime.worker import serve

parser = argparse.ArgumentParser()
for name in ("listen", "control", "store"):
    parser.add_argument(f"--{name}")
given = parser.parse_args()
flags = {"listen": given.listen, "control.listen": given.control, "store": given.store}


def read_settings() -> Settings:
    file = Path("aiogate.yaml")
    return load_settings(file if file.exists() else None, os.environ, flags)


try:
    sys.exit(serve(read_settings, application))
except DiagnosticsFound as mistakes:
    sys.exit(str(mistakes))
