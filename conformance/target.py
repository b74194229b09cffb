"""The implementation under examination: its servers, one a scenario, and the doors through which they are reached.

Owns: setting up a scenario (ports, certificate, credentials, folders), starting it on first use through its driver,
side by side with others, and stopping everything at the end.  Knows nothing of requirements or verdicts;
what a client does at a door is :mod:`conformance.visit`.
"""

from __future__ import annotations

import copy
import os
import random
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certs import Authority, Situation
from conformance import driver_process, procfs
from conformance.contract import DeclaredService, Description, Ready, Unsupported
from conformance.dialects import DIALECTS
from conformance.dialects.dialect import Credentials
from conformance.driver_process import DriverError, DriverProcess, DriverRefused, describe, is_believable
from conformance.scenarios import ACCOUNTS, KEEPERS, SCENARIOS, Scenario
from conformance.wire_local import Occupied, Reservation, has_ipv6
from reference_server.settings import Service

#: A freed slot must be usable within this many seconds, or within what the target declares.
RELEASE = 2.0


class Unavailable(Exception):
    """The scenario cannot be had from this target; ``str()`` says why.  Not a fault of the server's."""


@dataclass(slots=True)
class Place:
    """The ports and bystanders of one scenario."""

    reservations: list[Reservation] = field(default_factory=list)
    bystanders: list[Occupied] = field(default_factory=list)
    has_ipv6: bool = field(default_factory=has_ipv6)

    def ports(self, count: int) -> list[int]:
        found: list[int] = []
        for port in random.sample(procfs.SUITE_PORTS, 400):
            if len(found) == count:
                break
            held: list[Reservation] = []
            try:
                # Its neighbours stay free, so that whoever answers there is this server.
                for number in (port, port + 1):
                    held.append(Reservation(number))  # one by one: the first is given back when the second is taken
            except OSError:
                for reservation in held:
                    reservation.close()
                continue
            self.reservations += held
            found.append(port)
        if len(found) < count:
            raise Unavailable(f"no {count} free ports between {procfs.SUITE_PORTS.start} and {procfs.SUITE_PORTS.stop}")
        return found

    def occupy(self, address: str, port: int) -> None:
        self.bystanders.append(Occupied(address, port))

    def close(self) -> None:
        for bystander in self.bystanders:
            bystander.close()
        for reservation in self.reservations:
            reservation.close()


@dataclass(slots=True)
class Site:
    """One scenario with its server running."""

    scenario: Scenario
    settings: dict[str, Any]
    process: DriverProcess
    place: Place
    folder: Path
    command: list[str]
    authority: Authority
    #: By service, the shortest time in which a client was greeted (seconds from its connect), as soon as one was.
    greeted_within: dict[Service, float] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def renew_certificate(self, name: str) -> None:
        """Put a fresh certificate and key in the place of one of the scenario's own; the server is not told."""
        write_certificate(self.authority, self.folder / name)

    def set_clock(self, ahead: float) -> None:
        """Have the server's wall clock that many seconds ahead of ours, from now on; its other clocks go on."""
        write_clock(Path(self.settings["wall_clock"]), ahead)

    def reload(self, settings: dict[str, Any]) -> str | None:
        """Have the server take on other settings while it runs; why it did not, or None."""
        answer = self.process.reload(settings)
        if answer.error is None:
            self.settings = settings
        return answer.error

    def change(self, edit: Callable[[dict[str, Any]], None]) -> str | None:
        """Have the server take on what ``edit`` makes of a copy of its settings; why it did not, or None.

        One after the other, where several want that at the same time; nothing is done where nothing would change.
        """
        with self._changing:
            settings = copy.deepcopy(self.settings)
            edit(settings)
            return None if settings == self.settings else self.reload(settings)

    def restart(self) -> None:
        """Stop the server and start it at once with the same settings, ports and data.  Raises DriverError."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop the server, and leave everything else as it is.  Raises DriverError."""
        self.process.stop()

    def start(self) -> None:
        """Start it again after :meth:`stop`.  Raises DriverError."""
        again = DriverProcess.start(self.command, self.settings, self.folder)
        if isinstance(again, Unsupported):
            raise DriverRefused(f"{again.setting}: {again.reason}")
        self.process = again

    def start_twin(self) -> str | None:
        """Try to start a second server on the same ports: why it would not, or None when it said it was ready."""
        return self.start_another(self.settings)

    def start_another(self, settings: dict[str, Any]) -> str | None:
        """Try to start a second server: why it would not, or None when it said it was ready; then it is stopped."""
        folder = self.folder / "twin"
        settings = {**settings, "data": str(folder / "data")}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        try:
            twin = DriverProcess.start(self.command, settings, folder, check_listening=False)
        except DriverRefused as refusal:
            return str(refusal)
        if isinstance(twin, Unsupported):
            return twin.reason
        twin.stop()
        return None

    def kept_waiting(self) -> float:
        """Seconds for which the machine has kept the server from running, since it was started."""
        return procfs.kept_waiting((self.process.pid, *self.ready.pids))

    @property
    def ready(self) -> Ready:
        """What the driver said when it was ready."""
        return self.process.ready

    def close(self) -> None:
        """Stop the server.  Raises DriverError when it did not stop as it must."""
        try:
            self.process.stop()
        finally:
            self.place.close()
            shutil.rmtree(self.folder, ignore_errors=True)


class Target:
    """One implementation, as its driver presents it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = list(command)
        self.description: Description = describe(self.command)
        # Servers that change their user must be able to reach their data through it.
        self.folder = Path(tempfile.mkdtemp(prefix="listenspec-"))
        self.folder.chmod(0o755)
        #: One password for all accounts of the run, so that there is one secret to keep out of reports.
        self.password = secrets.token_urlsafe(12)
        self.authority = Authority.create()
        self._ca_file = self.folder / "ca.pem"
        self._sites: dict[str, Future[Site]] = {}
        self._discarded: list[Future[Site]] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="site")
        self._complaints: list[str] = []
        self._write_certificates()
        self._mail_file = self.folder / "message.eml"
        self._mail_file.write_bytes(b"Subject: one of two\r\n\r\nthat lie here from the start\r\n")

    def _write_certificates(self) -> None:
        self._ca_file.write_bytes(self.authority.root_pem)
        leaf = self.authority.issue(Situation.VALID)
        self.chain_file, self.key_file = leaf.write(self.folder / "certificate")
        os.chmod(self.chain_file.parent, 0o755)  # noqa: S103

    @property
    def ca_file(self) -> Path:
        """The root that the servers' certificate leads to."""
        return self._ca_file

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that it has and that the suite can speak."""
        return tuple(service for service in Service if service in self.description.services and service in DIALECTS)

    def declared(self, service: Service) -> DeclaredService:
        """What it says of one of its services."""
        return self.description.services[service]

    def credentials(self, service: Service, name: str = ACCOUNTS[0]) -> Credentials:
        """How to sign in to one of its services."""
        return Credentials(name, self.password, f"{name}@example.test", self.declared(service).login)

    def check_honesty(self) -> None:
        """Raises DriverError when the driver says ``ready`` to a setting that nobody has."""
        place = Place()
        try:
            settings, _ = self._settings(SCENARIOS["general"], place, self._folder("invented"))
            is_believable(self.command, settings, folder=self.folder / "invented", within=driver_process.READY_WITHIN)
        finally:
            place.close()

    def prepare(self, names: Iterable[str]) -> None:
        """Begin to start scenarios, side by side."""
        for name in names:
            self._future(name)

    def site(self, name: str) -> Site:
        """The running scenario, started if need be.

        Raises :class:`Unavailable` when the target cannot do it, DriverError when its driver broke; ``DriverRefused``
        when it would not start.
        """
        return self._future(name).result()

    def discard(self, name: str) -> None:
        """Have the scenario started afresh at its next use: what its server has become is not to be trusted.

        The old one is stopped with all others: an observer may be with it still.
        """
        with self._lock:
            future = self._sites.pop(name, None)
            if future is not None:
                self._discarded.append(future)

    def close(self) -> list[str]:
        """Stop everything; what the drivers did wrong in stopping."""
        with self._lock:
            futures = [*self._sites.values(), *self._discarded]
            self._sites.clear()
            self._discarded.clear()
        for future in futures:
            self._pool.submit(self._close, future)
        self._pool.shutdown(wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self._complaints

    def _close(self, future: Future[Site]) -> None:
        try:
            site = future.result()
        except (Unavailable, DriverError, OSError):
            return
        try:
            site.close()
        except DriverError as error:
            self._complaints.append(str(error))

    def _future(self, name: str) -> Future[Site]:
        with self._lock:
            if name not in self._sites:
                self._sites[name] = self._pool.submit(self._start, SCENARIOS[name])
            return self._sites[name]

    def _folder(self, name: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        folder.chmod(0o755)
        return folder

    def _start(self, scenario: Scenario) -> Site:
        place = Place()
        folder = self._folder(scenario.name)
        try:
            settings, running = self._settings(scenario, place, folder)
            for name in scenario.certificates:
                chain, key = write_certificate(self.authority, folder / name)
                settings["certificates"][name] = {"chain": str(chain), "key": str(key)}
                if name in scenario.spoilt:
                    key.write_bytes(b"-----BEGIN NOTHING-----\n")
            if not running:
                raise Unavailable(f"no service offers what the scenario is about ({', '.join(sorted(scenario.needs))})")
            process = DriverProcess.start(
                self.command,
                settings,
                folder,
                within=driver_process.READY_WITHIN,
                # Whether every port is open is for checks to say; where none is, there is nothing to check.
                check_listening=False,
            )
            if isinstance(process, Unsupported):
                setting = f"{process.setting}: " if process.setting else ""
                raise Unavailable(f"{setting}{process.reason}")
            if process.is_deaf(settings):
                process.stop()
                raise DriverError(
                    f"{self.name}: said ready, but nobody listens on any of the ports that were asked for"
                )
        except BaseException:
            place.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Site(scenario, settings, process, place, folder, self.command, self.authority)

    def _settings(self, scenario: Scenario, place: Place, folder: Path) -> tuple[dict[str, Any], list[Service]]:
        data = folder / "data"
        data.mkdir()
        data.chmod(0o777)
        chosen = [service for service in self.services if scenario.needs <= self.declared(service).offers]
        settings: dict[str, Any] = {
            "format": 1,
            "hostname": "mail.example.test",
            "data": str(data),
            "certificates": {"main": {"chain": str(self.chain_file), "key": str(self.key_file)}},
            "accounts": [self._account(name) for name in (*ACCOUNTS, *(KEEPERS if scenario.keeps_mail else ()))],
            "services": {service.value: scenario.build(self.declared(service), place) for service in chosen},
        }
        ldap = settings["services"].get(Service.LDAP.value, {})
        if ldap.get("explicit_tls") or ldap.get("implicit_tls_ports"):
            settings["ldap_tls"] = True
        if scenario.defaults:
            settings["defaults"] = dict(scenario.defaults)
        rate = self._clock_rate(scenario, chosen)
        if rate > 1:
            settings["clock_rate"] = rate
        if scenario.sets_clock:
            settings["wall_clock"] = str(folder / "wall-clock")
            write_clock(folder / "wall-clock", 0)
        return settings, chosen

    def _account(self, name: str) -> dict[str, Any]:
        account: dict[str, Any] = {"name": name, "password": self.password, "address": f"{name}@example.test"}
        if Service.ADMIN in self.services:
            account["admin"] = True
        if name in KEEPERS and self.services == (Service.POP3,) and "seed_inbox" in self.declared(Service.POP3).offers:
            # With POP3 alone there is no other way to get mail in.
            account["inbox"] = [str(self._mail_file)] * 2
        return account

    def _clock_rate(self, scenario: Scenario, services: Iterable[Service]) -> float:
        """Timers that nobody can set are examined with a faster clock, where the target has one."""
        if not scenario.hurried:
            return 1
        fixed = any(
            timer is not None and timer.fixed
            for service in services
            for timer in (
                self.declared(service).timers.before_login,
                self.declared(service).timers.handshake,
                self.declared(service).timers.after_login,
            )
        )
        return min(60.0, self.description.clock_rate_max) if fixed else 1


def write_clock(file: Path, ahead: float) -> None:
    """How far ahead a wall clock is to be, in the words of libfaketime; read at any moment, so never half of it."""
    handle, fresh = tempfile.mkstemp(dir=file.parent)
    with open(handle, "w") as written:
        written.write(f"{ahead:+.0f}\n")
    Path(fresh).chmod(0o644)
    os.replace(fresh, file)


def write_certificate(authority: Authority, folder: Path) -> tuple[Path, Path]:
    """Chain and key, of RSA, where every program that serves a scenario finds them."""
    files = authority.issue(Situation.VALID, "rsa").write(folder)
    folder.chmod(0o755)
    return files


__all__ = ["DriverError", "DriverRefused", "Place", "Site", "Target", "Unavailable"]
