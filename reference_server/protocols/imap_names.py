"""Mailbox names on the wire: modified UTF-7, and the wildcards of LIST.

Owns: both directions of RFC 3501 5.1.3, and what ``*`` and ``%`` match.  Knows nothing of which mailboxes there are
or of how they lie on a disk.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

SEPARATOR: Final = "/"

_SHIFTED: Final = re.compile("[^ -~]+|&")
_ENCODED: Final = re.compile(r"&([^-]*)-|&")


class BadName(ValueError):
    """Not a mailbox name in modified UTF-7."""


def encoded(name: str) -> bytes:
    """The name as it goes over the wire."""
    return _SHIFTED.sub(_shift, name).encode("ascii")


def decoded(wire: bytes) -> str:
    """The name that these octets stand for.  Raises :class:`BadName`.

    Only the one right spelling of a name is taken: a mailbox with several names on the wire would be taken for several
    mailboxes by clients.
    """
    try:
        text = wire.decode("ascii")
        name = _ENCODED.sub(_unshift, text)
        if encoded(name) == wire:
            return name
    except (UnicodeError, binascii.Error):
        pass
    raise BadName("a mailbox name is written in modified UTF-7")


def matches(pattern: str, name: str) -> bool:
    """RFC 3501 6.3.8: ``*`` stands for anything, ``%`` for anything without a separator; INBOX has no case.

    Takes time in proportion to both lengths, whatever the pattern is.
    """
    if name == "INBOX":
        pattern = pattern.upper()
    reached = [True] + [False] * len(name)
    for character in pattern:
        if character in "*%":
            for place, behind in enumerate(name, 1):
                if reached[place - 1] and (character == "*" or behind != SEPARATOR):
                    reached[place] = True
        else:
            reached = [False, *(ahead and there == character for ahead, there in zip(reached, name, strict=False))]
    return reached[-1]


def parents(name: str) -> list[str]:
    """The names above this one, the topmost first."""
    parts = name.split(SEPARATOR)
    return [SEPARATOR.join(parts[:depth]) for depth in range(1, len(parts))]


def _shift(found: re.Match[str]) -> str:
    if found[0] == "&":
        return "&-"
    encoded = base64.b64encode(found[0].encode("utf-16-be"), b"+,")
    return f"&{encoded.decode('ascii').rstrip('=')}-"


def _unshift(found: re.Match[str]) -> str:
    if found[1] is None:
        raise BadName("a shift that does not end")
    if not found[1]:
        return "&"
    padded = found[1] + "=" * (-len(found[1]) % 4)
    return base64.b64decode(padded, b"+,", validate=True).decode("utf-16-be")
