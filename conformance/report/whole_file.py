"""Files that are written whole or not at all.

Owns: putting a finished text in place of an older one, in one step.  Knows nothing of what the text says.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put ``text`` (as UTF-8) at ``path``; a reader sees the old file or the new one, never a part.

    What is not an ordinary file, such as ``/dev/stdout`` or a pipe, is written to as it stands.  ``OSError`` when it
    cannot be written; then what was there is still there.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, "utf-8")
        return
    path = path.resolve()  # A link stays one; what it points to is replaced.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
