"""The engine: every service listens through it, in the same way.

Owns: listening sockets, who is asked before anybody is let in, the clock that runs for each client from its first
moment, and the threads in which work is done that may block.  What happens on a connection that was let in is
:mod:`reference_server.connection`'s.  Deliberately knows no protocol.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from reference_server.address_range import IPAddress, normalise
from reference_server.admission import Admission, Limits
from reference_server.connection import Connection
from reference_server.guard import Guard, Patience
from reference_server.idle import IdleClock
from reference_server.readiness import Readiness
from reference_server.session import Peer, Refusal, Session

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
#: What the kernel may keep of a client's output without sending it (octets).
NOT_SENT: Final = 1 << 14
#: So many clients are let in at most before others get their turn.
ACCEPT_AT_ONCE: Final = 64
#: Seconds to rest when descriptors have run out: accepting again at once would only fail again.
REST: Final = 0.1
#: How long a connection that is closed on our side is listened to, so that our last words are not lost (seconds).
LINGER: Final = 2.0
#: How long a server that stops waits for clients to take its farewell (seconds).
FAREWELL: Final = 0.3
#: How long a server that stops waits for clients to read what was sent to them before (seconds).
DRAIN: Final = 2.0
#: Refused clients to whom the reason is told at a time; the rest of a flood is closed without a word.
TOLD_AT_ONCE: Final = 256

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Job = Callable[[], Any]
Done = Callable[[Any, Exception | None], None]


class BindError(Exception):
    """An address or port that cannot be listened on; ``str()`` names it and the reason."""


@dataclass(frozen=True, slots=True)
class Door:
    """What one listener listens on.  ``any_version``: IPv4 clients come in through this IPv6 address, too."""

    address: str
    port: int
    implicit: bool = False
    any_version: bool = False

    def __str__(self) -> str:
        return f"{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"


@dataclass(slots=True)
class Behaviour:
    """What an engine does for its service, replaced by a reload for whoever comes next."""

    new_session: Callable[[], Session]
    refusal: Callable[[Refusal], bytes]
    tls_context: ssl.SSLContext | None
    min_cipher_bits: int


class Engine:
    """One listening service."""

    #: What an engine is put together from.
    admission_type: type[Admission] = Admission
    clock_type: type[IdleClock[Connection]] = IdleClock
    connection_type: type[Connection] = Connection
    guard_type: type[Guard] = Guard

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        ready: Readiness,
        workers: ThreadPoolExecutor,
        *,
        limits: Limits,
        idle_timeout: float,
        behaviour: Behaviour,
    ) -> None:
        self.name = name
        self.loop = loop
        self.ready = ready
        # Not the loop's own time: uvloop's is that of the beginning of its turn.
        self.now = time.monotonic
        self.admission = self.admission_type(limits)
        self.clock = self.clock_type(idle_timeout)
        self.guard = self.guard_type(Patience())
        self.lingering: IdleClock[Connection | _Told] = IdleClock(LINGER)
        self.connections: set[Connection] = set()
        self.listeners: dict[Door, Listener] = {}
        self.behaviour = behaviour
        #: Exceptions that should never have happened.
        self.bugs = 0
        self._workers = workers
        self._emptied: asyncio.Event | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The certificate for handshakes that begin now."""
        return self.behaviour.tls_context

    @property
    def min_cipher_bits(self) -> int:
        """What a session's cipher must have."""
        return self.behaviour.min_cipher_bits

    # -- listening ---------------------------------------------------------------------------------------------------

    def open(self, door: Door) -> Listener:
        """Listen there, without letting anybody in yet.  Raises :class:`BindError`."""
        return Listener(self, door)

    def adopt(self, listener: Listener) -> None:
        """Let clients in through a listener that was opened."""
        self.listeners[listener.door] = listener
        listener.start()

    def close(self, doors: Iterable[Door]) -> None:
        """Stop listening there; those who are in stay in."""
        for door in doors:
            self.listeners.pop(door).close()

    def let_in(self, sock: socket.socket, peer: Peer, *, implicit: bool) -> None:
        """Ask for a place, before anything else happens on the connection, and before TLS."""
        if self.guard.blocks(peer.address, self.now()):
            self._turn_away(sock, Refusal.BLOCKED, implicit=implicit)
            return
        ticket = self.admission.admit(peer.address)
        if isinstance(ticket, Refusal):
            self._turn_away(sock, ticket, implicit=implicit)
            return
        try:
            session = self.behaviour.new_session()
            connection = self.connection_type(self, sock, peer, ticket, session, implicit=implicit)
        except Exception:
            self.found_bug()
            log.exception("%s: there is no session for a client from %s", self.name, peer.address)
            ticket.give_back()
            sock.close()
            return
        self.connections.add(connection)
        connection.begin()

    def _turn_away(self, sock: socket.socket, why: Refusal, *, implicit: bool) -> None:
        """One line in clear, where that is what the port speaks; the client takes no place."""
        log.debug("%s: refused a client: %s", self.name, why.name)
        # RFC 8314 3: on an implicit port not one byte in clear, so there is nothing that could be said.
        if implicit or len(self.lingering) >= TOLD_AT_ONCE:
            sock.close()
            return
        try:
            sock.send(self.behaviour.refusal(why))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        _Told(self, sock)

    def login_failed(self, address: IPAddress) -> None:
        """Count it; when it was one too many, whoever is in from there is cut off."""
        if self.guard.failed(address, self.now()):
            seconds = self.guard.patience.block
            log.warning("%s: %s is blocked for %g s: too many failed logins", self.name, address, seconds)
            # Not at once: the client shall hear that its login has failed.
            self.soon(self._cut, address)

    def _cut(self, address: IPAddress) -> None:
        for connection in [each for each in self.connections if each.peer.address == address]:
            connection.cut()

    # -- time --------------------------------------------------------------------------------------------------------

    def heard(self, connection: Connection) -> None:
        """The client is new, or has said something, or the server is done with what it asked."""
        self.clock.heard(connection, self.now())
        if self._idle_timer is None:
            self._watch_idle()

    def owes(self, connection: Connection) -> None:
        """The client has begun a request and not completed it."""
        self.clock.owes(connection, self.now())

    def left(self, connection: Connection) -> None:
        """The client's place is free."""
        self.clock.forget(connection)
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections:
            self._emptied.set()

    def set_idle_timeout(self, seconds: float) -> None:
        """Another time-out, for those who are in as well."""
        self.clock.timeout = seconds
        self._watch_idle()

    def _watch_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        due = self.clock.due()
        if due is not None:
            self._idle_timer = self.loop.call_later(self._until(due), self._end_idle)

    def _until(self, moment: float) -> float:
        """Seconds for a timer; a loop that rounds them down must not come back too early again and again."""
        return max(0.0, moment - self.now()) + 0.001

    def _end_idle(self) -> None:
        self._idle_timer = None
        for connection in self.clock.overdue(self.now()):
            log.debug("%s: %s was idle for too long", self.name, connection.peer.address)
            try:
                connection.idled()
            except Exception:
                self.found_bug()
                log.exception("%s: the end of an idle connection broke", self.name)
                connection.abort()
        self._watch_idle()

    def watch_lingering(self) -> None:
        """Somebody lingers: see to it that it comes to an end."""
        if self._linger_timer is None and (due := self.lingering.due()) is not None:
            self._linger_timer = self.loop.call_later(self._until(due), self._end_lingering)

    def _end_lingering(self) -> None:
        self._linger_timer = None
        for connection in self.lingering.overdue(self.now()):
            connection.abort()
        self.watch_lingering()

    # -- work --------------------------------------------------------------------------------------------------------

    def perform(self, job: Job, done: Done) -> None:
        """Run a job in a worker thread and tell ``done`` on the loop."""

        def work() -> None:
            result, failure = None, None
            try:
                result = job()
            except Exception as error:
                failure = error
            self.soon(done, result, failure)

        self._workers.submit(work)

    def soon(self, callback: Callable[..., None], *details: Any) -> None:
        """Call back on the loop; may be called from any thread, even when the loop has ended."""
        # A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(callback, *details)

    def found_bug(self) -> None:
        """Count an exception that should never have happened."""
        self.bugs += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Listen no more, and have everybody take leave."""
        self.close(list(self.listeners))
        for connection in list(self.connections):
            connection.stop()

    async def emptied(self, within: float) -> None:
        """Wait until everybody has left, ``within`` seconds at most; then a moment for their last words.

        Who must still read what was sent has ``DRAIN`` seconds of it; the rest is for work under way.
        """
        await self._empty_for(min(DRAIN, within))
        for connection in list(self.connections):
            if not connection.at_work:
                connection.abort()
        await self._empty_for(within - DRAIN)
        until = self.now() + FAREWELL
        while len(self.lingering) and self.now() < until:
            await asyncio.sleep(0.01)

    async def _empty_for(self, seconds: float) -> None:
        if self.connections and seconds > 0:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)

    def abort(self) -> None:
        """End whoever is still there."""
        for connection in [*self.connections, *self.lingering]:
            connection.abort()
        for timer in (self._idle_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._linger_timer = None


class Listener:
    """One listening socket."""

    def __init__(self, engine: Engine, door: Door) -> None:
        self.engine = engine
        self.door = door
        self._resting: asyncio.TimerHandle | None = None
        self._complained = False
        self._sock = _listen(door)
        local = self._sock.getsockname()[0]
        address = ip_address(local.partition("%")[0])
        #: None where each connection has a local address of its own.
        self._local: IPAddress | None = None if address.is_unspecified else normalise(address)

    def start(self) -> None:
        """Begin to accept."""
        self.engine.ready.add_reader(self._sock.fileno(), self._acceptable)

    def close(self) -> None:
        """Accept nobody any more; who waits in the backlog is turned away by the kernel."""
        if self._resting is not None:
            self._resting.cancel()
        self.engine.ready.remove_reader(self._sock.fileno())
        self._sock.close()

    def _acceptable(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._rest(error)
                    return
                # The client is gone again (ECONNABORTED), or its network is: the next one is not.
                continue
            self._complained = False
            try:
                sock.setblocking(False)
                local = self._local or _address(sock.getsockname()[0])
            except OSError:
                sock.close()
                continue
            peer = Peer(_address(address[0]), address[1], local, self.door.port)
            self.engine.let_in(sock, peer, implicit=self.door.implicit)

    def _rest(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("%s at %s: cannot accept for a moment: %s", self.engine.name, self.door, error.strerror)
        self.engine.ready.remove_reader(self._sock.fileno())
        self._resting = self.engine.loop.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._resting = None
        self.start()


class _Told:
    """A refused client that has been told why.  Listened to for a moment, lest a reset costs it the reason."""

    __slots__ = ("_engine", "_sock")

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        self._engine = engine
        self._sock = sock
        engine.lingering.heard(self, engine.now())
        engine.watch_lingering()
        engine.ready.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            if self._sock.recv(4096):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            log.debug("%s: a refused client has reset its connection", self._engine.name)
        self.abort()

    def abort(self) -> None:
        """Its moment is over."""
        self._engine.lingering.forget(self)
        self._engine.ready.remove_reader(self._sock.fileno())
        self._sock.close()


@lru_cache(maxsize=4096)
def _address(text: str) -> IPAddress:
    """Normalised once, here: ``::ffff:192.0.2.1`` is 192.0.2.1; a link-local address loses its interface."""
    return normalise(ip_address(text.partition("%")[0]))


def _listen(door: Door) -> socket.socket:
    family = socket.AF_INET6 if ":" in door.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not SO_REUSEPORT: two servers would share the port, and each would get some of the clients.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: answers are written whole, and nothing is gained by holding them back.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not door.any_version)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Inherited by every connection: what a client has not asked for yet stays with us, where it is seen whether
            # the client reads.  In the kernel's buffer, megabytes long, it would not be.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        sock.setblocking(False)
        sock.bind((door.address, door.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        reasons = {
            errno.EADDRINUSE: "something else listens there already",
            errno.EADDRNOTAVAIL: "this machine does not have that address",
            errno.EACCES: "ports below 1024 need more rights than this user has",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise BindError(f"{door}: {reason}") from None
    return sock


def has_ipv6() -> bool:
    """Whether this machine can listen on IPv6 addresses."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def addresses_of(name: str) -> list[str]:
    """All addresses of a host name, or the address itself.  Raises :class:`BindError`."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise BindError(f"{name}: {error.strerror}") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))
