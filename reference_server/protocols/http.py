"""One client's HTTP/1.1 session: requests in, an application's responses out (RFC 9110, 9112).

Owns: where a request ends, what is wrong with it as a request, how long it may be, persistent and pipelined
connections, and the upgrade to TLS in place (RFC 2817).  Knows no page, no cookie, no account and no socket: what a
request is answered with is an :class:`Application`'s, which is asked where it may block.

Octets are read and written by h11, which is strict about framing.  Stricter still here: a request that gives its length
in two ways, or names no host or two, is refused, and nothing behind it is looked at (RFC 9112 6.1, 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from reference_server.session import (
    Action,
    Actions,
    Close,
    IPAddress,
    LoginFailed,
    Peer,
    Perform,
    Policy,
    Refusal,
    Security,
    Send,
    StartTls,
)

MAX_HEAD: Final = 32 * 1024
"""Octets of a request line with its header fields, and of the line before a chunk."""
MAX_BODY: Final = 30 * 1024 * 1024
"""Octets of a request's content: a message with its attachments."""
PIECE: Final = 128 * 1024
"""Octets of a response that are sent at once; before the next the client must have taken most of them."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: RFC 3986 3.2.2 and 3.2.3, what a browser sends: a name or address, perhaps with a port.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_REASONS: Final = {
    101: "Switching Protocols", 200: "OK", 201: "Created", 204: "No Content", 303: "See Other", 304: "Not Modified",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 417: "Expectation Failed", 422: "Unprocessable Content", 426: "Upgrade Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.  ``path`` is decoded and begins with a slash, ``target`` is the same as it came over the wire.

    Names of ``headers`` are in lower case.
    """

    method: str
    path: str
    target: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    address: IPAddress
    host: str
    secure: bool
    #: Whether a password may travel on this connection.
    may_log_in: bool


@dataclass(frozen=True, slots=True)
class Response:
    """What a request is answered with.  Length, date and connection are not among ``headers``: they come by themselves.

    ``logins_failed``: names or passwords that were wrong, to be counted against the client's address.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    login_failed: bool = False


class Application(Protocol):
    """What stands behind a session; asked from several threads at once."""

    def answer(self, request: Request) -> Response:
        """The response.  May block; whatever it raises becomes 500."""


@dataclass(slots=True)
class _Coming:
    """A request whose content is still on its way."""

    head: h11.Request
    body: bytearray = field(default_factory=bytearray)


class _Unacceptable(Exception):
    """A request that is refused for what it is; ends the connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def refusal(why: Refusal) -> bytes:
    """What a client hears that is not let in (RFC 9110 15.5.4, 15.6.4)."""
    match why:
        case Refusal.DENIED:
            status, more, text = 403, b"", b"This service is not open to your address.\n"
        case Refusal.ADDRESS_LIMIT:
            status, more, text = 503, b"Retry-After: 5\r\n", b"Too many connections from your address.\n"
        case Refusal.SERVICE_LIMIT:
            status, more, text = 503, b"Retry-After: 5\r\n", b"Too many connections, try again later.\n"
        case Refusal.BLOCKED:
            status, more, text = 429, b"", b"Too many failed logins from your address.\n"
    return (
        b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"
        % (status, _REASONS[status].encode(), len(text), more, text)
    )


class HttpSession:
    """See :class:`reference_server.session.Session` for what each event means."""

    __slots__ = (
        "_application", "_asked_for_head", "_at_work", "_coming", "_http", "_over", "_peer", "_policy", "_security",
        "_stopping", "_upgrading",
    )  # fmt: skip

    def __init__(self, policy: Policy, application: Application) -> None:
        self._policy = policy
        self._application = application
        self._peer: Peer  # known from ``connected`` on, which comes before anything else
        self._security: Security | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._coming: _Coming | None = None
        self._upgrading: bytes | None = None
        self._asked_for_head = False
        self._at_work = False
        self._stopping = False
        self._over = False

    # ---- events

    @property
    def unfinished(self) -> bool:
        return not self._over and (self._coming is not None or bool(self._http.trailing_data[0]))

    def connected(self, peer: Peer, security: Security | None) -> Actions:
        self._peer = peer
        self._security = security
        return ()

    def received(self, data: bytes) -> Actions:
        if self._over:
            return ()
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            return self._refuse(error.error_status_hint, "the request is not HTTP")
        return self._advance()

    def secured(self, security: Security) -> Actions:
        # RFC 2817 3.1: the request that asked for TLS is answered under TLS, and nothing else that came in clear.
        self._security = security
        request, self._upgrading = self._upgrading, None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        return () if request is None else self.received(request)

    def failed(self, error: Exception) -> Actions:
        del error
        self._at_work = False
        self._stopping = True  # what went wrong may go wrong with the connection's next request, too
        return self._respond(_plain(500, "Something went wrong here."))

    def woken(self) -> Actions:
        return ()

    def idled(self) -> Actions:
        if self.unfinished:
            return self._refuse(408, "The request took too long.")
        self._over = True
        return ()

    def stopping(self) -> Actions:
        self._stopping = True
        if not self._at_work:
            self._over = True
        return ()

    def ended(self) -> None:
        self._over = True
        self._coming = None

    # ---- the one place where octets become requests

    def _advance(self) -> Actions:
        said: list[Action] = []
        while True:
            try:
                event = self._http.next_event()
                match event:
                    case h11.Request():
                        self._coming = _Coming(event)
                        self._asked_for_head = event.method == b"HEAD"
                        self._check(event)
                        if self._http.they_are_waiting_for_100_continue:
                            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                            said.append(Send(self._http.send(go_on) or b""))
                    case h11.Data():
                        assert self._coming is not None
                        self._coming.body += event.data
                        if len(self._coming.body) > MAX_BODY:
                            raise _Unacceptable(413, "The request is too large.")
                    case h11.EndOfMessage():
                        assert self._coming is not None
                        coming, self._coming = self._coming, None
                        return (*said, *self._carry_out(coming))
                    case h11.ConnectionClosed():
                        self._over = True
                        return (*said, Close())
                    case _:  # more is needed, or the answer to the last request is still to be sent
                        return said
            except h11.RemoteProtocolError as error:
                return (*said, *self._refuse(error.error_status_hint, "This is no request that can be understood."))
            except _Unacceptable as error:
                return (*said, *self._refuse(error.status, str(error)))

    def _check(self, head: h11.Request) -> None:
        """What h11 lets pass.  Raises :class:`_Unacceptable`."""
        names = [name for name, _ in head.headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            # RFC 9112 6.1: somebody in between may have believed the other one.
            raise _Unacceptable(400, "The request gives its length in two ways.")
        hosts = [value for name, value in head.headers if name == b"host"]
        if hosts and not (hosts[0] == b"" or _HOST.fullmatch(hosts[0].decode("latin-1"))):
            raise _Unacceptable(400, "The request names a host that cannot be.")  # RFC 9112 3.2
        if head.http_version not in (b"1.0", b"1.1"):
            raise _Unacceptable(505, "HTTP/1.1 is spoken here.")
        # However it was cut on its way, so that no answer depends on that.
        if len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers) > MAX_HEAD:
            raise _Unacceptable(431, "The request's head is too large.")
        if head.method.decode("latin-1") not in _METHODS:
            raise _Unacceptable(501, "There is no such method here.")
        length = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if length > MAX_BODY:
            raise _Unacceptable(413, "The request is too large.")

    def _carry_out(self, coming: _Coming) -> Actions:
        if self._asks_for_tls(coming):
            # h11 has no way back to HTTP from here: the request is put before a fresh one, inside TLS.
            self._upgrading = _again(coming.head)
            accepted = h11.InformationalResponse(
                status_code=101,
                headers=[("Upgrade", "TLS/1.2, HTTP/1.1"), ("Connection", "Upgrade")],
                reason=_REASONS[101],
            )
            return (Send(self._http.send(accepted) or b""), StartTls())
        try:
            request = self._request(coming)
        except ValueError:
            return self._refuse(400, "The request's target is no address.")
        self._at_work = True
        return (Perform(partial(self._application.answer, request), self._answered),)

    def _asks_for_tls(self, coming: _Coming) -> bool:
        if self._security is not None or not self._policy.offers_tls or coming.body:
            return False
        # RFC 9110 7.8: not in HTTP/1.0, and only where Connection names it as well.
        if coming.head.http_version < b"1.1" or b"UPGRADE" not in _listed(coming.head, b"connection"):
            return False
        return any(each.startswith(b"TLS/") for each in _listed(coming.head, b"upgrade"))

    def _request(self, coming: _Coming) -> Request:
        """Raises ``ValueError`` for a target that is no address."""
        target = urlsplit(coming.head.target.decode("latin-1"))
        headers: dict[str, str] = {}
        for name, value in coming.head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{text}" if key in headers else text
        return Request(
            coming.head.method.decode("latin-1"),
            unquote(target.path) or "/",
            target.path or "/",
            parse_qs(target.query, keep_blank_values=True, max_num_fields=1000),
            headers,
            bytes(coming.body),
            self._peer.address,
            target.netloc or headers.get("host", ""),
            self._security is not None,
            self._security is not None or not self._policy.login_needs_tls,
        )

    # ---- responses

    def _answered(self, response: Response) -> Actions:
        self._at_work = False
        said = self._respond(response)
        return (LoginFailed(), *said) if response.login_failed else said

    def _respond(self, response: Response) -> Actions:
        head = self._head(response)
        silent = response.status in (204, 304) or self._asked_for_head
        body = b"" if silent else response.body
        pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
        return self._tell(head + self._http_data(next(pieces, b"")), pieces)

    def _head(self, response: Response) -> bytes:
        headers = [*response.headers, ("Date", formatdate(usegmt=True))]
        if response.status != 204:
            headers.append(("Content-Length", str(len(response.body))))
        if self._stopping:
            headers.append(("Connection", "close"))
        sent = self._http.send(
            h11.Response(status_code=response.status, headers=headers, reason=_REASONS.get(response.status, "Answer"))
        )
        return sent or b""

    def _http_data(self, piece: bytes) -> bytes:
        return (self._http.send(h11.Data(data=piece)) or b"") if piece else b""

    def _tell(self, said: bytes, pieces: Iterator[bytes]) -> Actions:
        """A piece, and the next when the client has taken it."""
        following = next(pieces, None)
        if following is not None:
            return (Send(said), Perform(_nothing, lambda _: self._tell(self._http_data(following), pieces)))
        said += self._http.send(h11.EndOfMessage()) or b""
        # The states after a whole exchange (RFC 9112 9.3): another one, or none.
        if self._stopping or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._over = True
            return (Send(said), Close())
        self._http.start_next_cycle()
        self._asked_for_head = False
        return (Send(said), *self._advance())

    def _refuse(self, status: int, reason: str) -> Actions:
        """Answer a request that is none, and end."""
        self._over = True
        self._coming = None
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return (Close(),)
        response = _plain(status, reason)
        self._stopping = True
        said = self._head(response) + self._http_data(b"" if self._asked_for_head else response.body)
        return (Send(said), Close())


def _listed(head: h11.Request, wanted: bytes) -> list[bytes]:
    """The members of a field that is a list, in upper case."""
    values = b",".join(value for name, value in head.headers if name == wanted)
    return [each.strip().upper() for each in values.split(b",")]


def _plain(status: int, text: str) -> Response:
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"),), text.encode() + b"\n")


def _again(head: h11.Request) -> bytes:
    """A request as it came, without what asks for the upgrade."""
    fields = b"".join(
        b"%s: %s\r\n" % (name, value) for name, value in head.headers if name not in (b"upgrade", b"connection")
    )
    return b"%s %s HTTP/%s\r\n%s\r\n" % (head.method, head.target, head.http_version, fields)


def _nothing() -> None:
    """What is waited for is only that the client reads."""
