"""A private nginx, whatever it serves: found, started in a folder of its own, reloaded, stopped.

Owns: which nginx there is and with which modules, its processes, and when what was asked for is in force.  Deliberately
knows nothing of what stands in its configuration, which ``nginx_conf`` and ``nginx_mail_conf`` write.

One process of it serves, which makes what it counts exact without any doubt; the master above it reads files and opens
listeners.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from conformance import procfs
from conformance.drivers import confine, listeners
from conformance.drivers.asked import Asked, UnsupportedSetting
from conformance.drivers.program import DriverFailed

_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
_OLDEST = (1, 21, 4)
"""The first whose front lets a client say that it has said everything, and go on listening."""

_STARTED_WITHIN = 10.0
_RELOADED_WITHIN = 8.0
_ENDED_WITHIN = 5.0
"""Seconds."""

_SERVES, _DRAINS = b"nginx: worker process", b"nginx: worker process is shutting down"
"""What a worker calls itself, before and after it has been told to take no new clients."""

_REASON = re.compile(r"\[(?:emerg|alert)\] (?:\d+#\d+: )?(.*)")


def installed(package: str) -> str:
    """The path of nginx; raises UnsupportedSetting where there is none, or one that is too old."""
    binary = _binary()
    if binary is None:
        raise UnsupportedSetting("services", f"nginx is not installed: apt install {package}")
    if tuple(int(part) for part in version().split(".")) < _OLDEST:
        raise UnsupportedSetting("services", f"nginx {version()} is older than {'.'.join(map(str, _OLDEST))}")
    return binary


@functools.cache
def _binary() -> str | None:
    return shutil.which("nginx", path=_SEARCH)


@functools.cache
def _told() -> str:
    """What nginx says about how it was built."""
    binary = _binary()
    if binary is None:
        return ""
    return subprocess.run([binary, "-V"], capture_output=True, text=True, check=False).stderr


def version() -> str:
    """Three numbers; empty where nginx is not installed."""
    found = re.search(r"nginx/([\d.]+)", _told())
    return found.group(1) if found else ""


def module(name: str) -> tuple[Path, ...] | None:
    """The files to load for the module ``stream`` or ``mail``: none where it is built in; None where it is missing."""
    words = shlex.split(_told().partition("configure arguments:")[2])
    if f"--with-{name}" in words:
        return ()
    folder = next((word.partition("=")[2] for word in words if word.startswith("--modules-path=")), "")
    file = Path(folder) / f"ngx_{name}_module.so"
    return (file,) if folder and file.exists() else None


def worker_user() -> tuple[str, str] | None:
    """As whom its worker runs, user and group; None where nobody can be chosen."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_name, grp.getgrgid(nobody.pw_gid).gr_name
    except KeyError as error:
        raise DriverFailed(f"nginx needs a user and a group with names: {error}") from None


class Instance:
    """One private nginx, in its folder below the data of a scenario."""

    def __init__(self) -> None:
        self._binary = ""
        self._folder = Path()
        self._master: subprocess.Popen[bytes] | None = None
        self._watchdog: int | None = None
        self._listeners: frozenset[listeners.Listener] = frozenset()

    def start(self, binary: str, folder: Path, asked: Asked, files: Mapping[str, str]) -> list[int]:
        """Start it, and wait until every listener is open; returns the processes to watch."""
        listeners.require_free(asked)
        self._binary, self._folder = binary, folder
        # Whatever is there is of a former start; a socket that is left over would be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "temporary").mkdir(parents=True)
        listeners.require_searchable(folder, "nginx")
        self._write(files)
        try:
            self._master = subprocess.Popen(
                [binary, "-e", str(self._log), "-c", str(folder / "nginx.conf")],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for events
                env={"PATH": _SEARCH, "TZ": os.environ.get("TZ", "UTC")},
                # The driver has one thread, now and always.
                preexec_fn=confine.before_exec(os.getpid(), confine.Mounts()),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverFailed(f"{binary} cannot be started: {error}") from None
        self._watchdog = confine.watch_over(self._master.pid)
        self._wait_for(asked, frozenset(), _STARTED_WITHIN)
        return [self._master.pid]

    def reload(self, asked: Asked, files: Mapping[str, str]) -> None:
        """Put other files into force, if nginx finds nothing wrong with them; raises DriverFailed otherwise."""
        assert self._master is not None
        listeners.require_free(asked, self._listeners)
        before = frozenset(self._workers())
        draft = self._folder / "draft.conf"
        draft.write_text(files["nginx.conf"])
        checked = subprocess.run(
            [self._binary, "-t", "-q", "-e", str(self._folder / "draft.log"), "-c", str(draft)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if checked.returncode != 0:
            raise DriverFailed(_reasons(checked.stderr))
        self._write(files)
        self._master.send_signal(signal.SIGHUP)
        self._wait_for(asked, before, _RELOADED_WITHIN)

    def death(self) -> str | None:
        """How the master ended by itself."""
        status = None if self._master is None else self._master.poll()
        return None if status is None else f"nginx ended by itself with status {status}: {self._last_words()}"

    def stop(self) -> None:
        """End nginx as an init system does, with SIGTERM, and whatever is left of it then."""
        if self._master is not None:
            with contextlib.suppress(ProcessLookupError):
                self._master.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(_ENDED_WITHIN)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._master.pid, signal.SIGKILL)  # the watchdog is in this group, too
            self._master.wait()
            self._master = None
        if self._watchdog is not None:
            os.waitpid(self._watchdog, 0)
            self._watchdog = None

    @property
    def _log(self) -> Path:
        return self._folder / "error.log"

    def _write(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            file = self._folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
            file.parent.chmod(0o755)
            file.chmod(0o644)

    def _wait_for(self, asked: Asked, before: frozenset[int], within: float) -> None:
        """Wait until there listens who should, nobody who should not, and a worker that serves as was asked.

        ``before``: the workers that were there already; they take clients until they have been told not to.
        """
        assert self._master is not None
        wanted, until = listeners.wanted(asked), time.monotonic() + within
        closing = self._listeners - wanted
        while True:
            opened = procfs.listening()
            if wanted <= opened and not closing & opened:
                workers = self._workers()
                if any(pid not in before for pid in workers) and not any(workers.get(pid) == _SERVES for pid in before):
                    self._listeners = wanted
                    return
            if (death := self.death()) is not None:
                raise DriverFailed(f"{death} before it listened")
            if time.monotonic() > until:
                raise DriverFailed(f"nginx does not do as it should within {within:g} s: {self._last_words()}")
            time.sleep(0.002)

    def _workers(self) -> dict[int, bytes]:
        """What its processes call themselves, the master and those that have no name yet excepted."""
        assert self._master is not None
        named: dict[int, bytes] = {}
        for child in procfs.children(self._master.pid):
            with contextlib.suppress(OSError):
                title = (procfs.PROC / str(child.pid) / "cmdline").read_bytes().rstrip(b"\0 ")
                if title in (_SERVES, _DRAINS):
                    named[child.pid] = title
        return named

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return _reasons(self._log.read_text(errors="replace"))
        return _reasons("")


def _reasons(said: str) -> str:
    return "; ".join(dict.fromkeys(_REASON.findall(said))) or "it gave no reason"
