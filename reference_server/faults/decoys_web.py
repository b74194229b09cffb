"""Decoys of HTTP: legal ways to answer, to refuse and to end that are not this server's own.

None of them may be taken for a fault.  ``consequences`` names what each tempts.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import h11

from reference_server.faults.ledger import fault, hit
from reference_server.faults.lifecycle import ReloadedEngine
from reference_server.faults.meddling import Meddler, meddled
from reference_server.faults.web import SERVICES, WEB, hearing, instead, speaking
from reference_server.protocols.http import HttpSession, Response
from reference_server.server import Parts
from reference_server.session import Actions, Close, Send


@fault(
    "answers-in-chunks",
    "a web interface sends its pages in chunks, with extensions, and says no length",
    consequences="HTT EXP-13 EXP-19 EXP-20 CLS-08 CLS-10 CLS-13",
    services=SERVICES,
)
def answers_in_chunks(parts: Parts) -> Parts:
    class Chunking(HttpSession):
        chunked = False

        def _head(self, response: Response) -> bytes:
            head = super()._head(response)
            self.chunked = response.status not in (204, 304) and not self._asked_for_head and bool(response.body)
            if not self.chunked:
                return head
            hit()
            return re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)

        def _http_data(self, piece: bytes) -> bytes:
            sent = super()._http_data(piece)
            return b"%x;listenspec=odd\r\n%s\r\n" % (len(sent), sent) if sent and self.chunked else sent

        def _tell(self, said: bytes, pieces: Any) -> Actions:
            following = super()._tell(said, pieces)
            return following if self._http.our_state is h11.SEND_BODY else self._with_its_end(following)

        def _refuse(self, status: int, reason: str) -> Actions:
            return self._with_its_end(super()._refuse(status, reason))

        def _with_its_end(self, actions: Actions) -> Actions:
            said = actions[0]
            if not self.chunked or not isinstance(said, Send):
                return actions
            self.chunked = False
            return [Send(said.data + b"0\r\n\r\n"), *actions[1:]]

    return speaking(parts, Chunking)


@fault(
    "gives-no-reasons",
    "a web interface answers with empty reason phrases and with header fields in other letters, and more of them",
    consequences="PRT-01 LIM-26 HTT EXP-02 EXP-13 EXP-19 EXP-20 CLS-08 CLS-10 CLS-13",
    services=SERVICES,
)
def gives_no_reasons(parts: Parts) -> Parts:
    class Terse(Meddler):
        def says(self, octets: bytes) -> bytes:
            if not octets.startswith(b"HTTP/1.1 "):
                return octets
            hit()
            head, end, body = octets.partition(b"\r\n\r\n")
            line, crlf, fields = head.partition(b"\r\n")
            others = re.sub(rb"(?m)^([A-Za-z-]+): +", lambda found: found[1].lower() + b":\t ", fields)
            return line[:12] + b" " + crlf + b"X-Odd:\r\nVary: *\r\n" + others + end + body

    return meddled(parts, Terse, WEB)


@fault(
    "says-nothing-when-the-time-is-up",
    "a request that has not come to its end is not answered when its time is up",
    consequences="IDL-01 IDL-07 IDL-08 IDL-16",
    services=SERVICES,
)
def says_nothing_when_the_time_is_up(parts: Parts) -> Parts:
    class Silent(HttpSession):
        def idled(self) -> Actions:
            hit()
            self._over = True
            return ()

    return speaking(parts, Silent)


@fault(
    "does-not-say-that-it-is-the-last",
    "an answer behind which the connection is closed does not say so",
    consequences="HTT LIM-26 EXP-20 CLS-10 CLS-13 IDL-16",
    services=SERVICES,
)
def does_not_say_that_it_is_the_last(parts: Parts) -> Parts:
    class Mute(Meddler):
        def says(self, octets: bytes) -> bytes:
            if b"Connection: close\r\n" not in octets:
                return octets
            hit()
            return octets.replace(b"Connection: close\r\n", b"")

    return meddled(parts, Mute, WEB)


@fault(
    "believes-the-coding-and-closes",
    "where a request has a transfer coding and a length, the coding counts, and the connection is closed behind it",
    consequences="HTT-01 HTT-02 HTT-04 HTT-06",
    services=SERVICES,
)
def believes_the_coding_and_closes(parts: Parts) -> Parts:
    length = instead(rb"^Content-Length: \d+\r\n", b"Connection: close\r\n")
    return hearing(parts, lambda data: length(data) if b"Transfer-Encoding: chunked\r\n" in data else data)


@fault(
    "turns-claims-down",
    "a web client that says that it speaks for somebody else is answered with 400",
    consequences="ACL-09",
    services=SERVICES,
)
def turns_claims_down(parts: Parts) -> Parts:
    class Strict(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            if not re.search(rb"\r\n(?:X-)?Forwarded", data):
                return data
            hit()
            return [Send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), Close()]

    return meddled(parts, Strict, WEB)


@fault(
    "reload-ends-who-asks-nothing",
    "a reload ends web clients that are between two requests, and no others",
    consequences="LIF-01 LIF-02 LIM-27 ACL-12 IMP-08 TLS-15",
    services=SERVICES,
)
def reload_ends_who_asks_nothing(parts: Parts) -> Parts:
    class Leaving(ReloadedEngine):
        def reloaded(self) -> None:
            for connection in list(self.connections):
                session = connection.session
                if not isinstance(session, HttpSession) or connection.at_work:
                    continue
                # RFC 9112 9.5
                if session._http.their_state is h11.IDLE and not session._http.trailing_data[0]:
                    hit()
                    connection.stop()

    return replace(parts, engine=Leaving)
