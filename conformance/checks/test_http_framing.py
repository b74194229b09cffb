"""HTTP specifics (HTT), the framing of requests: where one ends, whom it is for, and how large it may be.

What is ambiguous here is what requests are smuggled with: whoever stands before a server reads one request, and the
server two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from conformance.check import Inconclusive, Latitude, Mismatch, check
from conformance.dialects.dialect import Malformed
from conformance.dialects.http import Response, read_response, read_to_the_end, request
from conformance.visit import Endpoint, expecting
from conformance.wire import Ended, Ending, Silent

#: A request that is hidden in the content of another, or behind it.
HIDDEN = request(b"GET", b"/hidden-request-of-listenspec")
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
#: A status for a transfer coding that the server does not know (RFC 9112 6.1).
UNKNOWN_CODING = 501
TOO_LARGE = 413


def controlled(endpoint: Endpoint, octets: bytes) -> None:
    """A request without the defect is answered, and not with 400: what is refused then is the defect."""
    with endpoint.visit() as visit:
        visit.wire.send(octets)
        try:
            response = read_response(visit.wire)
        except (Ended, Silent, Malformed) as error:
            raise Inconclusive(f"a request without any defect is not answered: {error}") from None
        if response.status == 400:
            raise Inconclusive("a request without any defect is answered with 400")


def until_the_end(endpoint: Endpoint, octets: bytes, what: str) -> tuple[list[Response], Ending]:
    """What the server says to these octets until it closes.  Raises :class:`Mismatch` when it never does."""
    with endpoint.visit() as visit:
        try:
            visit.wire.send(octets)
            return read_to_the_end(visit.wire)
        except Silent as silence:
            raise Mismatch(f"the connection to be closed behind {what}", str(silence)) from None
        except Malformed as nonsense:
            raise Mismatch(f"a response to {what}", str(nonsense)) from None
        except Ended as end:
            return [], end.ending


def statuses(responses: Iterable[Response]) -> str:
    """What was answered, for people."""
    return ", ".join(str(response.status) for response in responses) or "no answer"


# -- lengths ---------------------------------------------------------------------------------------------------------


def _coded(coding: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" + HIDDEN


def _long(length: bytes) -> bytes:
    return POST + b"Content-Length: " + length + b"\r\n\r\nhello" + HIDDEN


#: Without the defect.
WELL_FRAMED = (
    POST + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
)
#: By what is wrong: the request, and which other status tells of the same.
NO_LENGTH: Mapping[str, tuple[bytes, int | None]] = {
    "a transfer coding that is not chunked": (_coded(b"gzip"), UNKNOWN_CODING),
    "a transfer coding that chunked is not the last of": (_coded(b"chunked, gzip"), UNKNOWN_CODING),
    "a transfer coding that only sounds like chunked": (_coded(b"xchunked"), UNKNOWN_CODING),
    "a length that is a word": (_long(b"five"), None),
    "a length below zero": (_long(b"-5"), None),
    "a length with a sign": (_long(b"+5"), None),
    "a length in hexadecimal": (_long(b"0x5"), None),
    "a length with an underscore": (_long(b"0_5"), None),
    "two lengths in one field": (_long(b"5, 6"), None),
    "two lengths": (_long(b"5\r\nContent-Length: 6"), None),
    "a length beyond 64 bits": (_long(b"18446744073709551621"), TOO_LARGE),
}


@check("HTT-01", scenario="general")
def test_a_request_without_a_length_to_rely_on_is_refused_and_the_connection_closed(endpoint: Endpoint) -> None:
    for octets in WELL_FRAMED:
        controlled(endpoint, octets)
    others: list[str] = []
    for what, (octets, allowed) in NO_LENGTH.items():
        responses, _ = until_the_end(endpoint, octets, what)
        if len(responses) > 1:
            raise Mismatch(f"400 to {what}, and nothing more", statuses(responses))
        if not responses:
            others.append(f"{what}: closed without an answer")
        elif responses[0].status not in (400, allowed):
            raise Mismatch(f"400 to {what}", statuses(responses))
    if others:
        raise Latitude("; ".join(others))


#: A length that covers all there is behind the head, and one that ends within the first chunk.
_CHUNKED_WITHIN = b"0\r\n\r\n" + HIDDEN
_CHUNK_AROUND = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
TWO_LENGTHS: Mapping[str, bytes] = {
    "that is over before its length is": (
        POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(_CHUNKED_WITHIN) + _CHUNKED_WITHIN
    ),
    "that goes on when its length is over": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + _CHUNK_AROUND
    ),
}


@check("HTT-02", scenario="general")
def test_a_request_with_both_lengths_is_the_last_of_its_connection(endpoint: Endpoint) -> None:
    controlled(endpoint, WELL_FRAMED[1])
    for what, octets in TWO_LENGTHS.items():
        responses, _ = until_the_end(endpoint, octets, f"a chunked request {what}")
        if len(responses) > 1:
            raise Mismatch(
                f"no answer but one, and the close, to a chunked request {what}",
                f"the request that is hidden in it is answered as well: {statuses(responses)}",
            )


# -- hosts -----------------------------------------------------------------------------------------------------------

HOSTS: Mapping[str, bytes] = {
    "no Host": b"",
    "two of Host that differ": b"Host: localhost\r\nHost: elsewhere.example\r\n",
    "two of Host that are the same": b"Host: localhost\r\nHost: localhost\r\n",
    "a Host with a space in it": b"Host: local host\r\n",
    "a Host with a path": b"Host: localhost/elsewhere\r\n",
}


@check("HTT-03", scenario="general")
def test_a_request_must_say_once_whom_it_is_for(endpoint: Endpoint) -> None:
    controlled(endpoint, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for what, field in HOSTS.items():
        with endpoint.visit() as visit, expecting(f"400 to a request with {what}"):
            visit.wire.send(b"GET / HTTP/1.1\r\n" + field + b"\r\n")
            response = read_response(visit.wire)
            if response.status != 400:
                raise Mismatch(f"400 to a request with {what}", response.line.decode("latin-1"))


# -- where a field, a line or a chunk ends ---------------------------------------------------------------------------

SPACED: Mapping[str, bytes] = {
    "a field": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Note : anything\r\n\r\n",
    "Content-Length": POST + b"Content-Length : %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "Transfer-Encoding": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
}

#: A request that begins where a chunk is over already, for whoever reads its size line to the first CRLF.
_LATER = b"0\r\n\r\n" + HIDDEN
_CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK_ENDS: Mapping[str, bytes] = {
    "a size that ends with a bare LF": _CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    # Those two digits are content for whoever skips the LF, and else the size of the next chunk.
    "an extension that ends with a bare LF": _CHUNKED + b"2;x\nAB\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(_LATER), _LATER),
    "content that ends with a bare LF": _CHUNKED + b"5\r\nhello\n0\r\n\r\n",
}


@check("HTT-04", scenario="general")
def test_no_field_ends_where_others_would_not_see_it(endpoint: Endpoint) -> None:
    """A space before a colon is refused; a bare CR in a field and a bare LF behind a chunk, or they do no harm."""
    controlled(endpoint, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Note: anything\r\n\r\n")
    for what, octets in SPACED.items():
        with endpoint.visit() as visit, expecting(f"400 to a space behind the name of {what}"):
            visit.wire.send(octets)
            response = read_response(visit.wire)
            if response.status != 400:
                raise Mismatch(f"400 to a space behind the name of {what}", response.line.decode("latin-1"))
    require_no_line_end(endpoint)
    for what, octets in CHUNK_ENDS.items():
        require_one_request(endpoint, octets, what)


def require_no_line_end(endpoint: Endpoint) -> None:
    """A bare CR ends no field: what stands behind it is part of the value, or the request is refused."""
    hidden = b"X-Note: one\rContent-Length: %d" % len(HIDDEN)
    with endpoint.visit() as visit, expecting("a bare CR in a field to be refused, or to end nothing"):
        visit.wire.send(request(b"GET", b"/", hidden) + HIDDEN)
        if read_response(visit.wire).status == 400:
            return
        try:
            read_response(visit.wire)
        except Silent:
            raise Mismatch(
                "a bare CR in a field to be refused, or to end nothing",
                "the length behind it was taken for one: the next request is content of this one",
            ) from None


def require_one_request(endpoint: Endpoint, octets: bytes, what: str) -> None:
    """Whatever is made of it, it is one request, and what comes behind it is the next."""
    last = request(b"GET", b"/", b"Connection: close")
    with endpoint.visit() as visit:
        try:
            visit.wire.send(octets + last)
            responses, _ = read_to_the_end(visit.wire)
        except Silent as silence:
            raise Mismatch(f"{what} to be refused, or to end that and nothing else", str(silence)) from None
        except (Ended, Malformed):
            return
        if len(responses) > 2:
            raise Mismatch(f"{what} to be refused, or to end that and nothing else", statuses(responses))


# -- how much --------------------------------------------------------------------------------------------------------

#: Far more than any server needs to read of these (octets).
MUCH = 4 << 20
_LINES = b"".join(b"X-Note-%06d: %s\r\n" % (number, b"x" * 1000) for number in range(MUCH // 1000))
TOO_MUCH: Mapping[str, bytes] = {
    "a request line": b"GET /" + b"x" * MUCH + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a field": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Note: " + b"x" * MUCH + b"\r\n\r\n",
    "all fields together": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + _LINES + b"\r\n",
    "an extension of a chunk": _CHUNKED + b"5;x=" + b"x" * MUCH + b"\r\nhello\r\n0\r\n\r\n",
}
REFUSED = frozenset({400, 408, 413, 414, 431})


@check("HTT-08", scenario="general")
def test_what_comes_before_a_content_has_an_end(endpoint: Endpoint) -> None:
    """That a head must also be there in time is IDL-10's."""
    endpoint.visit().goodbye()
    for what, octets in TOO_MUCH.items():
        with endpoint.visit() as visit:
            visit.wire.pour(octets)
            try:
                response = read_response(visit.wire)
            except Ended:
                continue
            except Silent as silence:
                raise Mismatch(f"{what} of {MUCH >> 20} MiB to be refused", str(silence)) from None
            except Malformed as nonsense:
                raise Mismatch(f"{what} of {MUCH >> 20} MiB to be refused with a response", str(nonsense)) from None
            # Refused for something else, before it was all there: then the connection must not be of use any more.
            if response.status not in REFUSED and visit.is_alive():
                raise Mismatch(f"{what} of {MUCH >> 20} MiB to be refused", response.line.decode("latin-1"))
    endpoint.visit().goodbye()
