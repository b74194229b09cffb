"""Faults of HTTP: requests that are read as others would not read them, and connections that are kept wrongly.

What is wrong with upgrades, passwords and cookies is in ``web_logins``, what is only odd in ``decoys_web``.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import h11

from reference_server.connection import Connection
from reference_server.faults.clocks import with_clock
from reference_server.faults.ledger import fault, hit
from reference_server.faults.limits import with_connection
from reference_server.faults.meddling import Meddler, meddled, with_speakers
from reference_server.idle import IdleClock
from reference_server.protocols.http import MAX_HEAD, HttpSession
from reference_server.server import Parts
from reference_server.session import Actions, Close, Perform, Policy, Refusal, Security, Send
from reference_server.settings import Service

WEB: Final = (Service.WEBMAIL, Service.ADMIN)
SERVICES: Final = ("webmail", "admin")
#: Milliseconds within which a client has said that it has nothing more to say.
LATER: Final = 250


def speaking(parts: Parts, kind: type[HttpSession]) -> Parts:
    """The same server with other sessions in its web interfaces."""
    return with_speakers(parts, lambda _, speaker: replace(speaker, session=kind), WEB)


def hearing(parts: Parts, change: Callable[[bytes], bytes]) -> Parts:
    """The same server, in which web interfaces hear something else; ``change`` is given what came at once."""

    class Listening(Meddler):
        def hears(self, data: bytes) -> bytes | Actions:
            heard = change(data)
            if heard != data:
                hit()
            return heard

    return meddled(parts, Listening, WEB)


def instead(pattern: bytes, words: bytes | Callable[[re.Match[bytes]], bytes]) -> Callable[[bytes], bytes]:
    """What matches is replaced, in heads and contents alike."""
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    return lambda octets: compiled.sub(words, octets)


# -- where a request ends ----------------------------------------------------------------------------------------------


def _as_python_reads_it(found: re.Match[bytes]) -> bytes:
    try:
        return b"Content-Length: %d\r\n" % abs(int(found[1]))
    except ValueError:
        return b""


@fault(
    "reads-any-length",
    "a length with a sign, an underscore or a word in it is taken for what it may mean",
    breaks="HTT-01",
    consequences="HTT-07",
    services=SERVICES,
)
def reads_any_length(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^Content-Length: ([^\d\r][^\r]*|\d+_[^\r]*)\r\n", _as_python_reads_it))


@fault(
    "takes-any-coding-for-chunked",
    "a transfer coding with chunked anywhere in it is taken for chunked",
    breaks="HTT-01",
    services=SERVICES,
)
def takes_any_coding_for_chunked(parts: Parts) -> Parts:
    return hearing(
        parts, instead(rb"^Transfer-Encoding: [^\r]*(?:xchunked|chunked,)[^\r]*\r\n", b"Transfer-Encoding: chunked\r\n")
    )


@fault(
    "goes-on-after-a-broken-request",
    "a request that cannot be understood is answered with 400, and what comes behind it is read as the next",
    breaks="HTT-01 HTT-07",
    consequences="HTT CLS IDL",
    services=SERVICES,
)
def goes_on_after_a_broken_request(parts: Parts) -> Parts:
    class Undaunted(HttpSession):
        def _refuse(self, status: int, reason: str) -> Actions:
            said = super()._refuse(status, reason)
            if status != 400:
                return said
            hit()
            self._over = self._stopping = False
            self._http = h11.Connection(h11.SERVER)
            return [action for action in said if not isinstance(action, Close)]

    return speaking(parts, Undaunted)


@fault(
    "believes-the-length",
    "where a request has a transfer coding and a length, the length counts",
    breaks="HTT-02",
    services=SERVICES,
)
def believes_the_length(parts: Parts) -> Parts:
    head = instead(rb"^Transfer-Encoding: chunked\r\n(?=Content-Length)|(?<=\d\r\n)Transfer-Encoding: chunked\r\n", b"")
    return hearing(parts, lambda data: head(data) if b"Content-Length" in data else data)


@fault(
    "believes-the-coding-and-goes-on",
    "where a request has a transfer coding and a length, the coding counts, and the connection is kept",
    breaks="HTT-02",
    services=SERVICES,
)
def believes_the_coding_and_goes_on(parts: Parts) -> Parts:
    length = instead(rb"^Content-Length: \d+\r\n", b"")
    return hearing(parts, lambda data: length(data) if b"Transfer-Encoding: chunked\r\n" in data else data)


@fault(
    "asks-for-no-host",
    "a request of HTTP/1.1 without Host is served",
    breaks="HTT-03",
    services=SERVICES,
)
def asks_for_no_host(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"\A(\w+ \S+ HTTP/1\.1\r\n)(?=\r\n)", rb"\1Host: localhost\r\n"))


@fault(
    "takes-the-first-host",
    "of several fields of Host the first one counts",
    breaks="HTT-03",
    services=SERVICES,
)
def takes_the_first_host(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^(Host: [^\r]*\r\n)(?:Host: [^\r]*\r\n)+", rb"\1"))


@fault(
    "takes-any-host",
    "whatever stands in Host is taken, spaces and slashes too",
    breaks="HTT-03",
    services=SERVICES,
)
def takes_any_host(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^Host: [^\r]*[ /][^\r]*\r\n", b"Host: localhost\r\n"))


@fault(
    "allows-space-before-the-colon",
    "a space behind the name of a field is overlooked",
    breaks="HTT-04",
    services=SERVICES,
)
def allows_space_before_the_colon(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^([A-Z-]+) +:", rb"\1:"))


@fault(
    "ends-a-field-at-a-bare-cr",
    "a CR without LF ends a field",
    breaks="HTT-04",
    services=SERVICES,
)
def ends_a_field_at_a_bare_cr(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"\r(?!\n|\Z)", b"\r\n"))


@fault(
    "skips-extensions-to-the-next-crlf",
    "what stands behind the size of a chunk is skipped up to the next CRLF, LF or not",
    breaks="HTT-04",
    services=SERVICES,
)
def skips_extensions_to_the_next_crlf(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^([0-9a-f]+);[^\r]*\n[^\r]*\r\n", rb"\1\r\n"))


@fault(
    "reads-heads-without-an-end",
    "there is no bound to a head, nor to a line before a chunk",
    breaks="HTT-08",
    services=SERVICES,
)
def reads_heads_without_an_end(parts: Parts) -> Parts:
    class Endless(HttpSession):
        def __init__(self, policy: Policy, application: Any) -> None:
            super().__init__(policy, application)
            self._unbounded()

        def secured(self, security: Security) -> Actions:
            said = super().secured(security)
            self._unbounded()
            return said

        def _unbounded(self) -> None:
            self._http._max_incomplete_event_size = 1 << 30

        def _check(self, head: h11.Request) -> None:
            if len(head.target) + sum(len(value) for _, value in head.headers) > MAX_HEAD:
                hit()
            else:
                super()._check(head)

    return speaking(parts, Endless)


# -- one connection, many requests -------------------------------------------------------------------------------------


@fault(
    "answers-the-last-first",
    "of several requests that come at once the last is answered first",
    breaks="HTT-09",
    consequences="CLS-10 CLS-13 HTT-06 IDL-26",
    services=SERVICES,
)
def answers_the_last_first(parts: Parts) -> Parts:
    def turned(data: bytes) -> bytes:
        requests = data.split(b"\r\n\r\n")
        if len(requests) < 3 or requests[-1] or not all(each.startswith((b"GET", b"OPT")) for each in requests[:-1]):
            return data
        last = [each for each in requests[:-1] if b"close" in each]
        others = [each for each in requests[:-1] if b"close" not in each]
        return b"".join(each + b"\r\n\r\n" for each in (*reversed(others), *last))

    return hearing(parts, turned)


@fault(
    "keeps-who-wants-to-leave",
    "Connection: close in a request is overlooked",
    breaks="HTT-06",
    consequences="HTT CLS EXP-20",
    services=SERVICES,
)
def keeps_who_wants_to_leave(parts: Parts) -> Parts:
    return hearing(parts, instead(rb"^Connection: (?:x-listenspec, )?close\r\n", b""))


@fault(
    "serves-what-comes-behind-the-last",
    "a connection is closed where that is asked for, and not before everything behind it has been answered",
    breaks="HTT-06",
    consequences="HTT CLS EXP-20",
    services=SERVICES,
)
def serves_what_comes_behind_the_last(parts: Parts) -> Parts:
    asked = re.compile(rb"^Connection: close\r\n", re.MULTILINE)

    def put_off(data: bytes) -> bytes:
        if not asked.search(data) or data.count(b"\r\n\r\n") < 2:
            return data
        kept = asked.sub(b"", data)
        head, end, rest = kept.rpartition(b"\r\n\r\n")
        return head + b"\r\nConnection: close" + end + rest

    return hearing(parts, put_off)


@fault(
    "resets-whoever-is-refused",
    "a web interface closes while octets of the client's are unread, and its last answer is lost",
    breaks="HTT-07 CLS-13",
    consequences="LIM EXP-11 HTT CLS IDL-16",
    services=SERVICES,
)
def resets_whoever_is_refused(parts: Parts) -> Parts:
    class Abrupt(Connection):
        def _close_our_side(self) -> None:
            hit()
            self._end()

    return with_connection(parts, Abrupt)


@fault(
    "hangs-up-at-a-half-close",
    "a web client that has nothing more to say gets no further answer",
    breaks="CLS-10",
    services=SERVICES,
)
def hangs_up_at_a_half_close(parts: Parts) -> Parts:
    class Curt(Connection):
        def _begin_work(self, work: Perform) -> None:
            if not isinstance(self.session, HttpSession) or not self.session._http.trailing_data[0]:
                super()._begin_work(work)
                return

            def slowly() -> Any:
                # The end comes right behind the last of several requests; it shall not come too late to be seen.
                self._has_finished(LATER)
                return work.job()

            super()._begin_work(Perform(slowly, work.done))

        def _go_on(self) -> None:
            if self.engine.name in SERVICES and self._has_finished(0):
                hit()
                self.abort()
                return
            super()._go_on()

        def _has_finished(self, within: int) -> bool:
            waiting = select.poll()
            with suppress(ValueError, OSError):
                waiting.register(self._sock, select.POLLRDHUP)
                return bool(waiting.poll(within))
            return False

    return with_connection(parts, Curt)


@fault(
    "counts-only-the-first-request",
    "the place of a connection is given back with its first answer",
    breaks="HTT-05",
    consequences="LIM IDL-24 ACL PRT",
    services=SERVICES,
)
def counts_only_the_first_request(parts: Parts) -> Parts:
    class Careless(Connection):
        def _work_done(self, work: Perform, result: Any, error: Exception | None) -> None:
            if self.ticket is not None and self.engine.name in SERVICES:
                hit()
                self.ticket.give_back()
            super()._work_done(work, result, error)

    return with_connection(parts, Careless)


@fault(
    "counts-requests",
    "every sixth request of a kept connection takes a place of its own",
    breaks="HTT-05",
    consequences="LIM IDL CLS",
    services=SERVICES,
)
def counts_requests(parts: Parts) -> Parts:
    class Bookkeeper(Connection):
        def __init__(self, *details: Any, **more: Any) -> None:
            super().__init__(*details, **more)
            self.requests = 0
            self.places: list[Any] = []

        def _begin_work(self, work: Perform) -> None:
            self.requests += 1
            if self.requests % 6 == 0 and self.engine.name in SERVICES:
                hit()
                place = self.engine.admission.admit(self.peer.address)
                if isinstance(place, Refusal):
                    self._leave()
                    return
                self.places.append(place)
            super()._begin_work(work)

        def _tell_ended(self) -> None:
            for place in self.places:
                place.give_back()
            super()._tell_ended()

    return with_connection(parts, Bookkeeper)


def _spares(parts: Parts, spared: Callable[[HttpSession], bool]) -> Parts:
    """No time passes in web interfaces for sessions for which that holds when their time is up."""

    class Sparing(Connection):
        __slots__ = ()

        def idled(self) -> None:
            if isinstance(self.session, HttpSession) and spared(self.session):
                hit()
                self.engine.clock.rest(self)
            else:
                super().idled()

    return with_connection(parts, Sparing)


@fault(
    "no-clock-between-requests",
    "a kept connection that has had an answer may wait for ever for its next request",
    breaks="HTT-05 IDL-01",
    consequences="IDL LIM-08 IMP-07",
    services=SERVICES,
)
def no_clock_between_requests(parts: Parts) -> Parts:
    return _spares(parts, lambda session: not session.unfinished)


@fault(
    "no-clock-in-a-content",
    "in the content of a request no time passes",
    breaks="IDL-08 IDL-16",
    services=SERVICES,
)
def no_clock_in_a_content(parts: Parts) -> Parts:
    return _spares(parts, lambda session: session._coming is not None)


@fault(
    "contents-trickle-for-ever",
    "the content of a request may come octet by octet and take for ever, its head may not",
    breaks="IDL-10",
    services=SERVICES,
)
def contents_trickle_for_ever(parts: Parts) -> Parts:
    class PatientClock(IdleClock[Connection]):
        def owes(self, client: Connection, now: float) -> None:
            if isinstance(client.session, HttpSession) and client.session._coming is not None:
                hit()
            else:
                super().owes(client, now)

    return with_clock(parts, PatientClock)


# -- requests that are cut short ---------------------------------------------------------------------------------------


@fault(
    "carries-out-what-was-cut",
    "a request is carried out with as much of its content as there is",
    breaks="CLS-08",
    consequences="IDL-08 IDL-16",
    services=SERVICES,
)
def carries_out_what_was_cut(parts: Parts) -> Parts:
    whole = re.compile(rb"(POST [^\r]+\r\n.*?)Content-Length: (\d+)(\r\n.*?\r\n\r\n|\r\n\r\n)(.*)", re.DOTALL)

    def shortened(data: bytes) -> bytes:
        found = whole.fullmatch(data)
        if found is None or not 0 < len(found[4]) < int(found[2]):
            return data
        return found[1] + b"Content-Length: %d" % len(found[4]) + found[3] + found[4]

    return hearing(parts, shortened)


@fault(
    "needs-no-last-chunk",
    "a chunked request is carried out without its last chunk",
    breaks="CLS-08",
    consequences="IDL-08 IDL-16",
    services=SERVICES,
)
def needs_no_last_chunk(parts: Parts) -> Parts:
    begun = re.compile(rb"POST .*?\r\nTransfer-Encoding: chunked\r\n(?:[^\r]+\r\n)*\r\n[0-9a-f]+\r\n.+\r\n", re.DOTALL)

    def completed(data: bytes) -> bytes:
        return data + b"0\r\n\r\n" if begun.fullmatch(data) and not data.endswith(b"0\r\n\r\n") else data

    return hearing(parts, completed)


@fault(
    "answers-when-the-time-is-up",
    "a request that has not come to its end is answered with 200 when its time is up",
    breaks="IDL-16",
    consequences="IDL-08",
    services=SERVICES,
)
def answers_when_the_time_is_up(parts: Parts) -> Parts:
    class Obliging(HttpSession):
        def idled(self) -> Actions:
            if not self.unfinished:
                return super().idled()
            hit()
            super().idled()
            return [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]

    return speaking(parts, Obliging)
