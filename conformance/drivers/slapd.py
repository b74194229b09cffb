"""The driver of OpenLDAP's slapd: LDAP from a private instance; the system's own is left alone.

Owns: what this slapd is declared to have, starting it in a folder of its own, holding it to a number of connections,
and stopping it.  ``slapd_conf`` knows how settings are written, ``program`` how a driver talks.  What was measured,
and why it is declared in this way, stands in docs/targets/slapd.md.

How the limit works, since slapd has none: a process may have so many files open and no more, and a connection is one
of them.  Once slapd listens, the kernel is told to leave it room for N connections and one file.  That one is the
surplus client's; it is accepted, /etc/hosts.allow cannot be opened any more, and slapd turns away whom it cannot look
up.

    python -m conformance.drivers.slapd describe | run SCENARIO.json
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conformance import procfs
from conformance.drivers import confine, listeners, slapd_conf, tcp_wrappers
from conformance.drivers.asked import Asked, AskedService, JsonObject, UnsupportedSetting
from conformance.drivers.program import DriverFailed, main

_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/usr/libexec"))
_SCHEMAS = (Path("/etc/ldap/schema"), Path("/etc/openldap/schema"))
_MODULES = ("/usr/lib/ldap", "/usr/lib/*/ldap", "/usr/lib*/openldap", "/usr/libexec/openldap")
_INSTALL = "apt install slapd"
_OLDEST = (2, 5)

_FILES = 1024
"""How many files slapd may have open where no number of connections is asked for."""
_FILES_BESIDES = 64
"""More than slapd has open beside its connections."""

_FEW = 20
"""Up to so many connections a limit is there to be reached, and slapd has to be orderly rather than quick."""

_BEGUN = b"slapd starting"
"""What it says once everything is open that it opens before the first client; to stderr, with ``-d none``."""

_ORDINARY = re.compile(
    r"@\(#\)|slapd (starting|shutdown|stopped)|daemon: shutdown|connections_destroy|.*: warning, threads="
)
"""What it always says; to stderr too."""

_STARTED_WITHIN = 10.0
_ENDED_WITHIN = 5.0
"""Seconds."""


def _describe() -> dict[str, Any]:
    offers = [
        "bind",
        "ports",
        "idle_timeout",
        "explicit_tls",
        "implicit_tls",
        "certificate",
        "require_tls_for_login",
    ]
    notes = [
        "It cannot be told of new listeners while it runs, and SIGHUP ends it: nothing is reloaded.",
        "It has StartTLS wherever it has TLS at all.",
    ]
    if tcp_wrappers.usable() and _wrapped():
        offers += ["max_connections", "restrictions"]
        notes.append("max_connections is the number of files that the process may open, set once it listens.")
    else:
        notes.append(
            "IP restrictions and max_connections need a slapd with TCP wrappers, /etc/hosts.allow, and root or user "
            "namespaces."
        )
    return {
        "format": 1,
        "name": "OpenLDAP slapd",
        "version": _version(),
        "services": {
            "ldap": {
                "offers": offers,
                "limit": {"scope": "service", "surplus": "close", "recovery": 1},
                "tls": {"versions": ["1.2", "1.3"]},
                "ipv6": procfs.has_ipv6(),
                "restrictions": {"stage": "accept"},
                "idle_timeout_min": 1,
                "idle_timeout_step": 1,
                "idle_timeout_late": 2,  # it compares whole seconds, and looks at every quarter of the time
                "defaults": {"idle_timeout": 0},
                "login": {"base_dn": slapd_conf.BASE_DN, "user_dn": slapd_conf.USER_DN},
                "notes": notes,
            }
        },
    }


def _binary() -> str | None:
    return shutil.which("slapd", path=_SEARCH)


@functools.cache
def _version() -> str:
    binary = _binary()
    if binary is None:
        return ""
    # Its number is on stderr, and so is whatever else it has to say.
    printed = subprocess.run([binary, "-VV"], capture_output=True, text=True, check=False)
    found = re.search(r"slapd (\d[\w.]*)", printed.stderr + printed.stdout)
    return found.group(1) if found else ""


@functools.cache
def _wrapped() -> bool:
    binary = _binary()
    return binary is not None and b"libwrap.so" in Path(binary).read_bytes()


class Slapd:
    """One private instance."""

    def __init__(self) -> None:
        self._description: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def describe(self) -> JsonObject:
        """What is declared of slapd; the version is empty where it is not installed."""
        if self._description is None:
            self._description = _describe()
        return self._description

    def start(self, asked: Asked) -> JsonObject:
        """Fill the directory, start slapd and wait until every listener is open."""
        binary, place = _installed(asked)
        (service,) = asked.services
        listeners.require_free(asked)
        self._folder = place.folder
        files = slapd_conf.files(asked, place)
        files_open = _files_at_the_start(service)
        # Whatever is there is of a former start; nobody but this driver writes to the directory.
        shutil.rmtree(place.folder, ignore_errors=True)
        place.database.mkdir(parents=True)
        place.folder.chmod(0o700)
        conf, people = place.folder / "slapd.conf", place.folder / "people.ldif"
        hosts_allow = place.folder / "hosts.allow"
        conf.write_text(files.slapd_conf)
        people.write_text(files.people_ldif)
        hosts_allow.write_text(files.hosts_allow)
        _fill(conf, people)
        mounts = confine.Mounts(files=[(hosts_allow, tcp_wrappers.HOSTS_ALLOW)] if tcp_wrappers.usable() else [])
        resource.setrlimit(resource.RLIMIT_NOFILE, files_open)
        if 0 < service.max_connections <= _FEW:
            _one_after_another()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    # -s 0: the system's log would be one more file that it has open.
                    [binary, "-h", " ".join(slapd_conf.urls(service)), "-f", conf, "-d", "none", "-s", "0"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"PATH": _SEARCH, "TZ": os.environ.get("TZ", "UTC")},
                    # The driver has one thread, now and always.  slapd is one process: nothing outlives it.
                    preexec_fn=confine.before_exec(os.getpid(), mounts),  # noqa: PLW1509
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverFailed(f"{binary} cannot be started: {error}") from None
        self._wait_for(asked, _STARTED_WITHIN)
        if service.max_connections:
            _hold_to(self._process.pid, service.max_connections, files_open[1])
        return {"pids": [self._process.pid]}

    def reload(self, asked: Asked) -> None:
        """Refuse: slapd has its listeners from its command line, and SIGHUP ends it."""
        del asked
        raise UnsupportedSetting("services.ldap", "slapd reads its files once")

    def death(self) -> str | None:
        """How slapd ended by itself."""
        status = None if self._process is None else self._process.poll()
        return None if status is None else f"slapd ended by itself with status {status}: {self._last_words()}"

    def stop(self) -> None:
        """End slapd as an init system does, with SIGTERM."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(_ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def _log(self) -> Path:
        return self._folder / "slapd.log"

    def _wait_for(self, asked: Asked, within: float) -> None:
        wanted, until = listeners.wanted(asked), time.monotonic() + within
        while not (wanted <= procfs.listening() and _BEGUN in self._log.read_bytes()):
            if (death := self.death()) is not None:
                # It says what failed, and not where.
                foreign = [f"{each} is no address of this machine" for each in listeners.foreign(asked)]
                raise DriverFailed("; ".join([f"{death} before it listened", *foreign]))
            if time.monotonic() > until:
                raise DriverFailed(f"slapd does not listen as it should within {within:g} s: {self._last_words()}")
            time.sleep(0.002)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        # Each begins with the time and the thread; that it starts and stops tells nothing.
        said = [line.split(" ", 2)[-1].rstrip(".") for line in lines if line[:1].isalnum()]
        return "; ".join(line for line in said if not _ORDINARY.match(line)) or "it gave no reason"


def _installed(asked: Asked) -> tuple[str, slapd_conf.Place]:
    binary, slapadd = _binary(), shutil.which("slapadd", path=_SEARCH)
    schemas = next((folder for folder in _SCHEMAS if (folder / "inetorgperson.schema").exists()), None)
    modules = next((folder for pattern in _MODULES for folder in glob.glob(pattern) if _has_mdb(folder)), None)
    if binary is None or slapadd is None or schemas is None or modules is None:
        raise UnsupportedSetting("services", f"slapd is not installed: {_INSTALL}")
    found = re.match(r"(\d+)\.(\d+)", _version())
    if found is None or tuple(map(int, found.groups())) < _OLDEST:
        raise UnsupportedSetting("services", f"slapd {_version()} is older than {_OLDEST[0]}.{_OLDEST[1]}")
    return binary, slapd_conf.Place(asked.data / ".slapd", schemas, Path(modules))


def _has_mdb(folder: str) -> bool:
    return bool(glob.glob(f"{folder}/back_mdb*"))


def _fill(conf: Path, people: Path) -> None:
    slapadd = shutil.which("slapadd", path=_SEARCH) or "slapadd"
    filled = subprocess.run([slapadd, "-q", "-f", conf, "-l", people], capture_output=True, text=True, check=False)
    if filled.returncode != 0:
        raise DriverFailed(f"slapadd: {filled.stderr.strip()}")


def _files_at_the_start(service: AskedService) -> tuple[int, int]:
    """The limits of open files, soft and hard, with which slapd begins: it makes its tables for as many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(_FILES, service.max_connections + _FILES_BESIDES)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UnsupportedSetting(
            f"services.{service.name}.max_connections", f"a process may have only {hard} files open here"
        )
    return wanted, hard


def _one_after_another() -> None:
    """Have this process, and what it starts, do one thing at a time, and finish it before it turns to the next.

    A second surplus client that is accepted while the first is still being turned away finds no file left.  slapd then
    stops listening on that port until somebody leaves.  On one processor, and without threads that push each other
    aside, this hardly ever happens.
    """
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})  # not all servers on the same
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _hold_to(pid: int, connections: int, hard: int) -> None:
    """Leave a process room for so many connections and one file; numbers of files are given from the lowest."""
    taken = {int(entry) for entry in os.listdir(f"/proc/{pid}/fd")}
    number, left = 0, connections + 1
    while left:
        left -= number not in taken
        number += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))


if __name__ == "__main__":
    sys.exit(main(Slapd(), sys.argv[1:]))
