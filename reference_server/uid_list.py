"""Which UID belongs to which message, and the keywords: the small file ``uids`` in each folder.

Owns: that a UID once given is never given again and never changed while UIDVALIDITY stays (RFC 3501 2.3.1.1), whenever
the process or the machine dies.  Knows messages by the lasting part of their file names only.

The file is a list that grows at its end.  Its first line is ``listenspec-uids 1 UIDVALIDITY UIDNEXT``; then comes
``m UID SIZE NAME`` for each message that got a UID, and ``k UID KEYWORD...`` for each change of its keywords.  UIDs
are on the disk before anybody hears of them, so a last line that is not whole was never spoken of, and is cut off.
When most lines speak of messages that are gone, the list is written anew.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_server import durable

_HEADER = re.compile(rb"listenspec-uids 1 ([1-9][0-9]*) ([1-9][0-9]*)")
_MESSAGE = re.compile(rb"m ([1-9][0-9]*) ([0-9]+) ([^\x00\n]+)")
_KEYWORDS = re.compile(rb"k ([1-9][0-9]*)((?: [!-~]+)*)")
_SPARE_LINES = 256


class Damaged(Exception):
    """The file is not what this module wrote."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message with its UID; ``size`` in octets with CRLF."""

    uid: int
    size: int


class UidList:
    """The list of one folder.  Its methods are called by one thread at a time."""

    def __init__(self, path: Path, uid_validity: int) -> None:
        self.path = path
        self.uid_validity = uid_validity
        self.uid_next = 1
        self.messages: dict[str, Numbered] = {}
        self.keywords: dict[int, tuple[str, ...]] = {}
        self._lines = 0

    @classmethod
    def opened(cls, path: Path, new_uid_validity: Callable[[], int]) -> UidList:
        """The list in ``path``; a new one with a UIDVALIDITY of its own if it is missing or damaged."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = None
        if data is not None:
            try:
                return cls._parsed(path, data)
            except Damaged:
                os.replace(path, path.with_name("uids.damaged"))
        fresh = cls(path, new_uid_validity())
        fresh.rewrite()
        return fresh

    def number(self, messages: Sequence[tuple[str, int]]) -> list[int]:
        """Give UIDs to (name, size) in this order; they are on the disk on return.  OSError: none was given."""
        uids = list(range(self.uid_next, self.uid_next + len(messages)))
        lines = [b"m %d %d %s\n" % (uid, size, os.fsencode(name))
                 for uid, (name, size) in zip(uids, messages, strict=True)]
        self._append(lines, sync=True)
        for uid, (name, size) in zip(uids, messages, strict=True):
            self.messages[name] = Numbered(uid, size)
        self.uid_next += len(messages)
        return uids

    def set_keywords(self, words: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Change the keywords of these UIDs."""
        changed = {uid: tuple(sorted(given)) for uid, given in words}
        self._append([_keyword_line(uid, given) for uid, given in changed.items()], sync=False)
        self.keywords.update(changed)

    def forget(self, names: Iterable[str]) -> None:
        """These messages are gone; their UIDs stay used."""
        for name in names:
            numbered = self.messages.pop(name, None)
            if numbered is not None:
                self.keywords.pop(numbered.uid, None)
        if self._lines > 2 * (len(self.messages) + len(self.keywords)) + _SPARE_LINES:
            with contextlib.suppress(OSError):  # on a full disk the long list does as well
                self.rewrite()

    def rewrite(self) -> None:
        """Write the list anew, without what is gone."""
        lines = [b"listenspec-uids 1 %d %d\n" % (self.uid_validity, self.uid_next)]
        lines += [b"m %d %d %s\n" % (numbered.uid, numbered.size, os.fsencode(name))
                  for name, numbered in self.messages.items()]
        lines += [_keyword_line(uid, given) for uid, given in self.keywords.items() if given]
        durable.replace(self.path, b"".join(lines))
        self._lines = len(lines)

    def _append(self, lines: list[bytes], *, sync: bool) -> None:
        if not lines:
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor).st_size
            # A line that is only half there would swallow the next one.
            with durable.undone(lambda: os.ftruncate(descriptor, before)):
                durable.write_all(descriptor, b"".join(lines))
                if sync:
                    os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._lines += len(lines)

    @classmethod
    def _parsed(cls, path: Path, data: bytes) -> UidList:
        whole = data[: data.rfind(b"\n") + 1]
        # After a power failure, what was being written may also read as zeros.
        if b"\x00" in data:
            whole, zeros = data[: data.index(b"\x00")], data[data.index(b"\x00") :]
            if zeros.strip(b"\x00"):
                raise Damaged
            whole = whole[: whole.rfind(b"\n") + 1]
        lines = whole[:-1].split(b"\n") if whole else []
        header = _HEADER.fullmatch(lines[0]) if lines else None
        if header is None:
            raise Damaged
        found = cls(path, int(header[1]))
        found.uid_next = int(header[2])
        for line in lines[1:]:
            if message := _MESSAGE.fullmatch(line):
                uid = int(message[1])
                found.messages[os.fsdecode(message[3])] = Numbered(uid, int(message[2]))
                found.uid_next = max(found.uid_next, uid + 1)
            elif keywords := _KEYWORDS.fullmatch(line):
                found.keywords[int(keywords[1])] = tuple(keywords[2].decode("ascii").split())
            else:
                raise Damaged
        found._lines = len(lines)
        if len(whole) != len(data):
            found.rewrite()
        return found


def _keyword_line(uid: int, keywords: Sequence[str]) -> bytes:
    return b"k %d%s\n" % (uid, b"".join(b" " + word.encode("ascii") for word in keywords))
