"""The driver of Dovecot 2.3: IMAP and POP3 from a private instance; the system's own is left alone.

Owns: what this Dovecot is declared to have, starting it in a folder of its own, reloading and stopping it.
``dovecot_conf`` knows how settings are written, ``program`` how a driver talks.  What was measured, and why
it is declared in this way, stands in docs/targets/dovecot.md.

    python -m conformance.drivers.dovecot describe | run SCENARIO.json
"""

from __future__ import annotations

import contextlib
import functools
import glob
import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance import procfs
from conformance.drivers import confine, dovecot_conf, listeners, tcp_wrappers
from conformance.drivers.asked import Asked, JsonObject, UnsupportedSetting
from conformance.drivers.program import DriverFailed, main

_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
_LIBEXEC = (Path("/usr/lib/dovecot"), Path("/usr/libexec/dovecot"), Path("/usr/local/libexec/dovecot"))
_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place itself, nothing is created there by name
_INSTALL = "apt install dovecot-imapd dovecot-pop3d"

_BEFORE_LOGIN = 180.0
_AFTER_LOGIN = {"imap": 1800.0, "pop3": 600.0}
"""Seconds; compiled in."""

_CLOCK_RATE_MAX = 300
_LONGEST_SOCKET_FOLDER = 80
"""sun_path holds 108 bytes; Dovecot's longest name below its folder is about 25."""

_STARTED_WITHIN = 10.0
_RELOADED_WITHIN = 8.0
_ENDED_WITHIN = 1.0
"""Seconds."""


def _describe() -> dict[str, Any]:
    faster = faketime() is not None
    offers = [
        "bind",
        "ports",
        "max_connections",
        "max_connections_per_ip",
        "explicit_tls",
        "implicit_tls",
        "certificate",
        "require_tls_for_login",
        "reload",
        "seed_inbox",
    ]
    notes = [
        "Sessions that logged in without TLS leave the count of max_connections and have a second one, of "
        "the same size, among themselves.",
        "max_connections_per_ip counts the sessions that one user has from one address.",
        "A client whose address is the server's own counts as secured, with TLS or without.",
    ]
    if _restrictable():
        offers.append("restrictions")
    else:
        notes.append("IP restrictions need /etc/hosts.allow, and root or user namespaces.")
    if not faster:
        notes.append("A faster clock needs libfaketime: apt install faketime.")
    absolute = {"seconds": _BEFORE_LOGIN, "fixed": True, "reset_by": "nothing"}
    services: dict[str, Any] = {}
    for name in dovecot_conf.PROTOCOLS:
        services[name] = {
            "offers": offers,
            "limit": {"scope": "service", "surplus": "evict_oldest_unauthenticated", "recovery": 2},
            "per_ip": {"stage": "login", "scope": "service"},
            "tls": {"versions": ["1.2", "1.3"]},
            "ipv6": procfs.has_ipv6(),
            "restrictions": {"stage": "accept"},
            "timers": {
                "before_login": absolute,
                "handshake": absolute,
                "after_login": {"seconds": _AFTER_LOGIN[name], "fixed": True, "reset_by": "bytes"},
                "trickle": {"seconds": None},
            },
            "defaults": {"idle_timeout": _AFTER_LOGIN[name]},
            "login": {"by": "name"},
            "notes": notes,
        }
    services["imap"]["timers"]["imap_idle"] = {"seconds": None}
    return {
        "format": 1,
        "name": "Dovecot",
        "version": _version(),
        "services": services,
        "clock_rate_max": _CLOCK_RATE_MAX if faster else 1,
    }


def faketime() -> Path | None:
    """The library that makes a program's clock run faster, where it is installed."""
    return next((Path(each) for each in sorted(glob.glob(_FAKETIME))), None)


@functools.cache
def _version() -> str:
    binary = shutil.which("dovecot", path=_SEARCH)
    if binary is None:
        return ""
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return printed.split(" ", 1)[0].strip()


def _restrictable() -> bool:
    wrapper = any((folder / "tcpwrap").exists() for folder in _LIBEXEC)
    return wrapper and tcp_wrappers.usable()


class Dovecot:
    """One private instance."""

    def __init__(self) -> None:
        self._description: dict[str, Any] | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._watchdog: int | None = None
        self._folder = Path()
        self._borrowed: Path | None = None
        self._place: dovecot_conf.Place | None = None
        self._listeners: frozenset[listeners.Listener] = frozenset()

    def describe(self) -> JsonObject:
        """What is declared of Dovecot; the version is empty where it is not installed."""
        if self._description is None:
            self._description = _describe()
        return self._description

    def start(self, asked: Asked) -> JsonObject:
        """Start Dovecot and wait until every listener is open."""
        binary = _installed(asked)
        listeners.require_free(asked, self._listeners)
        self._folder = asked.data / ".dovecot"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._place = self._choose_place(asked)
        listeners.require_searchable(self._folder, "Dovecot")
        files = dovecot_conf.files(asked, self._place)
        conf = self._write(files)
        self._seed(asked)
        mounts, environment = self._surroundings(asked)
        try:
            self._master = subprocess.Popen(
                [binary, "-F", "-c", str(conf)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for events
                env=environment,
                # The driver has one thread, now and always.
                preexec_fn=confine.before_exec(os.getpid(), mounts),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverFailed(f"{binary} cannot be started: {error}") from None
        self._watchdog = confine.watch_over(self._master.pid)
        self._wait_for(asked, frozenset(), _STARTED_WITHIN)
        return {
            "pids": [self._master.pid],
            "clock_rate": asked.clock_rate,
            "timers": {service.name: _timers(service.name, asked.clock_rate) for service in asked.services},
        }

    def reload(self, asked: Asked) -> None:
        """Have Dovecot read its files again, if doveconf finds nothing wrong with them."""
        assert self._master is not None
        assert self._place is not None
        before = frozenset(_login_processes(self._master.pid))
        listeners.require_free(asked, self._listeners)
        files = dovecot_conf.files(asked, self._place)
        draft = self._folder / "draft.conf"
        draft.write_text(files.dovecot_conf)
        doveconf = shutil.which("doveconf", path=_SEARCH) or "doveconf"
        checked = subprocess.run([doveconf, "-n", "-x", "-c", str(draft)], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise DriverFailed(checked.stderr.strip())
        self._write(files)
        self._master.send_signal(signal.SIGHUP)
        self._wait_for(asked, before, _RELOADED_WITHIN)

    def death(self) -> str | None:
        """How the master process ended by itself."""
        status = None if self._master is None else self._master.poll()
        return None if status is None else f"dovecot ended by itself with status {status}"

    def stop(self) -> None:
        """End Dovecot, the sessions with their farewells.

        A master that is told to stop leaves processes with clients behind, for 10 s and more; an init system
        then sends SIGTERM to all that is left.  So does this, in an order in which the farewell of a session
        still finds the login process that encrypts it.
        """
        if self._master is not None:
            with contextlib.suppress(ProcessLookupError):
                self._master.terminate()
            _terminate(self._master.pid, lambda name: name in dovecot_conf.PROTOCOLS)
            _terminate(self._master.pid, lambda name: name.endswith("-login"))
            # The rest keeps nothing that anybody wants, and would take a second to say so.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._master.pid, signal.SIGKILL)
            self._master.wait()
            group = self._master.pid
            _await_end(lambda each: each.group == group)
            for kind in ("sem.faketime_sem", "faketime_shm"):  # where no private /dev/shm was to be had
                (_SHARED_MEMORY / f"{kind}_{self._master.pid}").unlink(missing_ok=True)
            self._master = None
        if self._watchdog is not None:
            os.waitpid(self._watchdog, 0)
            self._watchdog = None
        if self._borrowed is not None:
            shutil.rmtree(self._borrowed, ignore_errors=True)
            self._borrowed = None

    def _choose_place(self, asked: Asked) -> dovecot_conf.Place:
        sockets = self._folder / "run"
        if len(os.fsencode(sockets)) > _LONGEST_SOCKET_FOLDER:
            self._borrowed = Path(tempfile.mkdtemp(prefix="dovecot-"))
            self._borrowed.chmod(0o755)
            sockets = self._borrowed / "run"
        root = os.geteuid() == 0
        try:
            mail = pwd.getpwnam("nobody") if root else pwd.getpwuid(os.geteuid())
            group = grp.getgrgid(mail.pw_gid).gr_name
        except KeyError as error:
            raise DriverFailed(f"Dovecot needs a user and a group with names: {error}") from None
        return dovecot_conf.Place(
            sockets=sockets,
            folder=self._folder,
            data=asked.data,
            mail_uid=mail.pw_uid,
            mail_gid=mail.pw_gid,
            user=mail.pw_name,
            group=group,
            root=root,
        )

    def _write(self, files: dovecot_conf.Files) -> Path:
        conf = self._folder / "dovecot.conf"
        conf.write_text(files.dovecot_conf)
        (self._folder / "users").write_text(files.users)
        # In place, not by renaming: the server sees this file through a mount of it.
        (self._folder / "hosts.allow").write_text(files.hosts_allow)
        return conf

    def _seed(self, asked: Asked) -> None:
        assert self._place is not None
        for account in asked.accounts:
            maildir = asked.data / account.name
            for folder in ("new", "cur", "tmp"):
                (maildir / folder).mkdir(parents=True, exist_ok=True)
            # Maildir sorts by name, and a name begins with the seconds of delivery.
            first = int(time.time()) - len(account.inbox)
            for position, message in enumerate(account.inbox):
                shutil.copyfile(message, maildir / "new" / f"{first + position}.P{os.getpid()}.seed")
            if self._place.root:
                for path in (maildir, *maildir.rglob("*")):
                    os.chown(path, self._place.mail_uid, self._place.mail_gid)

    def _surroundings(self, asked: Asked) -> tuple[confine.Mounts, dict[str, str]]:
        environment = {"PATH": _SEARCH, "TZ": os.environ.get("TZ", "UTC")}
        own: list[Path] = []
        if asked.clock_rate > 1 and (library := faketime()) is not None:
            environment["LD_PRELOAD"] = str(library)
            environment["FAKETIME"] = f"+0 x{asked.clock_rate:g}"
            own.append(_SHARED_MEMORY)
        if not confine.mounts_allowed():
            return confine.Mounts(), environment
        # Even where nothing is restricted yet: a reload may ask for it.
        shared = tcp_wrappers.HOSTS_ALLOW
        seen = [(self._folder / "hosts.allow", shared)] if shared.exists() else []
        return confine.Mounts(files=seen, empty=own), environment

    def _wait_for(self, asked: Asked, before: frozenset[int], within: float) -> None:
        """Wait until everything listens that should, nothing that should not, with login processes to serve.

        ``before``: the login processes that were there already.  The master starts new ones once it has all
        its listeners; that a port is open is not enough, since it gives up when a later one cannot be opened.
        """
        assert self._master is not None
        wanted, until = listeners.wanted(asked), time.monotonic() + within
        closing = self._listeners - wanted
        while True:
            opened = procfs.listening()
            if wanted <= opened and not closing & opened:
                found = _login_processes(self._master.pid)
                if len({name for pid, name in found.items() if pid not in before}) == len(asked.services):
                    self._listeners = wanted
                    return
            if (death := self.death()) is not None:
                raise DriverFailed(f"{death} before it listened")
            if time.monotonic() > until:
                raise DriverFailed(f"dovecot does not listen as it should within {within:g} s")
            time.sleep(0.002)


def _installed(asked: Asked) -> str:
    binary = shutil.which("dovecot", path=_SEARCH)
    parts = [f"{service.name}-login" for service in asked.services]
    if binary is None or not all(any((folder / part).exists() for folder in _LIBEXEC) for part in parts):
        raise UnsupportedSetting("services", f"Dovecot is not installed: {_INSTALL}")
    if not _version().startswith("2.3."):
        raise UnsupportedSetting("services", f"Dovecot {_version()} is configured in another way than 2.3")
    return binary


def _timers(service: str, rate: float) -> dict[str, float | None]:
    timers: dict[str, float | None] = {
        "before_login": _BEFORE_LOGIN / rate,
        "handshake": _BEFORE_LOGIN / rate,
        "after_login": _AFTER_LOGIN[service] / rate,
        "trickle": None,
    }
    return {**timers, "imap_idle": None} if service == "imap" else timers


def _login_processes(master: int) -> dict[int, str]:
    return {child.pid: child.name for child in procfs.children(master) if child.name.endswith("-login")}


def _terminate(group: int, chosen: Callable[[str], bool]) -> None:
    """Ask some processes of a group to end, by their names, and give them a second."""
    asked = [each for each in procfs.processes() if each.group == group and chosen(each.name)]
    for each in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGTERM)
    pids = {each.pid for each in asked}
    _await_end(lambda each: each.group == group and each.pid in pids)


def _await_end(concerned: Callable[[procfs.Process], bool]) -> None:
    until = time.monotonic() + _ENDED_WITHIN
    while time.monotonic() < until and any(each.runs and concerned(each) for each in procfs.processes()):
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main(Dovecot(), sys.argv[1:]))
