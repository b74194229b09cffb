"""Files that are still there after the power failed.

Owns: the order in which bytes, names and folders are forced to the disk.  Knows nothing of mail.

There is no queue of writers here and no leader that syncs for the others, although several threads deliver at
once: journaling file systems gather the fsync calls of all threads into one commit of their own, and do it better
than Python threads that wait for one another (``docs/benchmarks.md`` has the numbers).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def create(path: str | Path, data: bytes) -> None:
    """A new file with ``data``, which is on the disk on return; its name is only after :func:`sync_folder`.

    Raises OSError (FileExistsError if there is one); then nothing is left of it.
    """
    # O_SYNC: the text and all that leads to it is on the disk when write returns, as if fsync followed each.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_SYNC
    descriptor = os.open(path, flags, 0o600)
    with undone(lambda: os.unlink(path)):
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def link(source: str | Path, path: str | Path) -> None:
    """The file under a second name; a copy where the file system has no links, or no more of them."""
    try:
        os.link(source, path)
    except OSError as problem:
        if problem.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV):
            raise
        with open(source, "rb") as file:
            create(path, file.read())


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` in place of what ``path`` held: whoever looks, now or after a crash, finds the old or the new."""
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.unlink(missing_ok=True)  # what a crash has left
    create(fresh, data)
    with undone(fresh.unlink):
        os.rename(fresh, path)
    sync_folder(path.parent)


def sync_folder(path: str | Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OpenFolders:
    """Folders that are synced over and over, kept open between: at most ``limit`` of them, the first ones that come.

    To open and close a folder each time costs a server that works with several threads about a tenth of its
    deliveries, because each call hands the interpreter from thread to thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: dict[str, int] = {}
        self._retired: list[int] = []
        weakref.finalize(self, _close, self._kept, self._retired)

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """The descriptor of a folder, for ``dst_dir_fd`` and os.fsync."""
        kept = self._kept.get(path)
        if kept is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with self._lock:
                if len(self._kept) + len(self._retired) < self._limit and path not in self._kept:
                    kept = self._kept[path] = descriptor
        else:
            descriptor = kept
        try:
            yield descriptor
        except OSError:
            # Another folder may have its name now.  Other threads may be using this one: it is closed at the end.
            with self._lock:
                if kept is not None and self._kept.get(path) == kept:
                    self._retired.append(self._kept.pop(path))
            raise
        finally:
            if kept is None:
                os.close(descriptor)


def _close(kept: dict[str, int], retired: list[int]) -> None:
    for descriptor in (*kept.values(), *retired):
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """A folder with all that lead to it, for the owner's eyes only; it may be there already."""
    make_folders([path])


def make_folders(paths: Iterable[Path]) -> None:
    """Several; whatever folder they are made in is synced once, when all are there."""
    grown: dict[Path, None] = {}
    try:
        for path in paths:
            _make(path, grown)
    finally:
        for folder in grown:
            sync_folder(folder)


def _make(path: Path, grown: dict[Path, None]) -> None:
    if path.is_dir():
        return
    if path.parent != path:
        _make(path.parent, grown)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    grown[path.parent] = None


def write_all(descriptor: int, data: bytes) -> None:
    """os.write may write less than it was given, on a disk that fills up for one."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Run ``undo`` when the block raises; the first error is the one that is told."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            undo()
        raise
