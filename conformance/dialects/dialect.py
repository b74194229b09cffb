"""What every dialect can do, whatever its protocol.

Owns: the vocabulary shared by the dialects.  Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from conformance.contract import DeclaredLogin
from conformance.wire import Wire
from reference_server.settings import Service


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account of the server under test."""

    name: str
    password: str
    address: str
    how: DeclaredLogin = field(default_factory=DeclaredLogin)

    @property
    def login(self) -> str:
        """What to sign in with."""
        return self.address if self.how.by == "address" else self.name


class NotServed(Exception):
    """The server answered, and the answer is that it does not serve this client."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply.decode("utf-8", "backslashreplace").strip())
        self.reply = reply


class Malformed(Exception):
    """The server said something that is no sentence of its protocol."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A point of a session at which a client can fall silent.

    ``enter`` brings a served session there; the last thing it does is send the client's last octet.  ``timer`` is the
    clock that runs there, in the contract's words; ``title`` names the stage in a report.
    """

    title: str
    timer: str
    enter: Callable[[Wire, Credentials], None]


#: One way of signing in by which the password itself is sent: None when the client is signed in, else the reply.
Login = Callable[[Wire, Credentials], bytes | None]


class Dialect(Protocol):
    """One protocol as the suite speaks it.  Every method may raise ``Ended`` or ``Silent`` of the wire.

    Where the client speaks first there is no greeting: asking something innocent stands for it.
    """

    service: Service
    #: Whether it is the server that speaks first.
    greets: bool
    stages: Mapping[str, Stage]
    #: The command that asks for explicit TLS.
    tls_command: bytes
    #: A whole request that nothing else here sends, so that its answer cannot be taken for that of another.
    stray: bytes
    #: How the word in clear begins, if there is one, by which a request in clear is turned down where TLS is spoken.
    turned_down: bytes
    #: Every way of signing in by which the password itself is sent, by the name that it has in capabilities.
    logins: Mapping[str, Login]

    def greeting(self, wire: Wire, patience: float) -> bytes:
        """The server's first words.  Raises :class:`NotServed` when it is a refusal."""

    def sentences(self, said: bytes) -> list[bytes]:
        """What the server said, taken apart: a reply or response each, as far as it can be read."""

    def act(self, wire: Wire) -> None:
        """The positive protocol act.  Raises :class:`NotServed`."""

    def capabilities(self, wire: Wire) -> frozenset[str]:
        """What the server says it can do, in capitals, a word or line an entry."""

    def offers_tls(self, wire: Wire) -> bool:
        """Whether explicit TLS is advertised."""

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        """Ask for explicit TLS: None when the server agrees, its reply when it does not.

        ``spelling`` is what to send in place of ``tls_command``; ``behind`` goes out in the same segment.
        """

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        """Which of ``logins`` are advertised now."""

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        """Whether what only a signed-in client may do is done.  May sign in where that is how to find out."""

    def probe(self, wire: Wire) -> None:
        """Ask something innocent and require its answer: the session can still act.  Raises :class:`NotServed`."""

    def begin(self, wire: Wire) -> None:
        """Send the beginning of a request, without its end."""

    def login(self, wire: Wire, credentials: Credentials) -> None:
        """Sign in.  Raises :class:`NotServed` when that is refused."""

    def goodbye(self, wire: Wire) -> None:
        """Take leave and read the answer; the server closes afterwards."""

    def is_farewell(self, said: bytes) -> bool:
        """Whether the last words of a connection that timed out contain the protocol's farewell."""

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        """Requests whose answers together are far longer than what was asked."""
