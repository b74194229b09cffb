"""What the kernel can do to keep a server apart and bound to its driver (Linux only).

Owns: the few system calls that Python 3.11 has no names for: dying with the parent, and a mount namespace in
which single files and folders are the server's own; and the watchdog that ends a server's process group when
the driver is gone.  Used between fork and exec, and therefore plain: no locks, no threads.  Knows nothing of
any server.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000  # linux/mount.h
_MS_NOSUID, _MS_NODEV = 0x2, 0x4

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mounts:
    """What the server sees in other places than everybody else."""

    files: Sequence[tuple[Path, Path]] = ()
    """(ours, the path at which the server sees it); the path must exist."""
    empty: Sequence[Path] = ()
    """Folders that are empty, and its own, in memory."""

    def __bool__(self) -> bool:
        return bool(self.files or self.empty)


def before_exec(parent: int, mounts: Mounts, *, session: bool = False) -> Callable[[], None]:
    """What a server's first process does between fork and exec: `subprocess.Popen(preexec_fn=...)`.

    It becomes the leader of a process group (and of a ``session``, for a server that insists on one), sees
    ``mounts``, and is killed when ``parent``, the process that forks it, ends.  That alone is not enough: what it
    starts in turn would stay, see `watch_over`.
    """

    def prepare() -> None:
        if session:
            os.setsid()
        else:
            os.setpgrp()
        if mounts:
            _unshare_mounts()
            _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
            for ours, place in mounts.files:
                _check(_libc.mount(bytes(ours), bytes(place), None, _MS_BIND, None), f"mount {place}")
            for place in mounts.empty:
                flags = _MS_NOSUID | _MS_NODEV
                _check(_libc.mount(b"tmpfs", bytes(place), b"tmpfs", flags, b"mode=1777"), f"mount {place}")
        die_with(parent)

    return prepare


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as ``parent``, which forked it, has ended."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")
    if os.getppid() != parent:  # it died before the kernel knew that we care
        os.kill(os.getpid(), signal.SIGKILL)


def _unshare_mounts() -> None:
    """Begin a mount namespace; who is not root needs a user namespace around it, and stays who they are."""
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWNS | (0 if user == 0 else _CLONE_NEWUSER)), "unshare")
    if user != 0:
        # user_namespaces(7): without privileges, groups can be mapped only once setgroups is given up.
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)


def mounts_allowed() -> bool:
    """Whether this process may have mounts of its own; tried out in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before_exec(os.getppid(), Mounts(empty=(Path("/dev/shm"),)))()  # noqa: S108
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def watch_over(group: int, *, join: bool = True) -> int:
    """Start a watchdog that kills a process group as soon as this process is gone, however it went.

    The watchdog joins the group, so that whoever kills that on purpose ends the watchdog as well; in another session
    it cannot, and has to be killed by itself.  Returns its pid, for `os.waitpid`.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(ours)
        os.set_inheritable(theirs, False)  # it stays open, and unused, for as long as this process lives
        return child
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if join:
            os.setpgid(0, group)
        nothing = os.open(os.devnull, os.O_RDWR)
        for inherited in (0, 1, 2):
            os.dup2(nothing, inherited)
        os.dup2(ours, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.read(3, 1)
        os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(1)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
