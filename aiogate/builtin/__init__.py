"""The plugins that ship with the gateway, one module each, on the same hooks as everybody's.

`BUILTINS` is the list that the plug board loads; the order is that of `aiogate plugins list`.
"""

from typing import Final

_NAMES: Final = (
    "key", "basic",
    "jwt", "hmac", "oidc", "introspection", "mtls", "oauth",
    "cors", "size_limit", "ip_filter", "paths", "rate_limit", "request_headers", "response_headers",
    "certificate_headers",
    "timeout", "mock", "reverse_proxy",
)  # fmt: skip
BUILTINS: Final = tuple(f"aiogate.builtin.{name}" for name in _NAMES)
