"""The driver of Postfix: SMTP from a private instance; the system's own is left alone.

Owns: what this Postfix is declared to have, starting it in a folder of its own, reloading and stopping it.
``postfix_conf`` knows how settings are written, ``auth_service`` answers for the passwords, ``program`` how a driver
talks.  What was measured, and why it is declared in this way, stands in docs/targets/postfix.md.

    python -m conformance.drivers.postfix describe | run SCENARIO.json
"""

from __future__ import annotations

import contextlib
import functools
import grp
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conformance import procfs
from conformance.drivers import auth_service, confine, listeners, postfix_conf
from conformance.drivers.asked import Asked, JsonObject, UnsupportedSetting
from conformance.drivers.program import DriverFailed, main

_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
_DAEMONS = (Path("/usr/lib/postfix/sbin"), Path("/usr/libexec/postfix"), Path("/usr/lib/postfix"))
_INSTALL = "apt install postfix"
_OLDEST = (3, 6)

_MAIL_OWNER, _DROP_GROUP = "postfix", "postdrop"
"""The user and the group that Postfix's package makes; these are Postfix's defaults, and it insists on some."""

_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace")
_NEW = 60.0
"""Seconds; while main.cf or a table is younger than a few, Postfix waits in case somebody is still writing it."""

_STARTED_WITHIN = 10.0
_RELOADED_WITHIN = 8.0
_ENDED_WITHIN = 2.0
"""Seconds."""

_NOTES = [
    "max_connections is the number of processes of one row of master.cf: each address and port is counted apart, "
    "those of explicit and of implicit TLS apart as well.",
    "max_connections_per_ip is counted for each row of master.cf apart, too, and once a client has been accepted: "
    "behind the handshake on an implicit port.",
    "smtpd_per_request_deadline is on where there is an idle time-out: a request has to be complete in that time.",
    "Passwords are checked by a small service of the driver's that speaks the protocol of Dovecot's.",
]


def _describe() -> dict[str, Any]:
    return {
        "format": 1,
        "name": "Postfix",
        "version": _version(),
        "services": {
            "smtp": {
                "offers": [
                    "bind",
                    "ports",
                    "max_connections",
                    "max_connections_per_ip",
                    "idle_timeout",
                    "explicit_tls",
                    "implicit_tls",
                    "certificate",
                    "require_tls_for_login",
                    "restrictions",
                    "reload",
                ],
                "limit": {"scope": "listener", "surplus": "queue", "recovery": 1},
                "per_ip": {"stage": "connect", "scope": "listener"},
                "tls": {"versions": ["1.2", "1.3"]},
                "ipv6": procfs.has_ipv6(),
                "restrictions": {"stage": "greeting"},
                "timers": {
                    "before_login": {"reset_by": "commands"},
                    "handshake": {"reset_by": "commands"},
                    "after_login": {"reset_by": "commands"},
                    "trickle": {"reset_by": "nothing"},
                },
                "idle_timeout_min": 1,
                "idle_timeout_step": 1,
                "idle_timeout_late": 2,  # counted by a process that may have to be started first, among dozens
                "defaults": {"idle_timeout": 300},
                "login": {"by": "name", "role": "mx"},
                "notes": _NOTES,
            }
        },
    }


@functools.cache
def _version() -> str:
    binary = shutil.which("postconf", path=_SEARCH)
    if binary is None:
        return ""
    command = [binary, "-d", "-h", "mail_version"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class Postfix:
    """One private instance."""

    def __init__(self) -> None:
        self._description: dict[str, Any] | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._helpers: list[int] = []
        self._place: postfix_conf.Place | None = None
        self._listeners: frozenset[listeners.Listener] = frozenset()

    def describe(self) -> JsonObject:
        """What is declared of Postfix; the version is empty where it is not installed."""
        if self._description is None:
            self._description = _describe()
        return self._description

    def start(self, asked: Asked) -> JsonObject:
        """Start Postfix and wait until every listener is open."""
        daemons = _installed()
        listeners.require_free(asked)
        nobody = pwd.getpwnam("nobody")
        self._place = postfix_conf.Place(
            folder=asked.data / ".postfix",
            data=asked.data,
            daemons=daemons,
            mail_uid=nobody.pw_uid,
            mail_gid=nobody.pw_gid,
        )
        files = postfix_conf.files(asked, self._place)
        _require_certificates(asked)
        self._place.folder.mkdir(parents=True, exist_ok=True)
        listeners.require_searchable(self._place.folder, "Postfix")
        _lay_out(self._place)
        self._write(files, asked)
        try:
            self._master = subprocess.Popen(
                [daemons / "master", "-s", "-c", self._place.folder],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for events
                env={"PATH": _SEARCH, "MAIL_CONFIG": str(self._place.folder), "TZ": os.environ.get("TZ", "UTC")},
                # The driver has one thread, now and always.
                preexec_fn=confine.before_exec(os.getpid(), confine.Mounts(), session=True),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverFailed(f"{daemons / 'master'} cannot be started: {error}") from None
        self._helpers.append(confine.watch_over(self._master.pid, join=False))
        socket, passwords = self._place.queue / "private/auth", self._place.folder / "passwords"
        self._helpers.append(auth_service.start(socket, passwords))
        self._wait_for(asked, _STARTED_WITHIN)
        return {"pids": [self._master.pid]}

    def reload(self, asked: Asked) -> None:
        """Do as ``postfix reload`` does: SIGHUP to the master, which reads both files again.

        Sessions go on under the settings with which they began, except at a listener that is no more.  Processes that
        serve nobody end; it is waited for, since one of them might take a client who comes now.
        """
        assert self._master is not None
        assert self._place is not None
        listeners.require_free(asked, self._listeners)
        files = postfix_conf.files(asked, self._place)
        self._write(files, asked)
        before = [child.pid for child in procfs.children(self._master.pid) if child.name == "smtpd"]
        self._master.send_signal(signal.SIGHUP)
        self._wait_for(asked, _RELOADED_WITHIN, before)

    def death(self) -> str | None:
        """How the master process ended by itself."""
        status = None if self._master is None else self._master.poll()
        if status is None:
            return None
        return f"postfix ended by itself with status {status}: {self._last_words()}"

    def stop(self) -> None:
        """End Postfix: the master tells its process group, in which everybody is, and nobody says farewell."""
        if self._master is not None:
            group = self._master.pid
            with contextlib.suppress(ProcessLookupError):
                self._master.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(_ENDED_WITHIN)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            self._master.wait()
            self._master = None
            until = time.monotonic() + _ENDED_WITHIN
            while time.monotonic() < until and any(each.runs and each.group == group for each in procfs.processes()):
                time.sleep(0.002)
        while self._helpers:
            os.kill(self._helpers[-1], signal.SIGKILL)
            os.waitpid(self._helpers.pop(), 0)

    def _write(self, files: dict[str, str], asked: Asked) -> None:
        assert self._place is not None
        old = time.time() - _NEW
        for name, text in files.items():
            path = self._place.folder / name
            path.write_text(text)
            os.utime(path, (old, old))
        passwords = self._place.folder / "passwords"
        passwords.touch(0o600)
        passwords.write_text(json.dumps({account.name: account.password for account in asked.accounts}))
        for account in asked.accounts:
            maildir = asked.data / account.name
            maildir.mkdir(exist_ok=True)
            os.chown(maildir, self._place.mail_uid, self._place.mail_gid)

    def _wait_for(self, asked: Asked, within: float, before: list[int] | None = None) -> None:
        """Wait until everything listens that should, and nothing that should not.

        ``before``: the processes that were there already; each has to have a client, or to end.
        """
        wanted, until = listeners.wanted(asked), time.monotonic() + within
        closing = self._listeners - wanted
        while True:
            opened = procfs.listening()
            settled = wanted <= opened and not closing & opened
            if settled and not any(_is_idle(each) for each in before or ()):
                self._listeners = wanted
                return
            if (death := self.death()) is not None:
                # What the master says before it has a logging service is lost; this is its usual reason.
                foreign = [f"{each} is no address of this machine" for each in listeners.foreign(asked)]
                raise DriverFailed("; ".join([death, *foreign]))
            if time.monotonic() > until:
                raise DriverFailed(f"postfix does not listen as it should within {within:g} s: {self._last_words()}")
            time.sleep(0.002)

    def _last_words(self) -> str:
        assert self._place is not None
        try:
            lines = self._place.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return next((line for line in reversed(lines) if " fatal: " in line), "no reason is in its log")


def _installed() -> Path:
    """The folder of the daemons; raises UnsupportedSetting where Postfix cannot be run."""
    daemons = next((folder for folder in _DAEMONS if (folder / "master").exists()), None)
    if daemons is None or not _version():
        raise UnsupportedSetting("services", f"Postfix is not installed: {_INSTALL}")
    found = re.match(r"(\d+)\.(\d+)", _version())
    if found is None or tuple(map(int, found.groups())) < _OLDEST:
        raise UnsupportedSetting("services", f"Postfix {_version()} is older than {_OLDEST[0]}.{_OLDEST[1]}")
    if os.geteuid() != 0:
        raise UnsupportedSetting("services", "Postfix gives its processes users of their own: run this as root")
    return daemons


def _require_certificates(asked: Asked) -> None:
    """Postfix itself would begin without TLS, and say so in its log; a scenario is wrong that names no file."""
    for service in asked.services:
        for file in (service.certificate.chain, service.certificate.key) if service.certificate else ():
            if not file.is_file():
                raise DriverFailed(f"{file}: there is no such file")


def _lay_out(place: postfix_conf.Place) -> None:
    """The folders of a queue, with the owners that ``postfix set-permissions`` would give them."""
    try:
        owner, group = pwd.getpwnam(_MAIL_OWNER).pw_uid, grp.getgrnam(_DROP_GROUP).gr_gid
    except KeyError as error:
        raise DriverFailed(f"Postfix needs the user and the group of its package: {error}") from None
    folders = [(place.queue, 0o755, 0, 0), (place.queue / "pid", 0o755, 0, 0), (place.state, 0o700, owner, 0)]
    folders += [(place.queue / name, 0o700, owner, 0) for name in (*_QUEUES, "private")]
    folders += [(place.queue / "public", 0o2710, owner, group), (place.queue / "maildrop", 0o1730, owner, group)]
    for folder, mode, user, of_group in folders:
        folder.mkdir(exist_ok=True)
        os.chown(folder, user, of_group)
        folder.chmod(mode)


def _is_idle(pid: int) -> bool:
    found = procfs.process(pid)
    return found is not None and found.runs and procfs.clients(pid) == 0


if __name__ == "__main__":
    sys.exit(main(Postfix(), sys.argv[1:]))
