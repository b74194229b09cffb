"""State safety (CLS) and idle time-outs (IDL) in HTTP, and how connections end there (HTT).

A request that is cut short is none; whoever asks for the end gets it, with everything that was asked before.
"""

from __future__ import annotations

from collections.abc import Callable

from conformance.check import Inconclusive, Latitude, Mismatch, check
from conformance.checks.test_http_framing import statuses, until_the_end
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.dialects.http import (
    FORM_TYPE,
    cookie_fields,
    cookies,
    keep_cookies,
    login_request,
    read_response,
    read_to_the_end,
    request,
)
from conformance.visit import Endpoint, Refusal, Visit, expecting
from conformance.watch import Seen
from conformance.wire import Ended, Ending, Silent
from reference_server.settings import Service

Observed = Callable[..., Seen]

WEB = (Service.WEBMAIL, Service.ADMIN)
LAST = request(b"GET", b"/", b"Connection: close")
#: What stands behind the last request of a connection.
STRAY = request(b"GET", b"/request-of-listenspec-behind-the-end")


# -- requests that are cut short -------------------------------------------------------------------------------------


def _without_its_end(target: bytes, fields: tuple[bytes, ...], content: bytes) -> bytes:
    head = b"".join(each + b"\r\n" for each in (FORM_TYPE, *fields))
    length = b"Content-Length: %d\r\n" % (len(content) + 2)
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s%s\r\n%s" % (target, head, length, content)


def _without_the_last_chunk(target: bytes, fields: tuple[bytes, ...], content: bytes) -> bytes:
    head = b"".join(each + b"\r\n" for each in (FORM_TYPE, *fields))
    chunk = b"%x\r\n%s\r\n" % (len(content), content)
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sTransfer-Encoding: chunked\r\n\r\n%s" % (target, head, chunk)


CUTS = {
    "two octets shorter than announced": _without_its_end,
    "without its last chunk": _without_the_last_chunk,
}


@check("CLS-08", scenario="general")
def test_a_request_that_is_cut_short_has_no_effect(endpoint: Endpoint) -> None:
    """A head without its empty line; and where people sign in by a form, the right password in one that is cut."""
    with endpoint.visit() as visit:
        require_no_answer(visit, request(b"GET", b"/")[:-2], "a request without the end of its head")
    if endpoint.declared.login.scheme != "form":
        return
    with endpoint.visit() as visit:
        try:
            endpoint.dialect.login(visit.wire, endpoint.credentials)
        except NotServed as refusal:
            raise Inconclusive(f"the whole of it does not let anybody in, either: {refusal}") from None
    for what, cut in CUTS.items():
        with endpoint.visit() as visit:
            wire = visit.wire
            try:
                filled_in = login_request(wire, endpoint.credentials)
            except NotServed as answer:
                raise Inconclusive(f"the form for signing in is not to be had: {answer}") from None
            octets = cut(filled_in.target, cookie_fields(wire), filled_in.content)
            require_no_answer(visit, octets, f"a login {what}", octets.replace(filled_in.content, b"<credentials>"))
            had = dict(cookies(wire))
        with endpoint.visit() as visit, expecting("an answer to whoever has the cookies of a login that was cut short"):
            cookies(visit.wire).update(had)
            if endpoint.dialect.is_signed_in(visit.wire, endpoint.credentials):
                raise Mismatch(f"nobody signed in by a login {what}", "the client is signed in")


def require_no_answer(visit: Visit, octets: bytes, what: str, shown: bytes | None = None) -> None:
    """Cut off by the client's end: not answered, or with an error."""
    wire = visit.wire
    try:
        wire.send(octets, shown=shown)
        wire.notify_close()
        wire.finish()
        responses, _ = read_to_the_end(wire)
    except Ended:
        return
    except Silent as silence:
        raise Mismatch(f"{what}, and the client's end, to be the end", str(silence)) from None
    except Malformed as nonsense:
        raise Mismatch(f"an error or nothing in answer to {what}", str(nonsense)) from None
    for response in responses:
        keep_cookies(wire, response)
        if response.status < 400:
            raise Mismatch(f"{what} to have no effect", response.line.decode("latin-1"))


# -- requests that are not: the end behind them ----------------------------------------------------------------------

PIPELINED = (request(b"GET", b"/"), request(b"OPTIONS", b"*"), request(b"GET", b"/")) * 2


def alone(endpoint: Endpoint, octets: bytes) -> int:
    """What a request is answered with that is alone on its connection."""
    outcome = endpoint.attempt()
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session: {outcome}")
    with outcome, expecting("a request to be answered that is alone on its connection"):
        outcome.wire.send(octets)
        return read_response(outcome.wire).status


@check("CLS-10", scenario="general", services=WEB)
def test_a_half_close_behind_requests_costs_no_answer(endpoint: Endpoint) -> None:
    expected = [alone(endpoint, octets) for octets in PIPELINED[:3]] * 2
    with endpoint.visit() as visit:
        wire = visit.wire
        wire.send(b"".join(PIPELINED))
        wire.notify_close()
        wire.finish()
        try:
            responses, ending = read_to_the_end(wire)
        except (Silent, Malformed) as error:
            raise Mismatch(f"{len(expected)} answers, or a close", str(error)) from None
    answered = [response.status for response in responses]
    if answered != expected[: len(answered)]:
        raise Mismatch(f"the answers {expected}", f"{answered}")
    if len(answered) < len(expected) and not (responses and responses[-1].closes):
        raise Latitude(f"closed at once: {len(answered)} of {len(expected)} answers came, then {ending}")


#: Their answers fill a window of the client's; and more than any server reads at once.
COUNT = 40
WINDOW = 2048
BEHIND = STRAY * 20_000


@check("CLS-13", scenario="general", services=WEB)
def test_the_last_answer_survives_what_is_sent_behind_it(endpoint: Endpoint) -> None:
    """The last of many requests whose answers wait to be read, before much that the server will not read.

    Whoever closes while octets are unread sends RST, which costs the client all that it has not got yet.
    """
    outcome = endpoint.attempt(receive_buffer=WINDOW)
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session: {outcome}")
    with outcome.wire as wire:
        wire.pour(request(b"GET", b"/") * COUNT + LAST + BEHIND)
        try:
            responses, ending = read_to_the_end(wire)
        except (Silent, Malformed) as error:
            raise Mismatch("the connection to be closed behind the last answer", str(error)) from None
    # After so many requests a server may have had enough, and says so.
    if len(responses) < COUNT + 1 and not (responses and responses[-1].closes):
        raise Mismatch(
            f"{COUNT + 1} answers, whatever the client sent behind the last request",
            f"{len(responses)}, and then {ending}",
        )


@check("HTT-07", scenario="general")
def test_whoever_is_refused_hears_of_it_before_the_end(endpoint: Endpoint) -> None:
    """A broken request behind others whose answers wait to be read, and before much that the server will not read."""
    outcome = endpoint.attempt(receive_buffer=WINDOW)
    if isinstance(outcome, Refusal):
        raise Inconclusive(f"no session: {outcome}")
    broken = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n"
    with outcome.wire as wire:
        wire.pour(request(b"GET", b"/") * COUNT + broken + BEHIND)
        try:
            responses, ending = read_to_the_end(wire)
        except (Silent, Malformed) as error:
            raise Mismatch("the answer to a broken request, and the end", str(error)) from None
    if responses and responses[-1].status == 400:
        return
    if not (responses and responses[-1].closes):
        raise Mismatch(
            f"{COUNT} answers and the one to a broken request, whatever the client sent behind it",
            f"{len(responses)}, and then {ending}",
        )


ASKING_FOR_THE_END = {
    "Connection: close": LAST,
    "Connection: Close": request(b"GET", b"/", b"Connection: Close"),
    "close in a list": request(b"GET", b"/", b"Connection: x-listenspec, close"),
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
}


@check("HTT-06", scenario="general")
def test_whoever_asks_for_the_end_gets_it(endpoint: Endpoint) -> None:
    """Behind the answer, and before any other."""
    unsaid: list[str] = []
    for what, octets in ASKING_FOR_THE_END.items():
        responses, ending = until_the_end(endpoint, octets + STRAY, f"a request with {what}")
        if not responses:
            raise Mismatch(f"an answer to a request with {what}", str(ending))
        if len(responses) > 1:
            raise Mismatch(f"nothing behind the answer to a request with {what}", statuses(responses))
        if not responses[0].closes:
            unsaid.append(what)
    if unsaid:
        raise Latitude(f"the answer does not say that it is the last: {', '.join(unsaid)}")


# -- requests that never come to their end ---------------------------------------------------------------------------


@check("IDL-08", scenario="idle", services=WEB, watches=("in_body", "in_chunks"))
def test_the_clock_runs_in_the_content_of_a_request(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("in_body").require_in_time()
    observed("in_chunks").require_in_time()


@check("IDL-16", scenario="idle", watches=("half_line", "in_body", "in_chunks"))
def test_a_request_that_never_ends_is_answered_with_408(observed: Observed, endpoint: Endpoint) -> None:
    silent: list[str] = []
    for name in ("half_line", "in_body", "in_chunks"):
        seen = observed(name)
        seen.require_closed()
        answers = endpoint.dialect.sentences(seen.said)
        if any(answer[9:10] == b"2" for answer in answers):
            raise Mismatch(f"{seen.title}: 408, or the end", repr(seen.said[:200]))
        if seen.ending is Ending.RST:
            silent.append(f"{seen.title}: {seen.ending}")
        elif not any(answer[9:12] == b"408" for answer in answers):
            silent.append(f"{seen.title}: {answers[0][:40]!r}" if answers else f"{seen.title}: no answer")
    if silent:
        raise Latitude("; ".join(silent))
