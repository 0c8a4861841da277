"""The plugins that ship with the gateway, one module each, on the same hooks as everybody's.

`BUILTINS` is the list that the plug board loads; the order is that of `aiogate plugins list`.
"""

from typing import Final

BUILTINS: Final = tuple(f"aiogate.builtin.{name}" for name in ("key", "basic", "rate_limit", "mock", "reverse_proxy"))
