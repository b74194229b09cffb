"""The seam between the engine and the protocols.

Owns: the vocabulary in which an engine tells a session what happened, and in which the session answers
what it wants done.  Deliberately knows nothing of sockets, clocks, event loops, TLS records or logging; a
session can therefore be driven by a test with nothing but bytes.

The rules of the conversation:

* The engine calls one event at a time, never two at once, and carries out the returned actions in order.
* ``connected`` is the first event (on an implicit-TLS port: after the handshake), ``ended`` the last; each
  comes exactly once, but for a client whose handshake never succeeded: of it only ``ended`` is told.  ``ended``
  comes only after a job under way has finished.
* While a ``Perform`` is under way the session hears nothing but ``stopping``, ``idled`` never included: the
  clock rests while the server itself is working.  A session that has unprocessed input in its own buffer
  goes on with it in the actions that its continuation returns.  What happens meanwhile is told afterwards.
* A ``Perform`` is begun only when the client has taken most of what was sent before, so a session may answer
  piece by piece, however much it is; when the client never does, the job is never begun.
* ``StartTls``: whatever was sent before goes out in clear; whatever the client sent in clear behind the
  command never reaches the session.  ``secured`` follows, or the connection ends.
* Actions behind ``Close`` are not carried out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address


class Channel(enum.Enum):
    """How a session is protected; the values are those of the contract."""

    PLAIN = "plain"
    EXPLICIT = "explicit"
    IMPLICIT = "implicit"


@dataclass(frozen=True, slots=True)
class Peer:
    """The two ends of a connection; addresses are normalised (``::ffff:192.0.2.1`` is ``192.0.2.1``)."""

    address: IPAddress
    port: int
    local_address: IPAddress
    local_port: int


@dataclass(frozen=True, slots=True)
class Security:
    """What a finished handshake agreed on: ``TLSv1.3``, the cipher's name, its strength in bits."""

    version: str
    cipher: str
    bits: int


class Refusal(enum.Enum):
    """Why a client is not let in; each protocol has its own words for it."""

    DENIED = "its address may not use the service"
    ADDRESS_LIMIT = "its address has as many connections as one address may have"
    SERVICE_LIMIT = "the service has as many connections as it may have"
    BLOCKED = "too many logins from its address have failed"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a session needs to know of its service's settings; replaced whole by a reload."""

    hostname: str
    offers_tls: bool = False
    login_needs_tls: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes to the client, over whatever protects the connection now."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """Let the handshake begin, as soon as what was sent before has left."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in good order once everything sent before has left."""


@dataclass(frozen=True, slots=True)
class Perform:
    """Run ``job`` where it may block, then go on with ``done(result)``.

    The engine reads nothing from the client meanwhile.  If ``job`` raises, ``Session.failed`` is told
    instead of ``done``.
    """

    job: Callable[[], Any]
    done: Callable[[Any], Actions]


@dataclass(frozen=True, slots=True)
class Watch:
    """Have ``Session.woken`` called when something outside happens (new mail for a client in IDLE).

    ``subscribe(wake)`` registers a callable that may be called from any thread, any number of times, and
    returns one that cancels it.  One subscription a session; the engine cancels it at ``Unwatch``, at the
    next ``Watch`` and when the connection ends.
    """

    subscribe: Callable[[Callable[[], None]], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Unwatch:
    """End the subscription of the last ``Watch``."""


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """Somebody could not sign in: counts against the client's address, which may be blocked for it."""


Action: TypeAlias = Send | StartTls | Close | Perform | Watch | Unwatch | LoginFailed
Actions: TypeAlias = Sequence[Action]


class Session(Protocol):
    """One client's conversation in one protocol, as the engine sees it."""

    @property
    def unfinished(self) -> bool:
        """Whether the client has begun a request (line, literal, message text) and not completed it."""

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        """The client is admitted; ``security`` is None in clear.  Usually answered with the greeting."""

    def received(self, data: bytes) -> Actions:
        """Bytes arrived, one or many, cut anywhere."""

    def secured(self, security: Security) -> Actions:
        """The handshake that ``StartTls`` asked for succeeded; the session starts over in its first state."""

    def failed(self, error: Exception) -> Actions:
        """The job of the last ``Perform`` raised ``error``."""

    def woken(self) -> Actions:
        """What ``Watch`` subscribed to has happened (at least once since the last call)."""

    def idled(self) -> Actions:
        """The client's time is up: the farewell, if the protocol has one.  The engine closes in any case."""

    def stopping(self) -> Actions:
        """The server stops, or the service is switched off: the farewell.  The engine closes in any case."""

    def ended(self) -> None:
        """The connection is gone, for whatever reason.  Give back what is held; must not block."""
