"""The process that hashes: `python -m aiogate.credentials.hasher`, started and asked by `Hashers`.

    request   hashed ALGORITHM PASSWORD-IN-HEX COST
              matches ALGORITHM PASSWORD-IN-HEX STORED-HASH
    answer    the hash; yes, no

It has the lowest priority once it is loaded, and lives until the other end of its standard input is closed.
Signals are for the gateway, which drains and still needs it when a terminal or systemd sends them to all processes.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, cast

from aiogate.credentials.hashes import Algorithm, hashed, matches

_NICE: Final = 19
_NOT_FOR_US: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def answer(request: str) -> str:
    """The answer to one request."""
    work, algorithm, password, argument = request.split()
    if work == "hashed":
        return hashed(bytes.fromhex(password), cast(Algorithm, algorithm), int(argument))
    return "yes" if matches(bytes.fromhex(password), argument, cast(Algorithm, algorithm)) else "no"


def main() -> None:
    """Answer until nobody asks any more."""
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    for line in sys.stdin.buffer:
        try:
            os.write(sys.stdout.fileno(), answer(line.decode("ascii")).encode("ascii") + b"\n")
        except BrokenPipeError:
            return  # the gateway went away meanwhile


if __name__ == "__main__":
    main()
