"""Mail stores for tests: settings in one line, and a disk that fails when it is told to."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from reference_server.mailstore import Account, MailStore
from reference_server.settings_model import AccountSettings

MESSAGE = b"Subject: one\r\n\r\nfirst line\r\n"


def account(
    name: str,
    *,
    password: str | None = "secret",
    password_hash: str | None = None,
    inbox: tuple[Path, ...] = (),
    admin: bool = False,
    discard: bool = False,
) -> AccountSettings:
    """``name`` with the address ``name@example.test``."""
    return AccountSettings(
        name=name,
        password=None if password is None or password_hash is not None else SecretStr(password),
        password_hash=None if password_hash is None else SecretStr(password_hash),
        address=f"{name}@example.test",
        inbox=inbox,
        admin=admin,
        discard=discard,
    )


def store_of(root: Path) -> tuple[MailStore, Account]:
    """A store and its only account, ``alice``."""
    store = MailStore(root, [account("alice")])
    return store, known(store, "alice")


def store_of_two(root: Path) -> tuple[MailStore, Account, Account]:
    """A store and its accounts, ``alice`` and ``bob``."""
    store = MailStore(root, [account("alice"), account("bob")])
    return store, known(store, "alice"), known(store, "bob")


def known(store: MailStore, name: str) -> Account:
    found = store.recipient(f"{name}@example.test")
    assert found is not None
    return found


def files(root: Path) -> set[str]:
    """Every file below ``root``."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


#: What a disk that is full or broken refuses.
DISK_CALLS = ("write", "fsync", "fdatasync", "rename", "link")


@contextmanager
def disk_failing_at(call: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The disk is full at the call of that number, counted from 1 over all of ``DISK_CALLS``, and not before."""
    made = 0

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def attempt(*arguments: object, **options: object) -> object:
            nonlocal made
            made += 1
            if made == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return attempt

    with patch.context() as patched:
        for name in DISK_CALLS:
            patched.setattr(os, name, failing(getattr(os, name)))
        yield


@contextmanager
def disk_watched(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the disk, in order: ``write synced in tmp``, ``rename tmp new``, ``fsync new``."""
    seen: list[str] = []

    def write(descriptor: int, data: bytes, real: Callable[[int, bytes], int] = os.write) -> int:
        synced = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_SYNC == os.O_SYNC
        folder = os.path.basename(os.path.dirname(os.readlink(f"/proc/self/fd/{descriptor}")))
        seen.append(f"write{' synced' if synced else ''} in {folder}")
        return real(descriptor, data)

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        seen.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        real(descriptor)

    def rename(source: str, target: str, *, dst_dir_fd: int, real: Callable[..., None] = os.rename) -> None:
        folder = os.path.basename(os.readlink(f"/proc/self/fd/{dst_dir_fd}"))
        seen.append(f"rename {os.path.basename(os.path.dirname(source))} {folder}")
        real(source, target, dst_dir_fd=dst_dir_fd)

    with patch.context() as patched:
        patched.setattr(os, "write", write)
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "rename", rename)
        yield seen
