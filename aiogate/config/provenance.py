"""Where a declaration came from: files that a translation or the control API wrote open with two lines that say so.

The first line names the origin, the second holds a digest of the rest. An edit by hand breaks the digest and makes the
file its editor's: it is not overwritten any more, and what it says is the operator's word.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["THROUGH_API", "TRANSLATED", "is_untouched", "is_written_by_api", "signed"]

TRANSLATED: Final = "# Translated from Tyk's classic JSON"
"""Opens a file of `aiogate import tyk`, which an operator runs."""
THROUGH_API: Final = "# Written through the control API"
"""Opens a file that came over HTTP: whoever sent it may have been no more than a dashboard user."""
_FORM: Final = re.compile(
    rf"\A(?:{TRANSLATED}|{THROUGH_API})[^\n]*\n# digest: ([0-9a-f]{{64}}) ?[^\n]*\n(.*)\Z".encode(), re.DOTALL
)


def signed(text: str, mark: str, origin: str) -> str:
    """The text of a file that opens with its origin (one line) and the digest. `mark` is one of the two above."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{mark}: {' '.join(origin.split())}.\n# digest: {digest} (an edit by hand makes the file yours)\n{text}"


def is_untouched(data: bytes) -> bool:
    """Whether a file is as a translation or the control API wrote it; otherwise it is somebody's own."""
    found = _FORM.match(data)
    return found is not None and hashlib.sha256(found[2]).hexdigest().encode() == found[1]


def is_written_by_api(data: bytes) -> bool:
    """Whether a file is as the control API wrote it."""
    return data.startswith(THROUGH_API.encode()) and is_untouched(data)
