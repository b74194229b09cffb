"""Faults of a server's life: of a reload, of a service that is switched off, of the start and of the stop."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import Any, Final

from reference_server.admission import Admission, Limits
from reference_server.configuration import Configuration
from reference_server.faults.ledger import fault, hit
from reference_server.listener import Door, Engine, Listener
from reference_server.mailstore import MailStore
from reference_server.server import Parts
from reference_server.session import Peer
from reference_server.settings import AccountSettings, ServerSettings, SettingsError, parse

SERVICES: Final = ("smtp", "pop3", "imap", "webmail", "ldap", "admin")
#: How long a door is shut that should never have been (seconds).
A_WHILE: Final = 0.4
#: A reset instead of an end, for SO_LINGER.
RESET: Final = b"\1\0\0\0\0\0\0\0"


class ReloadedEngine(Engine):
    """An engine that notices when it is given its settings again."""

    _started = False

    def set_idle_timeout(self, seconds: float) -> None:
        super().set_idle_timeout(seconds)
        if self._started:
            self.reloaded()
        self._started = True

    def reloaded(self) -> None:
        """What is wrong with a reload."""


# -- a reload ----------------------------------------------------------------------------------------------------------


@fault(
    "reload-ends-sessions",
    "a reload ends every session, whatever was changed",
    breaks="LIF-01",
    consequences="LIF TLS-15 EXP-12 IMP-08",
    services=SERVICES,
)
def reload_ends_sessions(parts: Parts) -> Parts:
    class Ending(ReloadedEngine):
        def reloaded(self) -> None:
            hit()
            for connection in list(self.connections):
                connection.stop()

    return replace(parts, engine=Ending)


@fault(
    "reload-shuts-the-doors",
    "a reload closes all listeners and opens them again a moment later",
    breaks="LIF-01",
    consequences="LIF TLS-15 TLS-05 EXP-12 IMP-08 IMP-11",
    services=SERVICES,
)
def reload_shuts_the_doors(parts: Parts) -> Parts:
    class Shutting(ReloadedEngine):
        def reloaded(self) -> None:
            hit()
            doors = list(self.listeners)
            self.close(doors)
            self.loop.call_later(A_WHILE, self._open_again, doors)

        def close(self, doors: Iterable[Door]) -> None:
            super().close([door for door in doors if door in self.listeners])

        def _open_again(self, doors: list[Door]) -> None:
            for door in doors:
                self.adopt(self.open(door))

    return replace(parts, engine=Shutting)


@fault(
    "reload-keeps-old-ports",
    "a port that is configured no more stays open until the server is started again",
    breaks="LIF-02",
    consequences="LIF IMP-10 IMP-13",
    services=SERVICES,
)
def reload_keeps_old_ports(parts: Parts) -> Parts:
    class Keeping(Engine):
        _stopping = False

        def stop(self) -> None:
            self._stopping = True
            super().stop()

        def close(self, doors: Iterable[Door]) -> None:
            doors = list(doors)
            if self._stopping:
                super().close(doors)
            elif doors:
                hit()

    return replace(parts, engine=Keeping)


@fault(
    "reload-opens-no-ports",
    "a port that is new in the configuration is opened at the next start only",
    breaks="LIF-02",
    consequences="LIF IMP-10 IMP-13",
    services=SERVICES,
)
def reload_opens_no_ports(parts: Parts) -> Parts:
    class Waiting(ReloadedEngine):
        _reloading = False

        def adopt(self, listener: Listener) -> None:
            super().adopt(listener)
            if self._reloading:
                hit()
                self.close([listener.door])

        def close(self, doors: Iterable[Door]) -> None:
            super().close([door for door in doors if door in self.listeners])

        def reloaded(self) -> None:
            self._reloading = True

    return replace(parts, engine=Waiting)


class _Careless(Configuration):
    """Where the file cannot be used, the settings that were there before are taken for what is in it."""

    _former: ServerSettings | None = None

    def load(self) -> ServerSettings:
        try:
            self._former = super().load()
        except SettingsError:
            if self._former is None:
                raise
            hit()
            return self._former
        return self._former


@fault(
    "reload-complains-of-nothing",
    "a configuration that cannot be used is passed over without a word, as if it had been taken on",
    breaks="LIF-03",
    consequences="LIF",
    services=SERVICES,
)
def reload_complains_of_nothing(parts: Parts) -> Parts:
    return replace(parts, configuration=_Careless)


@fault(
    "mistake-closes-the-doors",
    "a configuration that cannot be used is refused, but by then every listener has been closed",
    breaks="LIF-03",
    consequences="LIF",
    services=SERVICES,
)
def mistake_closes_the_doors(parts: Parts) -> Parts:
    engines: list[Engine] = []

    class Listed(Engine):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            engines.append(self)

    class Eager(Configuration):
        def load(self) -> ServerSettings:
            try:
                return super().load()
            except SettingsError:
                for engine in engines:
                    hit()
                    engine.close(list(engine.listeners))
                raise

    return replace(parts, engine=Listed, configuration=Eager)


@fault(
    "reload-forgets-who-is-inside",
    "after a reload the limit counts from nothing again",
    breaks="LIF-06",
    consequences="LIF",
    services=SERVICES,
)
def reload_forgets_who_is_inside(parts: Parts) -> Parts:
    class Forgetful(ReloadedEngine):
        def reloaded(self) -> None:
            if self.admission.count:
                hit()
            self.admission = self.admission_type(self.admission.limits)

    return replace(parts, engine=Forgetful)


@fault(
    "reload-keeps-places-taken",
    "who was inside at a reload never gives the place back",
    breaks="LIF-06",
    consequences="LIF",
    services=SERVICES,
)
def reload_keeps_places_taken(parts: Parts) -> Parts:
    class Keeping(ReloadedEngine):
        def reloaded(self) -> None:
            if self.admission.count:
                hit()
            self.admission = copy.deepcopy(self.admission)

    return replace(parts, engine=Keeping)


@fault(
    "keeps-its-first-limit",
    "another limit of connections is in force from the next start only",
    breaks="LIF-09",
    consequences="LIF",
    services=SERVICES,
)
def keeps_its_first_limit(parts: Parts) -> Parts:
    class Fixed(Admission):
        def change(self, limits: Limits) -> None:
            former: Limits = getattr(self, "limits", limits)
            if limits.connections != former.connections:
                hit()
            super().change(replace(limits, connections=former.connections))

    class Keeping(Engine):
        admission_type = Fixed

    return replace(parts, engine=Keeping)


@fault(
    "keeps-its-first-time-out",
    "another idle time-out is in force from the next start only",
    breaks="LIF-09",
    consequences="LIF",
    services=SERVICES,
)
def keeps_its_first_time_out(parts: Parts) -> Parts:
    class Keeping(Engine):
        _first: float | None = None

        def set_idle_timeout(self, seconds: float) -> None:
            if self._first is None:
                self._first = seconds
            elif seconds != self._first:
                hit()
            super().set_idle_timeout(self._first)

    return replace(parts, engine=Keeping)


# -- a service that is switched off, and the stop ----------------------------------------------------------------------


@fault(
    "switched-off-and-still-there",
    "a service that is switched off goes on listening for a while",
    breaks="LIF-04",
    consequences="LIF CLS",
    services=SERVICES,
)
def switched_off_and_still_there(parts: Parts) -> Parts:
    class Lingering(Engine):
        def stop(self) -> None:
            hit()
            doors = list(self.listeners)
            self.loop.call_later(10 * A_WHILE, super().close, doors)
            for connection in list(self.connections):
                connection.stop()

    return replace(parts, engine=Lingering)


@fault(
    "switched-off-with-a-reset",
    "a service that is switched off, or stopped, resets the connections of its clients",
    breaks="LIF-04",
    consequences="LIF CLS",
    services=SERVICES,
)
def switched_off_with_a_reset(parts: Parts) -> Parts:
    class Resetting(Engine):
        def stop(self) -> None:
            self.close(list(self.listeners))
            for connection in list(self.connections):
                hit()
                connection._sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
                connection.abort()

    return replace(parts, engine=Resetting)


@fault(
    "lets-in-and-ignores-while-stopping",
    "it takes its time to stop, and until then clients are let in and hear nothing",
    breaks="LIF-05",
    consequences="LIF CLS",
    services=SERVICES,
)
def lets_in_and_ignores_while_stopping(parts: Parts) -> Parts:
    class Ignoring(Engine):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._ignored: list[socket] | None = None

        def stop(self) -> None:
            self._ignored = []
            for connection in list(self.connections):
                connection.stop()

        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if self._ignored is None:
                super().let_in(sock, peer, implicit=implicit)
                return
            hit()
            self._ignored.append(sock)

        async def emptied(self, within: float) -> None:
            await super().emptied(within)
            waited = self.loop.create_future()
            self.loop.call_later(5 * A_WHILE, waited.set_result, None)
            await waited
            self.close(list(self.listeners))

    return replace(parts, engine=Ignoring)


# -- the start ---------------------------------------------------------------------------------------------------------


@fault(
    "ready-before-its-mail",
    "it says that it is ready, and sends clients away while it still looks through the mail of an earlier run",
    breaks="LIF-07",
    consequences="LIF CLS LIM IDL-23",
    services=SERVICES,
)
def ready_before_its_mail(parts: Parts) -> Parts:
    busy_until = 0.0

    def store(folder: Path, accounts: Sequence[AccountSettings]) -> MailStore:
        nonlocal busy_until
        if folder.is_dir() and any(folder.iterdir()):
            busy_until = time.monotonic() + 2 * A_WHILE
        return parts.store(folder, accounts)

    class Busy(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            if time.monotonic() < busy_until:
                hit()
                sock.close()
                return
            super().let_in(sock, peer, implicit=implicit)

    return replace(parts, store=store, engine=Busy)


class _FirstComeFirstServed(Configuration):
    """A port that is named again is passed over, whatever names it."""

    def load(self) -> ServerSettings:
        try:
            return super().load()
        except SettingsError:
            document = self.document()
            taken: set[int] = set()
            for table in document.get("services", {}).values():
                for key in ("ports", "implicit_tls_ports"):
                    if key in table:
                        table[key] = [port for port in table[key] if port not in taken]
                        taken.update(table[key])
            settings = parse(document, self.folder)
            hit()
            return settings


@fault(
    "port-twice-is-once",
    "a port that is configured twice belongs to whichever comes first, and nobody is told",
    breaks="LIF-08",
    consequences="LIF",
    services=SERVICES,
)
def port_twice_is_once(parts: Parts) -> Parts:
    return replace(parts, configuration=_FirstComeFirstServed)


# -- what is only odd --------------------------------------------------------------------------------------------------


@fault(
    "lets-sessions-finish-when-switched-off",
    "a service that is switched off lets nobody in, and those who are in finish in their own time",
    consequences="LIF-04",
    services=SERVICES,
)
def switched_off_sessions_go_on(parts: Parts) -> Parts:
    listening: set[Engine] = set()

    class Draining(Engine):
        def adopt(self, listener: Listener) -> None:
            super().adopt(listener)
            listening.add(self)

        def stop(self) -> None:
            self.close(list(self.listeners))
            listening.discard(self)
            # When the whole server stops, all of them are told so in one go.
            self.loop.call_soon(self._part)

        def _part(self) -> None:
            if listening:
                hit()
                return
            for connection in list(self.connections):
                connection.stop()

    return replace(parts, engine=Draining)
