"""What a client does at a door of the server: it is served, or refused in one of many ways.

Owns: the words *served* and *refused* of the register, for every service and channel alike.  Knows the dialects and
the wire, not what a requirement makes of the outcome.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from conformance.check import Channel, Mismatch
from conformance.contract import DeclaredService
from conformance.dialects import DIALECTS, Dialect, NotServed
from conformance.dialects.dialect import Credentials, Malformed
from conformance.scenarios import CLIENT, SERVER, SERVER_V6
from conformance.target import RELEASE, Site
from conformance.transcript import Transcript
from conformance.wire import PATIENCE, Ended, Ending, Silent, Wire
from conformance.wire_contexts import client_context
from reference_server.settings import Service

if TYPE_CHECKING:
    import ssl

Outcome = TypeVar("Outcome")

#: How long a connection that nobody greets is watched before it counts as left in the backlog (seconds), beyond twice
#: the time in which this server greets whom it serves: some take seconds over it, to see who talks first.
BACKLOG_PATIENCE = 0.7
#: For servers that make room first.
ROOM_PATIENCE = 3.0


class Form(enum.StrEnum):
    """In what way a client was refused."""

    CONNECT = "refused by the kernel"
    REPLY = "refused with a reply"
    FIN = "closed without a word"
    RST = "reset"
    TLS = "refused in the TLS handshake"
    SILENCE = "left without an answer"
    NONSENSE = "answered with what is no sentence of the protocol"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client that got no service, and what it saw instead."""

    form: Form
    detail: str = ""
    wire: Wire | None = None
    #: Whether it had its greeting, or the first answer, before that.
    greeted: bool = False

    def __str__(self) -> str:
        return f"{self.form}{f' ({self.detail})' if self.detail else ''}"


@dataclass(slots=True)
class Visit:
    """A session that has been served: greeting and positive act, inside TLS where the channel has it."""

    wire: Wire
    endpoint: Endpoint

    def is_alive(self) -> bool:
        """Whether the session can still act."""
        try:
            self.endpoint.dialect.probe(self.wire)
        except (Ended, Silent, NotServed, Malformed):
            return False
        return True

    def login(self) -> None:
        """Sign in with the scenario's account.  Raises :class:`Mismatch` when that is refused."""
        try:
            self.endpoint.dialect.login(self.wire, self.endpoint.credentials)
        except (NotServed, Ended, Silent) as error:
            raise Mismatch("the login to be accepted", str(error)) from None

    def goodbye(self) -> None:
        """Leave in good order and close."""
        with contextlib.suppress(Ended, Silent, NotServed, Malformed):
            self.endpoint.dialect.goodbye(self.wire)
        self.wire.close()

    def close(self) -> None:
        """Close without goodbye (but with close_notify under TLS)."""
        self.wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Door:
    """An address and port where a service is to be had through one channel."""

    address: str
    port: int


@dataclass(frozen=True)
class Endpoint:
    """One service of a running scenario through one channel, and the transcript that its connections write to."""

    site: Site
    service: Service
    channel: Channel
    declared: DeclaredService
    credentials: Credentials
    ca_file: str
    transcript: Transcript
    wires: list[Wire] = field(default_factory=list)
    #: TLS settings of a client that is not the usual one, and the name that it asks for.
    special_context: ssl.SSLContext | None = None
    server_name: str | None = "localhost"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def dialect(self) -> Dialect:
        """How the service is spoken to."""
        return DIALECTS[self.service]

    @property
    def settings(self) -> dict[str, Any]:
        """The service's table in the scenario."""
        table: dict[str, Any] = self.site.settings["services"][self.service.value]
        return table

    @property
    def limit(self) -> int:
        """The configured maximum of simultaneous connections."""
        return int(self.settings["max_connections"])

    @property
    def release(self) -> float:
        """Seconds within which a freed slot must be usable again."""
        return max(RELEASE, self.declared.limit.recovery)

    @property
    def patience(self) -> float:
        """How long a connection is watched before it counts as unanswered."""
        usual = self.site.greeted_within.get(self.service)
        if usual is None:
            return PATIENCE
        gives_way = self.declared.limit.surplus == "evict_oldest_unauthenticated"
        return 2 * usual + (ROOM_PATIENCE if gives_way else BACKLOG_PATIENCE)

    @property
    def addresses(self) -> list[str]:
        """The addresses that the scenario binds the service to, ``*`` spelt out as the loopback addresses."""
        bind = self.settings.get("bind", self.site.settings.get("defaults", {}).get("bind", ["*"]))
        if bind == ["*"]:
            return [SERVER, SERVER_V6] if self.site.place.has_ipv6 and self.declared.ipv6 else [SERVER]
        return list(bind)

    @property
    def ports(self) -> list[int]:
        """The ports of this channel."""
        key = "implicit_tls_ports" if self.channel is Channel.IMPLICIT else "ports"
        return list(self.settings.get(key, ()))

    @property
    def doors(self) -> list[Door]:
        """Every address with every port of this channel."""
        return [Door(address, port) for address in self.addresses for port in self.ports]

    def through(self, channel: Channel) -> Endpoint:
        """The same service through another channel, with the same transcript and connections."""
        return replace(self, channel=channel)

    def other_services(self) -> list[Endpoint]:
        """The other services of the scenario, in plain text."""
        return [
            replace(self, service=Service(name), channel=Channel.PLAIN)
            for name in self.site.settings["services"]
            if name != self.service.value
        ]

    @property
    def channels(self) -> list[Channel]:
        """The channels that this service has here."""
        found = [Channel.PLAIN]
        if self.settings.get("explicit_tls"):
            found.append(Channel.EXPLICIT)
        if self.settings.get("implicit_tls_ports"):
            found.append(Channel.IMPLICIT)
        return found

    def context(self) -> ssl.SSLContext:
        """A client's TLS settings that verify the server's certificate."""
        return self.special_context or _context(self.ca_file)

    def for_client(self, context: ssl.SSLContext, server_name: str | None = "localhost") -> Endpoint:
        """The same door for a client with TLS settings of its own."""
        return replace(self, special_context=context, server_name=server_name)

    # -- what a client does there -----------------------------------------------------------------------------------

    def knock(self, door: Door | None = None, source: str | None = None, **options: Any) -> Wire:
        """A TCP connection and nothing more.  Raises ``Ended`` or ``Silent``."""
        door = door or self.doors[0]
        if source is None and ":" not in door.address:
            source = CLIENT
        wire = Wire.connect(door.address, door.port, transcript=self.transcript, source=source, **options)
        with self._lock:
            self.wires.append(wire)
        return wire

    def attempt(
        self, door: Door | None = None, source: str | None = None, patience: float | None = None, **options: Any
    ) -> Visit | Refusal:
        """Try to be served.  A refused connection is closed, except one that is left waiting (``Form.SILENCE``)."""
        try:
            wire = self.knock(door, source, **options)
        except Ended as end:
            return Refusal(Form.RST if end.ending is Ending.RST else Form.CONNECT, end.detail)
        except Silent as silence:
            return Refusal(Form.SILENCE, str(silence))
        return self.enter(wire, patience)

    def enter(self, wire: Wire, patience: float | None = None) -> Visit | Refusal:
        """From a TCP connection to a session that is served, if the server will have it."""
        patience = PATIENCE if patience is None else patience
        shaking_hands = greeted = False
        try:
            if self.channel is Channel.IMPLICIT:
                shaking_hands = True
                wire.start_tls(self.context(), self.server_name, patience)
                shaking_hands = False
            self.dialect.greeting(wire, patience)
            greeted = True
            self._was_greeted(time.monotonic() - wire.connected_at)
            if self.channel is Channel.EXPLICIT:
                self.upgrade(wire)
            self.dialect.act(wire)
        except NotServed as refusal:
            wire.close()
            return Refusal(Form.REPLY, str(refusal))
        except Ended as end:
            wire.close()
            if end.ending is Ending.RST:
                return Refusal(Form.RST, end.detail, greeted=greeted)
            if shaking_hands and end.ending is Ending.TLS_FAILED:
                return Refusal(Form.TLS, end.detail)
            return Refusal(Form.FIN, str(end), greeted=greeted)
        except Silent as silence:
            return Refusal(Form.SILENCE, str(silence), wire)
        except Malformed as nonsense:
            wire.close()
            return Refusal(Form.NONSENSE, str(nonsense))
        return Visit(wire, self)

    def _was_greeted(self, seconds: float) -> None:
        known = self.site.greeted_within
        known[self.service] = min(seconds, known.get(self.service, seconds))

    def upgrade(self, wire: Wire) -> None:
        """From a greeted session in clear to one under TLS.  Raises :class:`NotServed` when it is not to be had."""
        # SMTP wants EHLO first (RFC 3207 4); elsewhere it does no harm.
        self.dialect.act(wire)
        reply = self.dialect.ask_tls(wire)
        if reply is not None:
            raise NotServed(reply)
        wire.start_tls(self.context(), self.server_name)

    def visit(self, door: Door | None = None, source: str | None = None, **options: Any) -> Visit:
        """Be served, as must be possible.  Raises :class:`Mismatch`."""
        outcome = self.attempt(door, source, **options)
        if isinstance(outcome, Refusal):
            where = door or self.doors[0]
            raise Mismatch(f"to be served at {where.address} port {where.port} ({self.channel})", str(outcome))
        return outcome

    def eventually(
        self, door: Door | None = None, source: str | None = None, within: float | None = None, **options: Any
    ) -> Visit | Refusal:
        """Be served as soon as a slot is free: the outcome, at the latest after ``within`` seconds (release time)."""
        deadline = time.monotonic() + (self.release if within is None else within)
        while True:
            left = deadline - time.monotonic()
            outcome = self.attempt(door, source, patience=max(self.patience, left), **options)
            if isinstance(outcome, Visit) or time.monotonic() >= deadline:
                return outcome
            if outcome.wire is not None:
                outcome.wire.close()
            time.sleep(0.02)

    def fill(
        self,
        count: int | None = None,
        doors: Sequence[Door] | None = None,
        source: str | None = None,
        **options: Any,
    ) -> list[Visit]:
        """As many sessions as the limit allows, each of them served and all of them at once.

        Slots that an earlier client has just given back count as free within the release time.
        Raises :class:`Mismatch` when fewer are served.
        """
        count = self.limit if count is None else count
        doors = doors or self.doors[:1]
        deadline = time.monotonic() + self.release
        visits: list[Visit] = []
        for number in range(count):
            left = max(0.05, deadline - time.monotonic())
            outcome = self.eventually(doors[number % len(doors)], source, within=left, **options)
            if isinstance(outcome, Refusal):
                raise Mismatch(
                    f"{count} connections to be served at once ({self.channel})",
                    f"{number} were served; the next was {outcome}",
                )
            visits.append(outcome)
        alive = served_at_once(visits)
        if alive < count:
            raise Mismatch(f"{count} connections to be served at once", f"only {alive} of them could still act")
        return visits

    def close_all(self) -> None:
        """Close every connection that was opened here."""
        with self._lock:
            wires, self.wires[:] = list(self.wires), []
        for wire in wires:
            wire.close()


@contextlib.contextmanager
def expecting(what: str) -> Iterator[None]:
    """What is asked inside must be answered well: anything else is a :class:`Mismatch`."""
    try:
        yield
    except (NotServed, Malformed) as answer:
        raise Mismatch(what, f"the answer {answer}") from None
    except (Ended, Silent) as error:
        raise Mismatch(what, str(error)) from None


def served_at_once(visits: Iterable[Visit]) -> int:
    """How many of these sessions can still act, each proved by an answer of its own."""
    return sum(visit.is_alive() for visit in visits)


def at_once(count: int, act: Callable[[], Outcome]) -> list[Outcome]:
    """What ``count`` clients see that do the same at the same moment, each on a thread of its own."""
    barrier = threading.Barrier(count)

    def client(number: int) -> Outcome:
        del number
        barrier.wait(10)
        return act()

    with ThreadPoolExecutor(count, thread_name_prefix="client") as clients:
        return list(clients.map(client, range(count)))


_contexts: dict[str, ssl.SSLContext] = {}


def _context(ca_file: str) -> ssl.SSLContext:
    if ca_file not in _contexts:
        _contexts[ca_file] = client_context(ca_file)
    return _contexts[ca_file]
