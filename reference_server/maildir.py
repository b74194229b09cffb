"""How Maildir and Maildir++ write things into names: messages, their flags, mailboxes, accounts.

Owns: the names of files and folders, both ways.  Touches no disk but for asking the machine's name.

A message is ``SECONDS.MxxxPxxxQxxx.HOST,S=octets,W=octets`` with, once a mail reader has seen it, ``:2,`` and a letter
for each flag.  S is the size of the file, W the size with CRLF line ends, both as Dovecot and Courier write them.
Mailbox ``Lists/Größe`` is the folder ``.Lists.Gr&APYA3w-e``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import os
import re
import time
from collections.abc import Iterable
from urllib.parse import quote

INCOMPLETE = "incoming-"
"""What files in tmp/ begin with that we are writing: those of a dead process are rubbish."""

FLAG_LETTERS = {"\\Draft": "D", "\\Flagged": "F", "\\Answered": "R", "\\Seen": "S", "\\Deleted": "T"}
_LETTER_FLAGS = {letter: flag for flag, letter in FLAG_LETTERS.items()}
_FLAGS_BY_FOLDED_NAME = {flag.casefold(): flag for flag in FLAG_LETTERS}

_HOST = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)
_COUNTER = itertools.count(1)
_IN_FILE = re.compile(r",S=([0-9]{1,18})(?:,|$)")
_WITH_CRLF = re.compile(r",W=([0-9]{1,18})(?:,|$)")
_ARRIVAL = re.compile(r"([0-9]{1,12})\.(?:M([0-9]{1,6}))?(?:P[0-9]+)?(?:Q([0-9]+))?")
_LAST_SECOND = 253_402_300_799  # of the year 9999, beyond which there are no dates
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHIFTED = re.compile(r"[^ -\-0-~]+|&")  # all but printable US-ASCII without "." and "/"; and "&"
_UNSHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")


# ---- messages


def unique_name(message: bytes, seconds: int | None = None) -> str:
    """A name that no other message has had; ``seconds`` since 1970 is when it came, if not now."""
    return _name_with(f"S={len(message)},W={size_with_crlf(message)}", seconds)


def copied_name(base: str, size: int, seconds: int) -> str:
    """A name for a copy of the message ``base``; ``size`` is that with CRLF."""
    in_file = _IN_FILE.search(base)
    return _name_with(f"S={in_file[1]},W={size}" if in_file else f"W={size}", seconds)


def _name_with(sizes: str, seconds: int | None) -> str:
    now = time.time_ns()
    if seconds is None:
        seconds = now // 1_000_000_000
    micros = now // 1000 % 1_000_000
    return f"{max(seconds, 0)}.M{micros:06d}P{os.getpid()}Q{next(_COUNTER)}.{_HOST},{sizes}"


def seeded_name(message: bytes, seconds: int, position: int) -> str:
    """The same name each time, so that a start that was interrupted does not deliver the message twice."""
    digest = hashlib.sha256(message).hexdigest()[:16]
    sizes = f"S={len(message)},W={size_with_crlf(message)}"
    return f"{seconds}.M{position:06d}P0Q{position}.seed-{digest}.{_HOST},{sizes}"


def size_with_crlf(message: bytes) -> int:
    """Octets as POP3 and IMAP count them, whatever the line ends in the file."""
    return len(message) + message.count(b"\n") - message.count(b"\r\n")


def with_crlf(message: bytes) -> bytes:
    """The message as it goes to a client; other programs may have left it here with LF."""
    if message.count(b"\n") == message.count(b"\r\n"):
        return message
    return re.sub(rb"(?<!\r)\n", b"\r\n", message)


def declared_size(base: str) -> int | None:
    """The size with CRLF that a name states."""
    found = _WITH_CRLF.search(base)
    return int(found[1]) if found else None


def arrival(base: str) -> tuple[int, int, int, str]:
    """By what messages are put in the order of their arrival: seconds, microseconds, count, name."""
    found = _ARRIVAL.match(base)
    if found is None or int(found[1]) > _LAST_SECOND:
        return (0, 0, 0, base)
    return (int(found[1]), int(found[2] or 0), int(found[3] or 0), base)


def base_of(place: str) -> str:
    """The lasting part of a message's file name; ``place`` is the path from the folder."""
    return place[4:].partition(":")[0]


def letters_in(place: str) -> str:
    """The flag letters in a message's file name; there are none in new/."""
    info = place.partition(":")[2]
    return info[2:] if info.startswith("2,") and place.startswith("cur/") else ""


def draft_for(base: str) -> str:
    """Where a message lies until it is whole and on the disk."""
    return f"tmp/{INCOMPLETE}{base}"


def place_for(base: str, letters: str) -> str:
    """Where a message lies that a mail reader has seen."""
    return f"cur/{base}:2,{letters}"


# ---- flags


def flags_of(letters: str) -> frozenset[str]:
    """The IMAP flags that the letters stand for."""
    return frozenset(_LETTER_FLAGS[letter] for letter in letters if letter in _LETTER_FLAGS)


def letters_for(flags: Iterable[str], before: str = "") -> str:
    """Letters for ``flags``; those that are none of our flags (P for passed on, say) stay as they were."""
    kept = {letter for letter in before if letter not in _LETTER_FLAGS}
    return "".join(sorted(kept | {FLAG_LETTERS[flag] for flag in flags if flag in FLAG_LETTERS}))


def flag_named(text: str) -> str | None:
    """A flag or keyword in its usual spelling; None for what cannot be stored, such as ``\\Recent``."""
    if text.startswith("\\"):
        return _FLAGS_BY_FOLDED_NAME.get(text.casefold())
    return text


# ---- mailboxes


class BadName(ValueError):
    """No mailbox can have that name; ``str()`` is fit to be shown to the client."""


def mailbox_named(text: str) -> str:
    """A mailbox's name in its one spelling.  Raises :class:`BadName`."""
    parts = text.split("/")
    # RFC 3501 5.1: INBOX is not case-sensitive; what is below it had better not be either.
    if parts[0].upper() == "INBOX":
        parts[0] = "INBOX"
    if not all(parts):
        raise BadName("a mailbox name has something on both sides of every /")
    name = "/".join(parts)
    if _CONTROL.search(name):
        raise BadName("a mailbox name has no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadName("a mailbox name is Unicode text") from None
    if name != "INBOX" and len(folder_of(name)) > 240:
        raise BadName("that mailbox name is too long")
    return name


def folder_of(mailbox: str) -> str:
    """The Maildir++ folder of a mailbox that is not INBOX; distinct for distinct names."""
    return "".join("." + _SHIFTED.sub(_shift, part) for part in mailbox.split("/"))


def mailbox_in(folder: str) -> str | None:
    """The mailbox that lies in a folder; None if the folder is none that :func:`folder_of` gives."""
    if not folder.startswith("."):
        return None
    try:
        name = mailbox_named("/".join(_UNSHIFTED.sub(_unshift, part) for part in folder[1:].split(".")))
    except (BadName, UnicodeDecodeError, binascii.Error):
        return None
    return name if name != "INBOX" and folder_of(name) == folder else None


def _shift(found: re.Match[str]) -> str:
    # RFC 3501 5.1.3, with "." shifted as well: Maildir++ has it between the parts of a name.
    if found[0] == "&":
        return "&-"
    return "&" + base64.b64encode(found[0].encode("utf-16-be"), b"+,").decode("ascii").rstrip("=") + "-"


def _unshift(found: re.Match[str]) -> str:
    if not found[1]:
        return "&"
    text = found[1] + "=" * (-len(found[1]) % 4)
    return base64.b64decode(text, b"+,", validate=True).decode("utf-16-be")


def account_folder(name: str) -> str:
    """The folder of an account: readable where it can be, distinct for distinct names, never above the root."""
    safe = quote(name, safe="@+=-_", errors="surrogatepass")
    if safe.startswith("."):
        safe = f"%2E{safe[1:]}"
    if len(safe) > 200:
        safe = f"{safe[:120]}%{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return safe or "%"
