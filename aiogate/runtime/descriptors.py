"""How many clients there are file descriptors for.

A process that has run out of them can neither accept nor reach an upstream, and loops spin on a socket that they
cannot accept from. So the limit is raised as far as the system lets us, and clients beyond what is left are turned
away while there is still a descriptor to do it with.
"""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["RESERVED", "room_for"]

RESERVED: Final = 64
"""Descriptors for everything that is neither a client nor its upstream: the store, logs, the control port, a reload."""


def room_for(connections: int) -> tuple[int, str]:
    """How many of so many clients can be served at one time, each with a connection to its upstream; and what to tell.

    Raises the process's soft limit of open files towards what that takes, never beyond the hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + RESERVED
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections, ""
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        reachable = soft
    if reachable >= wanted:
        return connections, ""
    room = max(1, (reachable - RESERVED) // 2)
    return room, (
        f"limits.connections is {connections}, but the system allows {reachable} open files: {room} clients are served "
        f"at one time, further ones get 503 (raise LimitNOFILE, or ulimit -n, to {wanted})"
    )
