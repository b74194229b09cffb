"""Faults of how a TLS session ends, and of what becomes of it afterwards."""

from __future__ import annotations

from typing import Any

from reference_server.connection import Connection
from reference_server.faults.ledger import MAIL_AND_WEB, fault, hit
from reference_server.faults.limits import COUNTING, with_connection
from reference_server.faults.tls_layer import with_pipe
from reference_server.server import Parts
from reference_server.tls import TlsPipe


@fault(
    "ends-tls-without-notice",
    "a TLS connection is closed without close_notify",
    breaks="TLS-11 TLS-12",
    consequences="CLS-09",
    services=MAIL_AND_WEB,
)
def ends_tls_without_notice(parts: Parts) -> Parts:
    class Abrupt(TlsPipe):
        __slots__ = ()

        def notify_close(self) -> None:
            if self.established:
                hit()

    return with_pipe(parts, Abrupt)


@fault(
    "ends-idle-tls-without-notice",
    "a TLS connection that is ended for being idle is closed without close_notify",
    breaks="TLS-11",
)
def ends_idle_tls_without_notice(parts: Parts) -> Parts:
    class Abrupt(Connection):
        def idled(self) -> None:
            if self._tls is not None:
                hit()
                self._tls.notify_close = lambda: None  # type: ignore[method-assign]
            super().idled()

    class Loose(TlsPipe):
        """Without slots: a method can be replaced."""

    Abrupt.pipe_type = Loose
    return with_connection(parts, Abrupt)


@fault(
    "deaf-to-close-notify",
    "a client's close_notify is not heard: the session stays until the connection is closed",
    breaks="TLS-12",
    consequences=COUNTING + " CLS-10",
)
def deaf_to_close_notify(parts: Parts) -> Parts:
    class Deaf(TlsPipe):
        __slots__ = ()

        def read(self) -> bytes:
            found = super().read()
            if self.closed:
                hit()
                self.closed = False
            return found

    return with_pipe(parts, Deaf)


@fault(
    "resumed-sessions-are-signed-in",
    "whoever resumes a TLS session is signed in without a password",
    breaks="TLS-13",
    services=("smtp",),
)
def resumed_sessions_are_signed_in(parts: Parts) -> Parts:
    class Trusting(Connection):
        def _handshake(self, tls: TlsPipe) -> bool:
            done = super()._handshake(tls)
            session: Any = self.session
            if done and tls._tls.session_reused and self.engine.name == "smtp":
                hit()
                session._account = session._store.everybody()[0]
            return done

    return with_connection(parts, Trusting)
