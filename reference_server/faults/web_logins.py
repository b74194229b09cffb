"""Faults of web interfaces: upgrades that are not what RFC 2817 has, whom a client is taken for, passwords, cookies."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from socket import MSG_PEEK, socket
from typing import Any, Final

import h11

from reference_server.admission import Ranges
from reference_server.connection import Connection, Phase
from reference_server.faults.ledger import fault, hit
from reference_server.faults.limits import with_connection
from reference_server.faults.meddling import Meddler, meddled, with_policy, with_speakers
from reference_server.faults.web import SERVICES, WEB, speaking
from reference_server.listener import Engine
from reference_server.protocols import http
from reference_server.protocols.http import HttpSession
from reference_server.server import Parts
from reference_server.session import Actions, Close, IPAddress, Peer, Policy, Refusal, Security, Send, StartTls
from reference_server.tls import TlsFailure, TlsPipe

#: Where an upgrade does not end in an answer, whatever is done through one cannot be done.
EVERYTHING_EXPLICIT: Final = "EXP TLS LIM IDL IMP PRT ACL CLS HTT ADM LIF"
#: How a session is told that its service has no TLS.
OFF: Final = "off."


# -- the upgrade in place ----------------------------------------------------------------------------------------------


@fault(
    "upgrades-although-off",
    "TLS is off, and a request that asks for it is answered with 101 all the same",
    breaks="EXP-02",
    services=SERVICES,
)
def upgrades_although_off(parts: Parts) -> Parts:
    class Generous(HttpSession):
        def _carry_out(self, coming: Any) -> Actions:
            said = super()._carry_out(coming)
            if self._policy.hostname == self._policy.hostname.removeprefix(OFF):
                return said
            if any(isinstance(action, StartTls) for action in said):
                hit()
            return [Close() if isinstance(action, StartTls) else action for action in said]

    def believed(policy: Policy) -> Policy:
        return policy if policy.offers_tls else replace(policy, offers_tls=True, hostname=OFF + policy.hostname)

    return with_policy(speaking(parts, Generous), believed, WEB)


@fault(
    "forgets-what-was-asked",
    "after the handshake the request that asked for it is not answered",
    breaks="EXP-19",
    consequences=EVERYTHING_EXPLICIT,
    services=SERVICES,
)
def forgets_what_was_asked(parts: Parts) -> Parts:
    class Forgetful(HttpSession):
        def secured(self, security: Security) -> Actions:
            hit()
            self._upgrading = None
            return super().secured(security)

    return speaking(parts, Forgetful)


@fault(
    "answers-something-else-inside",
    "after the handshake OPTIONS * is answered, whatever was asked",
    breaks="EXP-19",
    services=SERVICES,
)
def answers_something_else_inside(parts: Parts) -> Parts:
    class Absent(HttpSession):
        def secured(self, security: Security) -> Actions:
            if self._upgrading is not None and not self._upgrading.startswith(b"OPTIONS"):
                hit()
                self._upgrading = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"
            return super().secured(security)

    return speaking(parts, Absent)


@fault(
    "switches-without-saying-so",
    "101 comes without the connection option that belongs to Upgrade",
    breaks="EXP-19",
    services=SERVICES,
)
def switches_without_saying_so(parts: Parts) -> Parts:
    class Curt(Meddler):
        def says(self, octets: bytes) -> bytes:
            if not octets.startswith(b"HTTP/1.1 101"):
                return octets
            hit()
            return octets.replace(b"Connection: Upgrade\r\n", b"")

    return meddled(parts, Curt, WEB)


@fault(
    "answers-what-came-in-clear",
    "requests that came in clear behind the one that asked for TLS are answered inside",
    breaks="EXP-20 EXP-04",
    consequences="TLS-18",
    services=SERVICES,
)
def answers_what_came_in_clear(parts: Parts) -> Parts:
    class Keeper(HttpSession):
        def _carry_out(self, coming: Any) -> Actions:
            behind = self._http.trailing_data[0]
            said = super()._carry_out(coming)
            if self._upgrading is not None and behind:
                hit()
                self._upgrading += behind
            return said

    return speaking(parts, Keeper)


@fault(
    "begins-anew-when-a-handshake-fails",
    "when the handshake behind an upgrade fails, requests are answered in clear as if there had been none",
    breaks="EXP-11",
    consequences="EXP-04 EXP-20 EXP-12 LIM-07 TLS IDL-06",
    services=SERVICES,
)
def begins_anew_when_a_handshake_fails(parts: Parts) -> Parts:
    class Forgiving(Connection):
        def _handshake(self, tls: TlsPipe) -> bool:
            try:
                return super()._handshake(tls)
            except TlsFailure:
                if not self._upgrading or not isinstance(self.session, HttpSession):
                    raise
                hit()
                self._tls, self._upgrading, self.phase = None, False, Phase.SESSION
                self.session._upgrading = None
                self.session._http = h11.Connection(h11.SERVER)
                return False

    return with_connection(parts, Forgiving)


@fault(
    "answers-requests-where-a-handshake-is-due",
    "a request in clear is carried out where TLS begins at once",
    breaks="TLS-18",
    consequences="IMP-03",
    services=SERVICES,
)
def answers_requests_where_a_handshake_is_due(parts: Parts) -> Parts:
    class Gullible(Connection):
        def _readable(self) -> None:
            if self.phase is Phase.HANDSHAKE and not self._upgrading and isinstance(self.session, HttpSession):
                with suppress(OSError):
                    if self._sock.recv(4, MSG_PEEK) == b"GET ":
                        hit()
                        self._tls, self.phase = None, Phase.SESSION
                        self._tell(self.session.connected, self.peer, None)
            super()._readable()

    return with_connection(parts, Gullible)


# -- who a client is ---------------------------------------------------------------------------------------------------

_CLAIM: Final = re.compile(rb"\r\n(?:X-Forwarded-For: |Forwarded: for=|X-Real-IP: )([0-9.]+)\r\n", re.IGNORECASE)


@fault(
    "believes-forwarded-for",
    "a web client that says that it speaks for an allowed address is believed, whoever it is",
    breaks="ACL-09",
    consequences="ACL IMP-06 LIM-09 LIM-10 PRT-10 ADM-10",
    services=SERVICES,
)
def believes_forwarded_for(parts: Parts) -> Parts:
    denied: set[IPAddress] = set()

    class Late(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            lists = self.admission._allow, self.admission._deny
            if self.name in SERVICES and (peer.address in lists[1] or (lists[0] and peer.address not in lists[0])):
                denied.add(peer.address)
                self.admission._allow = self.admission._deny = Ranges(())
            super().let_in(sock, peer, implicit=implicit)
            self.admission._allow, self.admission._deny = lists

    class Credulous(Meddler):
        judged = True

        def connected(self, peer: Peer, security: Security | None) -> Actions:
            self.judged = peer.address not in denied
            return super().connected(peer, security)

        def hears(self, data: bytes) -> bytes | Actions:
            if self.judged:
                return data
            found = _CLAIM.search(data)
            if found is None or ip_address(found[1].decode()) in denied:
                return [Send(http.refusal(Refusal.DENIED)), Close()]
            hit()
            self.judged = True
            return data

    return replace(meddled(parts, Credulous, WEB), engine=Late)


@fault(
    "believes-forwarded-for-of-the-denied",
    "a web client that says that it speaks for a denied address is denied",
    breaks="ACL-09",
    services=SERVICES,
)
def believes_forwarded_for_of_the_denied(parts: Parts) -> Parts:
    class Late(Engine):
        def let_in(self, sock: socket, peer: Peer, *, implicit: bool) -> None:
            lists[self.name] = self.admission._allow, self.admission._deny
            super().let_in(sock, peer, implicit=implicit)

    class Credulous(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            found = _CLAIM.search(data)
            if found is None or self.service.value not in lists:
                return data
            address, (allow, deny) = ip_address(found[1].decode()), lists[self.service.value]
            if address not in deny and (not allow or address in allow):
                return data
            hit()
            return [Send(http.refusal(Refusal.DENIED)), Close()]

    lists: dict[str, tuple[Ranges, Ranges]] = {}
    return replace(meddled(parts, Credulous, WEB), engine=Late)


# -- passwords and cookies ---------------------------------------------------------------------------------------------


@fault(
    "shows-the-form-in-clear",
    "a web interface lets people sign in in clear although logins need TLS",
    breaks="EXP-13",
    consequences="HTT-10",
    services=SERVICES,
)
def shows_the_form_in_clear(parts: Parts) -> Parts:
    hit()
    return with_policy(parts, lambda policy: replace(policy, login_needs_tls=False), WEB)


@fault(
    "hides-the-form-and-takes-it",
    "where logins need TLS, the form is not shown in clear, but taken from whoever has got it",
    breaks="EXP-13",
    services=SERVICES,
)
def hides_the_form_and_takes_it(parts: Parts) -> Parts:
    class Naive(HttpSession):
        def _request(self, coming: Any) -> http.Request:
            request = super()._request(coming)
            if request.method != "POST" or request.may_log_in:
                return request
            hit()
            return replace(request, may_log_in=True)

    return speaking(parts, Naive)


@fault(
    "resuming-brings-cookies-back",
    "whoever resumes a TLS session and brings no cookie is given the one that was last seen",
    breaks="TLS-13",
    services=SERVICES,
)
def resuming_brings_cookies_back(parts: Parts) -> Parts:
    last = dict.fromkeys(WEB, b"")

    class Mindful(Meddler):
        resumed = False

        def hears(self, data: bytes) -> bytes | Actions:
            if found := re.search(rb"^Cookie: [^\r]+\r\n", data, re.MULTILINE):
                last[self.service] = found[0]
            elif self.resumed and last[self.service] and data.startswith(b"GET "):
                hit()
                return data.replace(b"\r\n", b"\r\n" + last[self.service], 1)
            return data

    class Trusting(Connection):
        def _handshake(self, tls: TlsPipe) -> bool:
            done = super()._handshake(tls)
            if done and tls._tls.session_reused and isinstance(self.session, Mindful):
                self.session.resumed = True
            return done

    return with_connection(meddled(parts, Mindful, WEB), Trusting)


class _Baker(Meddler):
    """Bakes other cookies than the session does."""

    left_out = b""

    def says(self, octets: bytes) -> bytes:
        if b"Set-Cookie: " not in octets or self.left_out not in octets:
            return octets
        hit()
        return octets.replace(self.left_out, b"")


@fault(
    "cookies-without-secure",
    "a cookie that was set under TLS may travel in clear",
    breaks="HTT-10",
    services=SERVICES,
)
def cookies_without_secure(parts: Parts) -> Parts:
    class Baker(_Baker):
        left_out = b"; Secure"

    return meddled(parts, Baker, WEB)


@fault(
    "cookies-for-scripts",
    "scripts can read the cookie of a login",
    breaks="HTT-10",
    services=SERVICES,
)
def cookies_for_scripts(parts: Parts) -> Parts:
    class Baker(_Baker):
        left_out = b"; HttpOnly"

    return meddled(parts, Baker, WEB)


@fault(
    "cookies-for-other-sites",
    "the cookie of a login comes with requests that other sites have made",
    breaks="HTT-10",
    services=SERVICES,
)
def cookies_for_other_sites(parts: Parts) -> Parts:
    class Baker(_Baker):
        left_out = b"; SameSite=Strict"

    return meddled(parts, Baker, WEB)


@fault(
    "cookies-in-clear",
    "where logins need TLS, the cookie that will be a login is set in clear already",
    breaks="HTT-10",
    services=SERVICES,
)
def cookies_in_clear(parts: Parts) -> Parts:
    class Early(Meddler):
        def says(self, octets: bytes) -> bytes:
            if self.security is not None or not self.policy.login_needs_tls:
                return octets
            hit()
            cookie = b"Set-Cookie: listenspec_%s=early; Path=/; HttpOnly; SameSite=Strict\r\nDate: "
            return octets.replace(b"Date: ", cookie % self.service.value.encode(), 1)

    return meddled(parts, Early, WEB)


@fault(
    "refuses-with-429",
    "a surplus client of a web interface hears that it has asked too often",
    breaks="LIM-26",
    services=SERVICES,
)
def refuses_with_429(parts: Parts) -> Parts:
    def refusal(why: Refusal) -> bytes:
        if why is Refusal.SERVICE_LIMIT:
            hit()
            return http.refusal(Refusal.BLOCKED)
        return http.refusal(why)

    return with_speakers(parts, lambda _, speaker: replace(speaker, refusal=refusal), WEB)
