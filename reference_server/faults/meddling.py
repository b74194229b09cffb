"""A session with somebody in between, who changes what it hears and says: what faults of sessions are made of.

Owns: the way in and out of a session.  Knows no fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from reference_server.server import Parts, Speaker
from reference_server.session import Action, Actions, Peer, Perform, Policy, Security, Send, Session, StartTls
from reference_server.settings import Service

#: A request for TLS: its tag (IMAP), its verb, and what stands behind the verb.
UPGRADE: Final = re.compile(rb"(?:(?P<tag>[^\s*+]+) )??(?P<verb>STARTTLS|STLS)(?P<rest>[^\r\n]*)\r\n", re.IGNORECASE)
#: What agrees to one.
AGREED: Final = {
    Service.SMTP: b"220 2.0.0 ready for TLS\r\n",
    Service.POP3: b"+OK ready for TLS\r\n",
    Service.IMAP: b"%s OK ready for TLS\r\n",
}


class Meddler:
    """Passes everything on.  A fault overrides what it wants to be wrong.

    ``inner`` is the right session; ``security`` what protects the connection now.
    """

    def __init__(self, inner: Any, service: Service, policy: Policy) -> None:
        self.inner = inner
        self.service = service
        self.policy = policy
        self.security: Security | None = None

    # -- to be overridden

    def hears(self, data: bytes) -> bytes | Actions:
        """What arrives: what the session is to hear instead, or what is answered without asking it."""
        return data

    def says(self, octets: bytes) -> bytes:
        """What the session says: what goes out instead."""
        return octets

    # -- the session that the engine sees

    @property
    def unfinished(self) -> bool:
        return bool(self.inner.unfinished)

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        self.security = security
        return self.passed_on(self.inner.connected(peer, security))

    def received(self, data: bytes) -> Actions:
        heard = self.hears(data)
        return self.passed_on(self.inner.received(heard)) if isinstance(heard, bytes) else heard

    def secured(self, security: Security) -> Actions:
        self.security = security
        return self.passed_on(self.inner.secured(security))

    def failed(self, error: Exception) -> Actions:
        return self.passed_on(self.inner.failed(error))

    def woken(self) -> Actions:
        return self.passed_on(self.inner.woken())

    def idled(self) -> Actions:
        return self.passed_on(self.inner.idled())

    def stopping(self) -> Actions:
        return self.passed_on(self.inner.stopping())

    def ended(self) -> None:
        self.inner.ended()

    def passed_on(self, actions: Actions) -> Actions:
        """The same actions, with other words."""
        return [self._passed_on(action) for action in actions]

    def _passed_on(self, action: Action) -> Action:
        match action:
            case Send(data):
                return Send(self.says(data))
            case Perform(job, done):
                return Perform(job, lambda result: self.passed_on(done(result)))
            case _:
                return action

    # -- what several faults need

    def agreed(self, request: re.Match[bytes]) -> Actions:
        """Agree to a request for TLS, whatever the session would have said."""
        words = AGREED[self.service]
        return [Send(words % request["tag"] if b"%s" in words else words), StartTls()]


def meddled(parts: Parts, kind: type[Meddler], services: Sequence[Service] = tuple(AGREED)) -> Parts:
    """The same server with somebody in between, in these services."""

    def between(service: Service, speaker: Speaker) -> Speaker:
        def session(policy: Policy, behind: Any) -> Session:
            return kind(speaker.session(policy, behind), service, policy)

        return replace(speaker, session=session)

    return with_speakers(parts, between, services)


def with_policy(parts: Parts, change: Callable[[Policy], Policy], services: Sequence[Service] = tuple(AGREED)) -> Parts:
    """The same server, in which some services' sessions believe another policy."""

    def between(_: Service, speaker: Speaker) -> Speaker:
        return replace(speaker, session=lambda policy, behind: speaker.session(change(policy), behind))

    return with_speakers(parts, between, services)


def with_speakers(
    parts: Parts, between: Callable[[Service, Speaker], Speaker], services: Sequence[Service]
) -> Parts:
    """The same server with other speakers in some services."""
    changed = {
        service: between(service, speaker) if service in services else speaker
        for service, speaker in parts.speakers.items()
    }
    return replace(parts, speakers=changed)
