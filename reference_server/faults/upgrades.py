"""Faults of explicit TLS: agreed to when it should not be, refused when it should, and what is carried across."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

from reference_server.connection import Connection, Phase
from reference_server.faults.ledger import fault, hit
from reference_server.faults.limits import with_connection
from reference_server.faults.meddling import UPGRADE, Meddler, meddled, with_policy
from reference_server.server import Parts
from reference_server.session import Actions, Close, Security, Send, StartTls
from reference_server.settings import Service
from reference_server.tls import CertificateError, TlsFailure, TlsPipe

#: Where nobody can upgrade, whatever is done through an upgrade cannot be done at all.
EVERYTHING_EXPLICIT = "EXP TLS LIM IDL IMP PRT ACL CLS"


@fault(
    "offers-no-upgrade",
    "explicit TLS is configured, but neither advertised nor accepted",
    breaks="EXP-01 EXP-03",
    consequences=EVERYTHING_EXPLICIT,
)
def offers_no_upgrade(parts: Parts) -> Parts:
    hit()
    return with_policy(parts, lambda policy: replace(policy, offers_tls=False))


@fault(
    "agrees-although-off",
    "explicit TLS is off, and is advertised and agreed to all the same",
    breaks="EXP-02",
)
def agrees_although_off(parts: Parts) -> Parts:
    class Generous(Meddler):
        def passed_on(self, actions: Actions) -> Actions:
            if not offered(self):
                actions = [Close() if isinstance(action, StartTls) else action for action in actions]
            return super().passed_on(actions)

        def hears(self, data: bytes) -> bytes | Actions:
            if UPGRADE.match(data):
                hit()
            return data

    offers: dict[int, bool] = {}

    def offered(session: Meddler) -> bool:
        return offers.get(id(session.policy), False)

    def believed(policy: Any) -> Any:
        changed = replace(policy, offers_tls=True)
        offers[id(changed)] = policy.offers_tls
        kept.append(changed)
        return changed

    kept: list[Any] = []
    return with_policy(meddled(parts, Generous), believed)


@fault(
    "serves-what-came-in-clear",
    "what a client sends in clear behind STARTTLS is carried out inside TLS",
    breaks="EXP-04",
    consequences="TLS-18",
)
def serves_what_came_in_clear(parts: Parts) -> Parts:
    class Keeper(Meddler):
        kept = b""

        def hears(self, data: bytes) -> bytes | Actions:
            request = UPGRADE.match(data)
            if request is not None and self.security is None and request.end() < len(data):
                hit()
                self.kept = data[request.end() :]
                return data[: request.end()]
            return data

        def secured(self, security: Security) -> Actions:
            said = super().secured(security)
            kept, self.kept = self.kept, b""
            return [*said, *self.received(kept)] if kept else said

    return meddled(parts, Keeper)


@fault(
    "forgets-nothing",
    "the EHLO name, a transaction and a user name from before the handshake are still there after it",
    breaks="EXP-05 EXP-17",
    services=("smtp", "pop3"),
)
def forgets_nothing(parts: Parts) -> Parts:
    remembered = {
        Service.SMTP: ("_state", "_client", "_extended", "_sender", "_recipients"),
        Service.POP3: ("_user",),
    }

    class Elephant(Meddler):
        memory: dict[str, Any]

        def hears(self, data: bytes) -> bytes | Actions:
            if UPGRADE.match(data):
                self.memory = {name: getattr(self.inner, name) for name in remembered[self.service]}
            return data

        def secured(self, security: Security) -> Actions:
            said = super().secured(security)
            for name, value in self.memory.items():
                if getattr(self.inner, name) != value:
                    hit()
                    setattr(self.inner, name, value)
            return said

    return meddled(parts, Elephant, (Service.SMTP, Service.POP3))


#: Where a capability is put in: behind this.
_PLACES = {
    Service.SMTP: (re.compile(rb"250-PIPELINING\r\n"), b"250-%s\r\n250-PIPELINING\r\n"),
    Service.POP3: (re.compile(rb"\r\nTOP\r\n"), b"\r\nTOP\r\n%s\r\n"),
    Service.IMAP: (re.compile(rb"CAPABILITY IMAP4rev1 "), b"CAPABILITY IMAP4rev1 %s "),
}


def announced(service: Service, capability: bytes, octets: bytes) -> bytes:
    """A list of capabilities with one more."""
    place, instead = _PLACES[service]
    if not place.search(octets):
        return octets
    hit()
    return place.sub(lambda _: instead % capability, octets)


@fault(
    "advertises-the-upgrade-inside",
    "inside TLS, STARTTLS is still advertised",
    breaks="EXP-06",
    consequences="IMP-09",
)
def advertises_the_upgrade_inside(parts: Parts) -> Parts:
    class Repeating(Meddler):
        def says(self, octets: bytes) -> bytes:
            if self.security is None:
                return octets
            return announced(self.service, b"STLS" if self.service is Service.POP3 else b"STARTTLS", octets)

    return meddled(parts, Repeating)


@fault(
    "agrees-a-second-time",
    "inside TLS, STARTTLS is agreed to once more",
    breaks="EXP-07",
    consequences="IMP-09",
)
def agrees_a_second_time(parts: Parts) -> Parts:
    class Obliging(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            request = UPGRADE.fullmatch(data)
            if request is None or self.security is None:
                return data
            hit()
            return self.agreed(request)[:1]

    return meddled(parts, Obliging)


@fault(
    "upgrades-after-login",
    "STARTTLS is agreed to when somebody has signed in already",
    breaks="EXP-08",
    consequences="EXP-05",
    services=("pop3", "imap"),
)
def upgrades_after_login(parts: Parts) -> Parts:
    class Late(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            request = UPGRADE.fullmatch(data)
            if request is None or self.security is not None or b" " in request["rest"].strip():
                return data
            hit()
            return self.agreed(request)

    return meddled(parts, Late, (Service.POP3, Service.IMAP))


@fault(
    "takes-any-argument",
    "an argument of STARTTLS is ignored instead of being rejected",
    breaks="EXP-10",
    services=("smtp",),
)
def takes_any_argument(parts: Parts) -> Parts:
    class Lenient(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            request = UPGRADE.fullmatch(data)
            if request is None or not request["rest"].strip():
                return data
            hit()
            return request["verb"] + b"\r\n"

    return meddled(parts, Lenient, (Service.SMTP,))


@fault(
    "falls-back-to-clear",
    "when the handshake fails, the session goes on in clear",
    breaks="EXP-11",
    consequences="EXP-04 EXP-12 LIM-07 TLS",
)
def falls_back_to_clear(parts: Parts) -> Parts:
    class Forgiving(Connection):
        def _handshake(self, tls: TlsPipe) -> bool:
            try:
                return super()._handshake(tls)
            except TlsFailure:
                if not self._upgrading:
                    raise
                hit()
                self._put(tls.outgoing())
                self._tls = None
                self._upgrading = False
                self.phase = Phase.SESSION
                return False

    return with_connection(parts, Forgiving)


@fault(
    "agrees-without-a-certificate",
    "a certificate that cannot be read is no reason not to agree to TLS, and every handshake fails",
    breaks="EXP-12",
    consequences="TLS-15 IMP-11",
)
def agrees_without_a_certificate(parts: Parts) -> Parts:
    def context(chain: Path, key: Path, bits: int) -> ssl.SSLContext:
        try:
            return parts.context(chain, key, bits)
        except CertificateError:
            hit()
            return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    return replace(parts, context=context)


@fault(
    "takes-passwords-in-clear",
    "passwords are taken in clear although logins need TLS",
    breaks="EXP-13 EXP-14",
)
def takes_passwords_in_clear(parts: Parts) -> Parts:
    hit()
    return with_policy(parts, lambda policy: replace(policy, login_needs_tls=False))


@fault(
    "forgets-one-mechanism",
    "where logins need TLS, one way to send a password in clear has been forgotten",
    breaks="EXP-13",
)
def forgets_one_mechanism(parts: Parts) -> Parts:
    forgotten = {
        Service.SMTP: re.compile(rb"AUTH LOGIN", re.IGNORECASE),
        Service.POP3: re.compile(rb"AUTH PLAIN", re.IGNORECASE),
        Service.IMAP: re.compile(rb"\S+ AUTHENTICATE PLAIN", re.IGNORECASE),
    }

    class Forgetful(Meddler):
        def received(self, data: bytes) -> Actions:
            if not (self.policy.login_needs_tls and forgotten[self.service].match(data)):
                return super().received(data)
            hit()
            self.inner._policy = replace(self.policy, login_needs_tls=False)
            try:
                return super().received(data)
            finally:
                self.inner._policy = self.policy

    return meddled(parts, Forgetful)


@fault(
    "advertises-logins-in-clear",
    "ways to send a password are advertised in clear, where logins need TLS and all of them are refused",
    breaks="EXP-14",
)
def advertises_logins_in_clear(parts: Parts) -> Parts:
    class Inviting(Meddler):
        def says(self, octets: bytes) -> bytes:
            if self.security is not None or not self.policy.login_needs_tls:
                return octets
            match self.service:
                case Service.SMTP:
                    return announced(self.service, b"AUTH PLAIN LOGIN", octets)
                case Service.POP3:
                    return announced(self.service, b"USER\r\nSASL PLAIN LOGIN", octets)
                case _:
                    return announced(self.service, b"AUTH=PLAIN", octets.replace(b" LOGINDISABLED", b""))

    return meddled(parts, Inviting)


@fault(
    "nothing-before-tls",
    "where logins need TLS, not even NOOP is answered before it",
    breaks="EXP-15",
    services=("smtp",),
)
def nothing_before_tls(parts: Parts) -> Parts:
    class Strict(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            if self.security is None and self.policy.login_needs_tls and data[:4].upper() == b"NOOP":
                hit()
                return [Send(b"530 5.7.0 say STARTTLS first\r\n")]
            return data

    return meddled(parts, Strict, (Service.SMTP,))


@fault(
    "no-mail-in-clear",
    "a server that the world sends its mail to takes none without TLS, where logins need it",
    breaks="EXP-16",
    services=("smtp",),
)
def no_mail_in_clear(parts: Parts) -> Parts:
    class Strict(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            if self.security is None and self.policy.login_needs_tls and data[:5].upper() == b"MAIL ":
                hit()
                return [Send(b"530 5.7.0 say STARTTLS first\r\n")]
            return data

    return meddled(parts, Strict, (Service.SMTP,))


@fault(
    "wants-capital-letters",
    "STARTTLS is understood in capital letters only",
    breaks="EXP-21",
)
def wants_capital_letters(parts: Parts) -> Parts:
    unknown = {
        Service.SMTP: b"500 5.5.1 no such command\r\n",
        Service.POP3: b"-ERR no such command\r\n",
        Service.IMAP: b"%s BAD no such command\r\n",
    }

    class Shouting(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            request = UPGRADE.fullmatch(data)
            if request is None or request["verb"].isupper():
                return data
            hit()
            words = unknown[self.service]
            return [Send(words % request["tag"] if b"%s" in words else words)]

    return meddled(parts, Shouting)
