"""Which session is behind which listener; start, reload, stop.

Owns: the engines of all services and the one mail store they share, and the way from settings to both.  Deliberately
knows nothing of what sessions say or of how a connection is served.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference_server.admission import Limits
from reference_server.configuration import Configuration
from reference_server.control import Control
from reference_server.guard import Patience
from reference_server.listener import Behaviour, BindError, Door, Engine, Listener, addresses_of, has_ipv6
from reference_server.mailstore import MailStore
from reference_server.protocols import imap, ldap, pop3, smtp
from reference_server.readiness import Readiness, readiness
from reference_server.session import Policy, Refusal, Session
from reference_server.settings import AccountSettings, ServerSettings, Service, ServiceSettings
from reference_server.tls import CertificateError, server_context

if TYPE_CHECKING:
    import ssl

    from reference_server.protocols.http import Application

log = logging.getLogger(__name__)

#: Threads for work that may block.
WORKERS = 16
#: How long clients may take to leave when the server stops, work under way included (seconds).
STOP_WITHIN = 5.0


class StartError(Exception):
    """The server cannot run with these settings; ``problems`` has one line for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Inside:
    """What an application has of the server that it is in."""

    store: MailStore
    hostname: str
    control: Control


@dataclass(frozen=True, slots=True)
class Speaker:
    """What a service speaks, how it turns clients away, and what is behind it: the mail store, or an application, of
    which there is one for all sessions of a server."""

    session: Callable[[Policy, Any], Session]
    refusal: Callable[[Refusal], bytes]
    behind: Callable[[Inside], Any] = lambda inside: inside.store


def _http_session(policy: Policy, application: Application) -> Session:
    # Read in where somebody wants it: a server without web interfaces starts sooner.
    from reference_server.protocols.http import HttpSession

    return HttpSession(policy, application)


def _http_refusal(why: Refusal) -> bytes:
    from reference_server.protocols.http import refusal

    return refusal(why)


def _webmail(inside: Inside) -> Application:
    from reference_server.web.webmail import Webmail

    return Webmail(inside.store, inside.hostname, time.monotonic)


def _admin(inside: Inside) -> Application:
    from reference_server.web.admin import Admin

    return Admin(inside.store, inside.control, time.monotonic)


SPEAKERS: Mapping[Service, Speaker] = {
    Service.SMTP: Speaker(smtp.SmtpSession, smtp.refusal),
    Service.POP3: Speaker(pop3.Pop3Session, pop3.refusal),
    Service.IMAP: Speaker(imap.ImapSession, imap.refusal),
    Service.WEBMAIL: Speaker(_http_session, _http_refusal, _webmail),
    Service.ADMIN: Speaker(_http_session, _http_refusal, _admin),
    Service.LDAP: Speaker(partial(ldap.LdapSession, now=time.monotonic), ldap.refusal),
}


@dataclass(slots=True)
class _Plan:
    """What one service will be, with everything made that can fail."""

    behaviour: Behaviour
    idle_timeout: float
    limits: Limits
    patience: Patience
    doors: list[Door]


def doors_of(table: ServiceSettings) -> list[Door]:
    """Every address and port that a service is to listen on.  Raises BindError for an unknown host name."""
    everywhere = "::" if has_ipv6() else "0.0.0.0"
    found = [address for bind in table.bind for address in ([everywhere] if bind == "*" else addresses_of(bind))]
    ipv4 = [address for address in dict.fromkeys(found) if ":" not in address]
    ipv6 = [address for address in dict.fromkeys(found) if ":" in address]
    # What a name resolves to may be covered already, and an address can be bound once only.
    ipv4 = ["0.0.0.0"] if "0.0.0.0" in ipv4 else ipv4
    ipv6 = ["::"] if "::" in ipv6 else ipv6
    # [::] takes IPv4 clients as well, unless the list says itself where they come in.
    both = not ipv4 or "*" in table.bind
    return [
        Door(address, port, implicit=implicit, any_version=both and address == "::")
        for implicit, ports in ((False, table.ports), (True, table.implicit_tls_ports))
        for port in ports
        for address in ([] if both and "::" in ipv6 else ipv4) + ipv6
    ]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is put together from.

    These are the right ones; ``reference_server.faults`` has others, each wrong in one way.
    """

    engine: type[Engine] = Engine
    speakers: Mapping[Service, Speaker] = field(default_factory=lambda: SPEAKERS)
    context: Callable[[Path, Path, int], ssl.SSLContext] = server_context
    doors: Callable[[ServiceSettings], list[Door]] = doors_of
    store: Callable[[Path, Sequence[AccountSettings]], MailStore] = MailStore
    configuration: type[Configuration] = Configuration


class Server:
    """The reference server.  Its methods belong to one event loop."""

    def __init__(
        self, settings: ServerSettings, parts: Parts | None = None, configuration: Configuration | None = None
    ) -> None:
        self.settings = settings
        self._configuration = configuration
        self._control: Control | None = None
        self._parts = parts or Parts()
        self.engines: dict[Service, Engine] = {}
        #: Services that were switched off, until the last of their clients has left.
        self._retired: list[Engine] = []
        self._retired_bugs = 0
        self._behind: dict[Service, Any] = {}
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="work")
        self._store: MailStore | None = None
        self._ready: Readiness | None = None

    @property
    def bugs(self) -> int:
        """Exceptions that should never have happened, in all services."""
        return self._retired_bugs + sum(engine.bugs for engine in (*self.engines.values(), *self._retired))

    async def start(self) -> None:
        """Listen.  Raises :class:`StartError` with nothing left open."""
        try:
            self._store = self._parts.store(self.settings.data, self.settings.accounts)
        except OSError as error:
            raise StartError([f"data: {error.filename or self.settings.data}: {error.strerror}"]) from None
        loop = asyncio.get_running_loop()
        self._control = Control(self, loop, self._configuration)
        self._ready = readiness(loop)
        try:
            self._apply(self._plans(self.settings))
        except StartError:
            self._ready.close()
            raise
        for warning in self.settings.warnings:
            log.warning("%s", warning)

    async def reload(self, settings: ServerSettings) -> None:
        """Take on other settings.  Raises :class:`StartError`, and then nothing has changed.

        Listeners that did not change keep their sockets, and services their sessions and counts.
        """
        if settings.data != self.settings.data:
            raise StartError(["data: cannot be changed while the server runs"])
        # Names are looked up, files read and passwords hashed where nobody has to wait for it.
        plans = await asyncio.to_thread(self._plans, settings)
        await self._take_on_accounts(settings)
        try:
            self._apply(plans)
        except StartError:
            await self._take_on_accounts(self.settings)
            raise
        self.settings = settings
        for warning in settings.warnings:
            log.warning("%s", warning)

    async def _take_on_accounts(self, settings: ServerSettings) -> None:
        assert self._store is not None
        try:
            await asyncio.to_thread(self._store.configure, settings.accounts)
        except OSError as error:
            raise StartError([f"data: {error.filename or settings.data}: {error.strerror}"]) from None

    async def stop(self) -> None:
        """Listen no more, let everybody take leave, finish what is under way."""
        for engine in self.engines.values():
            engine.stop()
        engines = [*self.engines.values(), *self._retired]
        await asyncio.gather(*(engine.emptied(STOP_WITHIN) for engine in engines))
        for engine in engines:
            engine.abort()
        await asyncio.get_running_loop().run_in_executor(None, self._workers.shutdown)
        if self._ready is not None:
            self._ready.close()

    # -- from settings to engines ------------------------------------------------------------------------------------

    def _apply(self, plans: Mapping[Service, _Plan]) -> None:
        """All or nothing: whatever can fail is done first.  Raises :class:`StartError`."""
        with self._out_of_the_way(plans):
            opened = self._open(plans)
        for service in [service for service in self.engines if service not in plans]:
            self._retire(self.engines.pop(service))
        for service, plan in plans.items():
            engine = self.engines[service]
            engine.admission.change(plan.limits)
            engine.guard.patience = plan.patience
            if plan.behaviour.tls_context is None:
                # Whoever is in was told that there is TLS, and may still ask for it.
                plan.behaviour.tls_context = engine.behaviour.tls_context
            engine.behaviour = plan.behaviour
            engine.set_idle_timeout(plan.idle_timeout)
            engine.close([door for door in engine.listeners if door not in plan.doors])
        for listener in opened:
            listener.engine.adopt(listener)

    def _retire(self, engine: Engine) -> None:
        engine.stop()
        for former in [former for former in self._retired if not (former.connections or len(former.lingering))]:
            self._retired.remove(former)
            self._retired_bugs += former.bugs
        self._retired.append(engine)

    def _plans(self, settings: ServerSettings) -> dict[Service, _Plan]:
        plans: dict[Service, _Plan] = {}
        problems: list[str] = []
        for service, table in settings.services.items():
            if not table.enabled:
                continue
            try:
                plans[service] = self._plan(service, table, settings)
            except CertificateError as error:
                problems.append(f"services.{service}.certificate: {error}")
            except BindError as error:
                problems.append(f"services.{service}.bind: {error}")
        if problems:
            raise StartError(problems)
        return plans

    def _plan(self, service: Service, table: ServiceSettings, settings: ServerSettings) -> _Plan:
        context: ssl.SSLContext | None = None
        if table.certificate is not None and (table.explicit_tls or table.implicit_tls_ports):
            certificate = settings.certificates[table.certificate]
            # A context for each service: what one hands out for resumption is of no use at another.
            context = self._parts.context(certificate.chain, certificate.key, settings.min_cipher_bits)
        policy = Policy(settings.hostname, table.explicit_tls, table.require_tls_for_login)
        speaker = self._parts.speakers[service]
        if service not in self._behind:
            assert self._store is not None
            assert self._control is not None
            self._behind[service] = speaker.behind(Inside(self._store, settings.hostname, self._control))
        behind = self._behind[service]
        return _Plan(
            Behaviour(lambda: speaker.session(policy, behind), speaker.refusal, context, settings.min_cipher_bits),
            math.inf if table.idle_timeout is None else table.idle_timeout,
            Limits(table.max_connections, table.max_connections_per_ip or 0, table.allow, table.deny),
            Patience(table.login_failures, table.login_window, table.login_block),
            self._parts.doors(table),
        )

    @contextmanager
    def _out_of_the_way(self, plans: Mapping[Service, _Plan]) -> Iterator[None]:
        """Close our own listeners that the new settings do not keep and whose port they need for another address.

        They are opened again when the new settings cannot be had after all.
        """
        wanted = {door.port for plan in plans.values() for door in plan.doors}
        in_the_way = [
            (engine, door)
            for service, engine in self.engines.items()
            for door in engine.listeners
            if door.port in wanted and (service not in plans or door not in plans[service].doors)
        ]
        for engine, door in in_the_way:
            engine.close([door])
        try:
            yield
        except StartError as error:
            lost = []
            for engine, door in in_the_way:
                try:
                    engine.adopt(engine.open(door))
                except BindError as taken:
                    lost.append(f"{engine.name}: can no longer listen on {taken}")
            raise StartError([*error.problems, *lost]) from None

    def _open(self, plans: Mapping[Service, _Plan]) -> list[Listener]:
        """Open what is not open yet.  Raises :class:`StartError`, with everything closed again."""
        loop = asyncio.get_running_loop()
        assert self._ready is not None
        opened: list[Listener] = []
        fresh: dict[Service, Engine] = {}
        problems: list[str] = []
        for service, plan in plans.items():
            engine = self.engines.get(service)
            if engine is None:
                engine = fresh[service] = self._parts.engine(
                    service.value,
                    loop,
                    self._ready,
                    self._workers,
                    limits=plan.limits,
                    idle_timeout=plan.idle_timeout,
                    behaviour=plan.behaviour,
                )
            for door in plan.doors:
                if door not in engine.listeners:
                    try:
                        opened.append(engine.open(door))
                    except BindError as error:
                        problems.append(f"services.{service}: cannot listen on {error}")
        if problems:
            for listener in opened:
                listener.close()
            raise StartError(problems)
        self.engines.update(fresh)
        return opened
