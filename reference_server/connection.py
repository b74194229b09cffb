"""One connection of the engine's: bytes in, a session's actions out.

Owns: the socket of an admitted client, TLS on it, the order in which things happen, and the ways in which a connection
ends.  Its ticket is given back exactly once, whatever ends it.  Deliberately knows no protocol and no limit:
:mod:`reference_server.listener` lets clients in, a Session says what they hear, :mod:`reference_server.outgoing` sends.

Sockets are read and written as soon as they are ready, without a transport or a task in between
(docs/adr/0001-readiness-callbacks.md).
"""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from reference_server.outgoing import Outgoing
from reference_server.session import (
    Actions,
    Channel,
    Close,
    LoginFailed,
    Peer,
    Perform,
    Send,
    Session,
    StartTls,
    Unwatch,
    Watch,
)
from reference_server.tls import TlsFailure, TlsPipe

if TYPE_CHECKING:
    from reference_server.admission import Ticket
    from reference_server.listener import Engine

log = logging.getLogger(__name__)

READ_AT_ONCE: Final = 1 << 16
#: So many connections are listened to at once after their end; beyond that they are closed without it.
LINGERING_AT_ONCE: Final = 1024


class Phase(enum.Enum):
    """Where a connection is."""

    HANDSHAKE = enum.auto()
    SESSION = enum.auto()
    #: Everything has been said; what is still to be sent goes out, then the connection is closed.
    LEAVING = enum.auto()
    #: Closed on our side.  What the client still sends is thrown away, lest a reset costs it our last words.
    LINGERING = enum.auto()
    ENDED = enum.auto()


#: Looked up at every event.  On the class itself that would cost more than all else that is done with it (Python 3.11).
_HANDSHAKE, _SESSION, _LEAVING, _LINGERING, _ENDED = Phase


class Connection:
    """An admitted client."""

    #: What speaks TLS for it.
    pipe_type: type[TlsPipe] = TlsPipe

    __slots__ = (
        "_at_work", "_cancel_watch", "_eof", "_fd", "_held", "_out", "_overdue", "_reading", "_sock",
        "_tls", "_unasked", "_undecrypted", "_upgrading", "_woken", "engine", "peer", "phase", "session",
        "since", "ticket",
    )

    def __init__(
        self, engine: Engine, sock: socket.socket, peer: Peer, ticket: Ticket, session: Session, *, implicit: bool
    ) -> None:
        self.phase = _HANDSHAKE if implicit else _SESSION
        self.engine = engine
        self.peer = peer
        self.ticket: Ticket | None = ticket
        self.session = session
        self._sock = sock
        self._fd = sock.fileno()
        self._out = Outgoing(sock, engine.ready, self)
        self._tls: TlsPipe | None = None
        self._reading = False
        self._at_work = False
        self._held: Perform | None = None
        self._eof = False
        self._overdue = False
        self._unasked = False
        self._undecrypted = False
        self._upgrading = False
        self._woken = False
        self._cancel_watch: Callable[[], None] | None = None
        self.since = 0.0  # when the client was let in, by the engine's clock

    def begin(self) -> None:
        """The client is in: its time begins, and the handshake or the session."""
        self.since = self.engine.now()
        self.engine.heard(self)
        try:
            if self.phase is _HANDSHAKE:
                assert self.engine.tls_context is not None
                self._tls = self.pipe_type(self.engine.tls_context)
            else:
                self._tell(self.session.connected, self.peer, None)
            self._read_on()
        except Exception:
            self._broke("the beginning of a connection")

    # -- what the client does ------------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self._at_work:
            # Only now, as most clients wait for their answer: then there is nothing to be undone.
            self._read_no_more()
            return
        try:
            data = self._sock.recv(READ_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        try:
            if not data:
                self._client_finished()
            elif self.phase is _SESSION and self._tls is None:
                self._hear(data)
            elif self._tls is not None and self.phase in (_SESSION, _HANDSHAKE):
                self._tls.feed(data)
                self._decrypt(self._tls)
            # Whatever is said behind the end is thrown away, and is no sign of life.
        except Exception:
            self._broke("the connection")

    def _decrypt(self, tls: TlsPipe) -> None:
        try:
            if self.phase is _HANDSHAKE and not self._handshake(tls):
                return
            if self._at_work:
                # Work that the end of the handshake has brought: what came behind it waits.
                self._undecrypted = True
                return
            data = tls.read()
        except TlsFailure as failure:
            # Never back to plain text: whatever alert there is goes out, and that is the end.
            log.debug("%s: TLS with %s failed: %s", self.engine.name, self.peer.address, failure)
            self._put(tls.outgoing())
            self._leave()
            return
        # Key updates and the like are answered here; they are no sign of life (RFC 8446 4.6.3).
        self._put(tls.outgoing())
        if data and self.phase is _SESSION:
            self._hear(data)
        if tls.closed:
            self._client_finished()

    def _hear(self, data: bytes) -> None:
        """The client has said something, in clear or under TLS."""
        self._unasked = False
        self.engine.heard(self)
        # With an answer some request was complete, so whatever is unfinished now has begun just now.
        self._note_unfinished(anew=self._tell(self.session.received, data))

    def _handshake(self, tls: TlsPipe) -> bool:
        """Go on with it: whether the session has begun.  Its time is counted as a whole, from its start."""
        done = tls.handshake()
        self._put(tls.outgoing())
        if not done:
            return False
        security = tls.security()
        if security.bits < self.engine.min_cipher_bits:
            raise TlsFailure(f"{security.cipher} has {security.bits} bits only")
        if self.phase is not _HANDSHAKE:
            return False
        self.phase = _SESSION
        self.engine.heard(self)
        if self._upgrading:
            self._tell(self.session.secured, security)
        else:
            self._tell(self.session.connected, self.peer, security)
        return True

    def _client_finished(self) -> None:
        """FIN, or close_notify: what was asked before is still answered (RFC 1122 4.2.2.13)."""
        self._eof = True
        self._read_no_more()
        if self.phase is _LINGERING:
            self._end()
        elif not self._at_work:
            self._leave()

    def _note_unfinished(self, *, anew: bool = False) -> None:
        if self._at_work or self.phase is not _SESSION:
            return
        unfinished = self.session.unfinished
        if anew or not unfinished:
            self.engine.clock.owes_nothing(self)
        if unfinished:
            self.engine.owes(self)

    # -- what the session wants ------------------------------------------------------------------------------------

    def _tell(self, event: Callable[..., Actions], *details: Any) -> bool:
        """Tell the session something and do what it answers; whether it answered anything.

        A bug of ours ends this connection and no other.
        """
        try:
            actions = event(*details)
            self._carry_out(actions)
            return len(actions) > 0
        except TlsFailure as failure:
            log.debug("%s: TLS with %s failed: %s", self.engine.name, self.peer.address, failure)
            self.abort()
        except Exception:
            self._broke("a session")
        return False

    def _broke(self, what: str) -> None:
        """Something happened that should never happen: it is said and counted, and ends this connection only."""
        self.engine.found_bug()
        log.exception("%s: %s with %s broke", self.engine.name, what, self.peer.address)
        self.abort()

    def _carry_out(self, actions: Actions) -> None:
        for action in actions:
            if self.phase is not _SESSION:
                return
            match action:
                case Send():
                    self._send(action.data)
                case Perform():
                    self._begin_work(action)
                    return
                case Close():
                    self._leave()
                case StartTls():
                    self._start_tls()
                case Watch(subscribe):
                    self._unwatch()
                    self._cancel_watch = subscribe(self._wake)
                case Unwatch():
                    self._unwatch()
                case LoginFailed():
                    self.engine.login_failed(self.peer.address)

    def _send(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.write(data)
            data = self._tls.outgoing()
        self._put(data)

    def _start_tls(self) -> None:
        assert self.engine.tls_context is not None, "a session asked for TLS that its policy does not offer"
        self._tls = self.pipe_type(self.engine.tls_context)
        self.phase = _HANDSHAKE
        self._upgrading = True
        self.engine.clock.owes_nothing(self)
        self.engine.heard(self)

    def _begin_work(self, work: Perform) -> None:
        self._at_work = True
        if self._out.is_high:
            # Begun when the client has taken what there is.  Until then its time goes on: it is its turn.
            self._held = work
            if self._overdue:
                self.abort()
            return
        if not self._unasked:
            self.engine.clock.rest(self)
        self.engine.perform(work.job, lambda result, error: self._work_done(work, result, error))

    def _work_done(self, work: Perform, result: Any, error: Exception | None) -> None:
        self._at_work = False
        if self.phase is not _SESSION:
            if self.ticket is None:
                # The client has gone meanwhile; only now may the session let go of what the job was using.
                self._tell_ended()
            return
        if not self._unasked:
            self.engine.heard(self)
        if error is None:
            self._tell(work.done, result)
        else:
            if not isinstance(error, OSError):
                self.engine.found_bug()
                log.error("%s: a job broke", self.engine.name, exc_info=error)
            self._tell(self.session.failed, error)
        try:
            self._go_on()
        except Exception:
            self._broke("the connection")

    def _go_on(self) -> None:
        """Take up what had to wait while the server was at work."""
        self._note_unfinished()
        if self._undecrypted and not self._at_work and self.phase is _SESSION and self._tls is not None:
            self._undecrypted = False
            self._decrypt(self._tls)
        self._tell_woken()
        if self._at_work:
            return
        if self._overdue:
            self.idled()
        elif self._eof:
            self._leave()
        else:
            self._read_on()

    def _wake(self) -> None:
        """Called from any thread."""
        if not self._woken:
            self._woken = True
            self.engine.soon(self._tell_woken)

    def _tell_woken(self) -> None:
        if self._at_work or not self._woken:
            return  # told when the work is done
        self._woken = False
        if self._cancel_watch is not None and self.phase is _SESSION and not self._overdue:
            # What is done for this is not work that the client asked for: its time goes on meanwhile.
            self._unasked = True
            self._tell(self.session.woken)

    def _unwatch(self) -> None:
        cancel, self._cancel_watch = self._cancel_watch, None
        if cancel is not None:
            cancel()

    # -- what is sent ----------------------------------------------------------------------------------------------

    def _put(self, octets: bytes) -> None:
        """Octets for the wire, behind what is waiting."""
        if octets:
            self._out.put(octets)

    def has_said_it(self) -> None:
        """Everything that was saved up is on its way."""
        if self.phase is _LEAVING:
            self._close_our_side()

    def has_sent(self) -> None:
        """Some of what was waiting is on its way."""
        try:
            self._go_on_sending()
        except Exception:
            self._broke("the connection")

    def _go_on_sending(self) -> None:
        if self._out.stalled:
            if not self.at_work and self.phase in (_SESSION, _LEAVING):
                # A client that takes what it asked for is being served; one that reads nothing makes no progress.
                self.engine.heard(self)
            if not self._out.is_low:
                return
        elif self.phase is _LEAVING:
            self._close_our_side()
            return
        held, self._held = self._held, None
        if held is not None:
            self._begin_work(held)
        else:
            self._read_on()

    def sends_too_much(self) -> None:
        """A client that does not read what it asked for is not asked for more."""
        self._read_no_more()

    def cannot_send(self) -> None:
        """The client is gone."""
        self.abort()

    def _read_on(self) -> None:
        if self._reading or self._at_work or self._eof or self.phase is _ENDED:
            return
        if self._out.is_high:
            return
        self._reading = True
        self.engine.ready.add_reader(self._fd, self._readable)

    def _read_no_more(self) -> None:
        if self._reading:
            self._reading = False
            self.engine.ready.remove_reader(self._fd)

    # -- how it ends -----------------------------------------------------------------------------------------------

    @property
    def at_work(self) -> bool:
        """Whether the server is doing something for the client; not when it is the client's turn to read."""
        return self._at_work and self._held is None

    @property
    def channel(self) -> Channel:
        """How the session is protected, or is going to be."""
        if self._tls is None:
            return Channel.PLAIN
        return Channel.EXPLICIT if self._upgrading else Channel.IMPLICIT

    def idled(self) -> None:
        """The client's time is up.  Nothing here waits for its help."""
        if self.at_work:
            self._overdue = True
            self.engine.clock.rest(self)
            return
        if self._held is None:
            self._farewell(self.session.idled)
        if self.phase is _LEAVING or self._held is not None:
            # It does not read: what could be sent was sent.
            self.abort()

    def stop(self) -> None:
        """The server stops: farewell.  Work under way is finished first, and then the session takes leave itself."""
        if self._at_work:
            self._tell(self.session.stopping)
        else:
            self._farewell(self.session.stopping)

    def cut(self) -> None:
        """End it, without a word of the session's."""
        self._leave()

    def _farewell(self, event: Callable[[], Actions]) -> None:
        if self.phase is _SESSION:
            self._tell(event)
        if self.phase in (_SESSION, _HANDSHAKE):
            self._leave()

    def _leave(self) -> None:
        """End in good order: what is waiting goes out, then close_notify, then FIN.  The place is free at once."""
        if self.phase not in (_SESSION, _HANDSHAKE):
            return
        self.phase = _LEAVING
        if self._tls is not None:
            self._tls.notify_close()
            self._put(self._tls.outgoing())
        if self.phase is _LEAVING and self._out.empty:
            self._close_our_side()

    def _close_our_side(self) -> None:
        if self._eof or len(self.engine.lingering) >= LINGERING_AT_ONCE:
            self._end()
            return
        self.phase = _LINGERING
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._end()
            return
        self._let_go()
        if self.phase is not _LINGERING:
            return
        self.engine.lingering.heard(self, self.engine.now())
        self.engine.watch_lingering()
        self._read_on()

    def abort(self) -> None:
        """End at once, with a reset when something could not be delivered."""
        if self.phase is _ENDED:
            return
        self._out.flush()
        self._out.give_up()
        self._end()

    def _let_go(self) -> None:
        """Everything that was held for the client is free, once."""
        ticket, self.ticket = self.ticket, None
        if ticket is None:
            return
        ticket.give_back()
        self.engine.left(self)
        if self._held is not None:
            self._held = None
            self._at_work = False
        try:
            self._unwatch()
        except Exception:
            self._broke("the watch of a session")
        if not self._at_work:
            self._tell_ended()

    def _tell_ended(self) -> None:
        try:
            self.session.ended()
        except Exception:
            self._broke("the end of a session")

    def _end(self) -> None:
        if self.phase is _ENDED:
            return
        self.phase = _ENDED
        self._reading = False
        self._out.forget()
        self.engine.ready.forget(self._fd)
        self.engine.lingering.forget(self)
        self._sock.close()
        self._let_go()
