"""HTTP dialogues, as RFC 9110 and 9112 have them, with an application that says what it was asked."""

from __future__ import annotations

import re

import pytest

from reference_server.protocols import http
from reference_server.protocols.http import HttpSession, Request, Response
from reference_server.session import Policy, Refusal, Security
from tests.dialogue import TLS, Conversation

OPEN = Policy("mail.example.test")
OFFERS = Policy("mail.example.test", offers_tls=True)


class Echo:
    """Says what it was asked; ``/large`` is large, ``/break`` breaks."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if request.path == "/break":
            raise RuntimeError("the application's own mistake")
        body = b"x" * (3 * http.PIECE + 1) if request.path == "/large" else f"{request.method} {request.path}".encode()
        return Response(200, (("Content-Type", "text/plain"),), body + b" " + request.body)


def begun(policy: Policy = OPEN, security: Security | None = None) -> tuple[Conversation, Echo]:
    application = Echo()
    conversation = Conversation(HttpSession(policy, application), security=security)
    conversation.begin()
    return conversation, application


def said(conversation: Conversation) -> str:
    """What the server has said since this was last asked, without its dates."""
    octets = b"".join(each for each in conversation.taken() if isinstance(each, bytes))
    return re.sub(r"Date: [^\r]*\r\n", "", octets.decode("latin-1"))


def ask(conversation: Conversation, *octets: bytes) -> str:
    conversation.feed(octets)
    return said(conversation)


def statuses(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"HTTP/1\.1 (\d+) [A-Z]", text)]


GET = b"GET /one HTTP/1.1\r\nHost: mail.example.test\r\n\r\n"


def test_a_request_and_its_response() -> None:
    client, application = begun()
    assert client.sent == b""  # HTTP has no greeting
    assert ask(client, b"GET /a%20b?x=1&x=2&y= HTTP/1.1\r\nHost: h:80\r\nX-Two: a\r\nx-two: b\r\n\r\n") == (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nGET /a b "
    ).replace("10", "9")
    (request,) = application.requests
    assert request.query == {"x": ["1", "2"], "y": [""]}
    assert request.headers["x-two"] == "a, b"
    assert (request.host, request.secure, request.address) == ("h:80", False, client.peer.address)


def test_every_response_has_a_date() -> None:
    client, _ = begun()
    client.feed([GET])
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", bytes(client.sent))


def test_a_connection_serves_one_request_after_the_other() -> None:
    client, application = begun()
    for _ in range(3):
        assert statuses(ask(client, GET)) == [200]
    assert len(application.requests) == 3
    assert not client.closed


def test_pipelined_requests_are_answered_in_order() -> None:
    client, _ = begun()
    text = ask(client, GET + GET.replace(b"one", b"two") + GET.replace(b"one", b"three"))
    assert re.findall("GET /[a-z]+", text) == ["GET /one", "GET /two", "GET /three"]  # RFC 9112 9.3.2


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /one HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET /one HTTP/1.0\r\n\r\n",
    ],
)
def test_a_connection_ends_that_is_asked_to(request_: bytes) -> None:
    client, application = begun()
    text = ask(client, request_ + GET)
    assert statuses(text) == [200]
    assert "\r\nConnection: close\r\n" in text  # RFC 9112 9.6
    assert client.closed
    assert len(application.requests) == 1


def test_content_by_length_and_in_chunks() -> None:
    client, _ = begun()
    assert ask(client, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").endswith("POST / hello")
    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
    assert ask(client, chunked).endswith("POST / hello")


def test_head_is_answered_without_the_content() -> None:
    client, _ = begun()
    text = ask(client, GET.replace(b"GET", b"HEAD"), GET)
    assert statuses(text) == [200, 200]
    assert text.split("\r\n\r\n")[1].startswith("HTTP/1.1 200")
    assert "Content-Length: 10" in text.split("\r\n\r\n")[0]


def test_a_request_that_is_none_gets_its_content_even_behind_head() -> None:
    client, _ = begun()
    text = ask(client, GET.replace(b"GET", b"HEAD"), b"GET / HTTP/1.1\r\n\r\n")
    assert statuses(text) == [200, 400]
    assert text.endswith("This is no request that can be understood.\n")


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    client, _ = begun()
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(ask(client, head)) == [100]
    assert statuses(ask(client, b"ok")) == [200]


def test_a_large_response_is_sent_piece_by_piece() -> None:
    client, _ = begun()
    text = ask(client, GET.replace(b"one", b"large"), GET)
    assert statuses(text) == [200, 200]
    assert text.count("x") == 3 * http.PIECE + 1 + text.count("text/plain")


# -- what is no request ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"EHLO there\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x10\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (http.MAX_BODY + 1), 413),
        (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * http.MAX_HEAD), 431),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_nothing_behind_it_is_carried_out(request_: bytes, status: int) -> None:
    client, application = begun()
    text = ask(client, request_ + GET)
    assert statuses(text) == [status]
    assert "Connection: close" in text
    assert client.closed
    assert application.requests == []


def test_whatever_was_asked_before_is_still_answered() -> None:
    client, _ = begun()
    assert statuses(ask(client, GET + b"nonsense\r\n\r\n")) == [200, 400]


def test_a_request_that_is_cut_off_is_not_carried_out() -> None:
    client, application = begun()
    ask(client, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    client.end()
    assert application.requests == []  # RFC 9112 8


def test_an_application_that_breaks_is_no_secret() -> None:
    client, _ = begun()
    assert statuses(ask(client, GET.replace(b"one", b"break"), GET)) == [500]
    assert client.closed


# -- TLS ---------------------------------------------------------------------------------------------------------------

UPGRADE = b"OPTIONS /first HTTP/1.1\r\nHost: a\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n\r\n"


def test_upgrading_to_tls_and_the_answer_under_it() -> None:
    client, application = begun(OFFERS)
    text = ask(client, UPGRADE)
    assert text == "HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\n\r\n"
    assert client.awaiting_tls
    client.happen("secured")
    assert said(client).endswith("OPTIONS /first ")  # RFC 2817 3.3
    assert application.requests[0].secure
    assert statuses(ask(client, GET)) == [200]


def test_what_came_in_clear_behind_the_upgrade_is_never_carried_out() -> None:
    client, application = begun(OFFERS)
    ask(client, UPGRADE + GET)
    client.happen("secured")
    assert [request.path for request in application.requests] == ["/first"]
    assert not client.session.unfinished


@pytest.mark.parametrize(
    ("policy", "security", "request_"),
    [
        (OPEN, None, UPGRADE),
        (OFFERS, TLS, UPGRADE),
        (OFFERS, None, UPGRADE.replace(b"Connection: Upgrade\r\n", b"")),
        (OFFERS, None, UPGRADE.replace(b"TLS/1.0", b"websocket")),
    ],
)
def test_where_there_is_no_upgrade_the_request_is_answered_as_it_is(
    policy: Policy, security: Security | None, request_: bytes
) -> None:
    client, _ = begun(policy, security)
    assert statuses(ask(client, request_, GET)) == [200, 200]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_between_requests_an_idle_connection_is_closed_without_a_word() -> None:
    client, _ = begun()
    ask(client, GET)
    client.happen("idled")
    assert said(client) == ""


@pytest.mark.parametrize("half", [b"GET /", GET[:-2], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"])
def test_a_request_that_never_ends_is_told_so(half: bytes) -> None:
    client, _ = begun()
    ask(client, half)
    assert client.session.unfinished
    client.happen("idled")
    assert statuses(said(client)) == [408]


def test_a_request_under_way_is_answered_before_the_server_stops() -> None:
    client, _ = begun()
    client.holding = True
    ask(client, GET + GET)
    client.session.stopping()
    client.happen("release")
    text = said(client)
    assert statuses(text) == [200]
    assert "Connection: close" in text
    assert client.closed


def test_a_server_that_stops_closes_idle_connections_without_a_word() -> None:
    client, _ = begun()
    client.happen("stopping")
    assert said(client) == ""


@pytest.mark.parametrize(("why", "status"), [(Refusal.DENIED, 403), (Refusal.SERVICE_LIMIT, 503)])
def test_whoever_is_not_let_in_is_told_why(why: Refusal, status: int) -> None:
    octets = http.refusal(why)
    head, _, body = octets.partition(b"\r\n\r\n")
    assert statuses(octets.decode()) == [status]
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head


def test_octet_by_octet_it_answers_the_same() -> None:
    chunked = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    octets = GET + chunked + GET + b"?\r\n\r\n"
    whole, _ = begun()
    piecewise, _ = begun()
    assert ask(whole, octets) == ask(piecewise, *(bytes((each,)) for each in octets))
