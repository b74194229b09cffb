"""HTTP/1.1 as the suite speaks it to webmail and remote administration (RFC 9110, RFC 9112).

Owns: requests and responses on one persistent connection, the upgrade to TLS in place (RFC 2817), and signing in by a
form or by Basic authentication.  Knows nothing of the reference server's parser, nor of any page but the one where
people sign in.

HTTP knows neither a greeting nor a session.  The first answer of a connection stands for the one; for the other, what
a connection has been given in cookies is kept with it, and every request there brings it along.
"""

from __future__ import annotations

import base64
import contextlib
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from conformance.dialects.dialect import Credentials, Login, Malformed, NotServed, Stage
from conformance.dialects.html_form import login_form
from conformance.wire import PATIENCE, Ended, Ending, Wire
from reference_server.settings import Service

HOST = b"Host: localhost\r\n"
#: Statuses that refuse a client rather than its request.
REFUSALS = frozenset({403, 408, 421, 429, 503})
#: Octets of one line, and of one content, that are believed.
LONGEST_LINE = 1 << 16
LONGEST_BODY = 1 << 24
MUCH = 1000
_POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
CUT_BODY = _POST + b"Content-Length: 1000\r\n\r\nbegun"
CUT_CHUNKS = _POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n3e8\r\nand"


@dataclass(frozen=True, slots=True)
class Response:
    """One response.  Names of ``headers`` are in lower case."""

    line: bytes
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """All values of that name, as one list (RFC 9110 5.3)."""
        return ", ".join(value for each, value in self.headers if each == name)

    def lists(self, name: str, token: str) -> bool:
        """Whether ``token`` is in the list that ``name`` gives, whatever its case."""
        return token.lower() in (each.strip().lower() for each in self.header(name).split(","))

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends behind it (RFC 9112 9.6)."""
        return self.lists("connection", "close") or (
            self.line.startswith(b"HTTP/1.0") and not self.lists("connection", "keep-alive")
        )


@dataclass(slots=True)
class _Connection:
    """What belongs to one connection: cookies, and whether an answer is still owed that was asked for in clear.

    ``given`` has the whole fields by which the cookies were set.
    """

    cookies: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    owed: bool = False


_connections: weakref.WeakKeyDictionary[Wire, _Connection] = weakref.WeakKeyDictionary()


def _of(wire: Wire) -> _Connection:
    return _connections.setdefault(wire, _Connection())


def cookies_given(wire: Wire) -> dict[str, str]:
    """What has been set on this connection: by the cookie's name, the whole of the last field that set it."""
    return dict(_of(wire).given)


def cookies(wire: Wire) -> dict[str, str]:
    """What comes with every request of this connection, to be read and changed."""
    return _of(wire).cookies


def cookie_fields(wire: Wire) -> tuple[bytes, ...]:
    """The field by which that is sent, without its line end; none where there is no cookie."""
    jar = "; ".join(f"{name}={value}" for name, value in cookies(wire).items())
    return (b"Cookie: " + jar.encode("latin-1"),) if jar else ()


# -- one exchange ----------------------------------------------------------------------------------------------------


def request(method: bytes, target: bytes, *fields: bytes, body: bytes | None = None) -> bytes:
    """The octets of a request; ``fields`` without their line ends."""
    lines = b"".join(each + b"\r\n" for each in fields)
    if body is not None:
        lines += b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\n%s%s\r\n%s" % (method, target, HOST, lines, body or b"")


def read_response(wire: Wire, patience: float = PATIENCE, *, of_head: bool = False) -> Response:
    """The next response that is a final one, or 101.  ``of_head``: it answers HEAD, and has no content.

    Raises :class:`Malformed` for what is no response.
    """
    deadline = time.monotonic() + patience
    while True:
        response = _read_one(wire, deadline, of_head)
        if response.status >= 200 or response.status == 101:
            return response


def read_to_the_end(wire: Wire, patience: float = PATIENCE) -> tuple[list[Response], Ending]:
    """All responses, none of them to HEAD, until the server ends the connection, and how it does.

    A response that is cut off is not among them.  Raises ``Silent`` when the connection is still open after
    ``patience`` seconds, :class:`Malformed` for what is no response.
    """
    deadline = time.monotonic() + patience
    responses: list[Response] = []
    while True:
        try:
            responses.append(read_response(wire, _left(deadline)))
        except Ended as end:
            return responses, end.ending


def _read_one(wire: Wire, deadline: float, of_head: bool) -> Response:
    line = _line(wire, deadline, "a status line")
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        raise Malformed(f"not a status line of HTTP/1.1: {line[:200]!r}")
    status = int(words[1])
    headers: list[tuple[str, str]] = []
    while (field_line := _line(wire, deadline, "a header field")) != b"":
        name, colon, value = field_line.partition(b":")
        if not colon or name != name.strip():
            raise Malformed(f"not a header field: {field_line[:200]!r}")
        headers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
    bare = Response(line, status, tuple(headers), b"")
    if of_head or status < 200 or status in (204, 304):
        return bare
    return Response(line, status, bare.headers, _body(wire, bare, deadline))


def _body(wire: Wire, response: Response, deadline: float) -> bytes:
    if response.lists("transfer-encoding", "chunked"):
        return _chunks(wire, deadline)
    length = response.header("content-length")
    if length.isdigit() and int(length) <= LONGEST_BODY:
        return _exactly(wire, int(length), deadline)
    if length:
        raise Malformed(f"not a length: {length!r}")
    # RFC 9112 6.3: whatever comes until the connection ends.
    body = bytearray()
    with contextlib.suppress(Ended):
        while len(body) < LONGEST_BODY:
            body += wire.receive(_left(deadline), "the end of a response")
    return bytes(body)


def _chunks(wire: Wire, deadline: float) -> bytes:
    body = bytearray()
    while True:
        size = _line(wire, deadline, "the size of a chunk").partition(b";")[0].strip()
        try:
            octets = int(size, 16)
        except ValueError:
            raise Malformed(f"not the size of a chunk: {size[:40]!r}") from None
        if octets == 0:
            break
        if len(body) + octets > LONGEST_BODY:
            raise Malformed("a content of more than 16 MiB")
        body += _exactly(wire, octets, deadline)
        if _line(wire, deadline, "the end of a chunk"):
            raise Malformed("a chunk that is longer than it says")
    while _line(wire, deadline, "a trailer field"):
        pass
    return bytes(body)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _line(wire: Wire, deadline: float, expected: str) -> bytes:
    line = wire.read_line(_left(deadline), expected)
    if len(line) > LONGEST_LINE:
        raise Malformed("a line of more than 64 KiB")
    return line.rstrip(b"\r\n")


def _exactly(wire: Wire, count: int, deadline: float) -> bytes:
    octets = bytearray()
    while len(octets) < count:
        octets += wire.receive(_left(deadline), "the rest of a response")
    wire.unread(bytes(octets[count:]))
    return bytes(octets[:count])


def exchange(
    wire: Wire,
    method: bytes,
    target: bytes,
    *fields: bytes,
    body: bytes | None = None,
    patience: float = PATIENCE,
    hides: tuple[bytes, ...] = (),
) -> Response:
    """One request with the connection's cookies, and its response.

    Raises :class:`Malformed` where more comes than was asked for: it would be taken for the next answer.
    """
    octets = request(method, target, *fields, *cookie_fields(wire), body=body)
    shown = octets
    for secret in hides:
        shown = shown.replace(secret, b"<credentials>")
    wire.send(octets, shown=shown)
    _settle(wire, patience)
    response = read_response(wire, patience, of_head=method == b"HEAD")
    # Who is turned away hears so before anything is asked, with a content even where HEAD has none.
    if (surplus := wire.pending) and response.status not in REFUSALS:
        raise Malformed(f"an answer that nobody has asked for: {surplus[:200]!r}")
    keep_cookies(wire, response)
    return response


def keep_cookies(wire: Wire, response: Response) -> None:
    """From now on they come with every request of this connection."""
    connection = _of(wire)
    for name, value in response.headers:
        if name == "set-cookie":
            key, _, cookie = value.partition(";")[0].partition("=")
            connection.cookies[key.strip()] = cookie.strip()
            connection.given[key.strip()] = value


def _settle(wire: Wire, patience: float) -> None:
    """RFC 2817 3.3: the first answer under TLS is to the request that asked for it."""
    connection = _of(wire)
    if connection.owed and wire.secure:
        connection.owed = False
        read_response(wire, patience)


_BEGUN, _REST = b"HEAD / HT", b"TP/1.1\r\n" + HOST + b"\r\n"


def finish(wire: Wire) -> Response:
    """The rest of a request that was begun (:meth:`HTTP.begin`), and its response."""
    wire.send(_REST)
    return read_response(wire, of_head=True)


# -- signing in ------------------------------------------------------------------------------------------------------


FORM_TYPE = b"Content-Type: application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What a browser sends when somebody has filled in the form: where to, and the content."""

    target: bytes
    content: bytes
    scheme: str


def login_request(wire: Wire, credentials: Credentials) -> LoginRequest:
    """The form on the page where the target says that people sign in, filled in.

    Raises :class:`NotServed` where there is none.
    """
    path = credentials.how.path
    page = exchange(wire, b"GET", path.encode())
    form = login_form(page.body) if page.status == 200 else None
    if form is None or form.method != "post":
        raise NotServed(page.line)
    there = urlsplit(urljoin(path, form.action))
    return LoginRequest(there.path.encode(), form.filled_in(credentials.login, credentials.password), there.scheme)


def send_login(wire: Wire, filled_in: LoginRequest, path: str) -> bytes | None:
    """Send it: None when it lets the client in, else the line of the answer."""
    content = filled_in.content
    answer = exchange(wire, b"POST", filled_in.target, FORM_TYPE, body=content, hides=(content,))
    return None if _lets_in(answer, path) else answer.line


def _form(wire: Wire, credentials: Credentials) -> bytes | None:
    """By the form on the page where the target says that people sign in."""
    try:
        filled_in = login_request(wire, credentials)
    except NotServed as refusal:
        return refusal.reply
    return send_login(wire, filled_in, credentials.how.path)


def basic_credentials(credentials: Credentials) -> bytes:
    """What stands behind ``Basic`` in a field (RFC 7617 2)."""
    return base64.b64encode(f"{credentials.login}:{credentials.password}".encode())


def _basic(wire: Wire, credentials: Credentials) -> bytes | None:
    """By a header field (RFC 7617), on the page that the target says."""
    path = credentials.how.path
    secret = basic_credentials(credentials)
    answer = exchange(wire, b"GET", path.encode(), b"Authorization: Basic " + secret, hides=(secret,))
    return None if _lets_in(answer, path) else answer.line


def _lets_in(response: Response, path: str) -> bool:
    """Whether this is what somebody sees who has been let in: no error, and not the page for signing in again."""
    if 300 <= response.status < 400:
        there = urlsplit(urljoin(path, response.header("location")))
        # To the same place under TLS is no way in, either.
        return there.path != path and there.scheme != "https"
    return 200 <= response.status < 300 and login_form(response.body) is None


# -- stages ----------------------------------------------------------------------------------------------------------


def _answered(wire: Wire, credentials: Credentials) -> None:
    del credentials
    exchange(wire, b"HEAD", b"/")


def _signed_in(wire: Wire, credentials: Credentials) -> None:
    HTTP(Service.WEBMAIL).login(wire, credentials)


def _in_body(wire: Wire, credentials: Credentials) -> None:
    del credentials
    wire.send(CUT_BODY)


def _in_chunks(wire: Wire, credentials: Credentials) -> None:
    del credentials
    wire.send(CUT_CHUNKS)


class HTTP:
    """The dialect of a service that is reached by HTTP."""

    stages: Mapping[str, Stage] = {
        "after_command": Stage("after a response", "before_login", _answered),
        "after_login": Stage("signed in", "after_login", _signed_in),
        "in_body": Stage("in the content of a request", "before_login", _in_body),
        "in_chunks": Stage("in a chunk of a request's content", "before_login", _in_chunks),
    }
    tls_command = b"Upgrade: TLS/1.2"
    stray = request(b"GET", b"/stray-request-of-listenspec")
    turned_down = b"HTTP/1.1 400 "
    logins: Mapping[str, Login] = {"a form": _form, "Basic authentication": _basic}

    greets = False

    def __init__(self, service: Service) -> None:
        self.service = service

    def greeting(self, wire: Wire, patience: float) -> bytes:
        return self._served(wire, patience).line

    def sentences(self, said: bytes) -> list[bytes]:
        return [b"HTTP/1." + response for response in said.split(b"HTTP/1.")[1:]]

    def act(self, wire: Wire) -> None:
        self._served(wire, PATIENCE)

    def _served(self, wire: Wire, patience: float) -> Response:
        response = exchange(wire, b"HEAD", b"/", patience=patience)
        if response.status in REFUSALS:
            raise NotServed(response.line)
        return response

    def capabilities(self, wire: Wire) -> frozenset[str]:
        answer = exchange(wire, b"OPTIONS", b"/")
        offered = {f"UPGRADE {each.strip().upper()}" for each in answer.header("upgrade").split(",") if each.strip()}
        allowed = {f"ALLOW {each.strip().upper()}" for each in answer.header("allow").split(",") if each.strip()}
        return frozenset(offered | allowed | {f"STATUS {answer.status}"})

    def offers_tls(self, wire: Wire) -> bool:
        return any(each.startswith("UPGRADE TLS/") for each in self.capabilities(wire))

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        wire.send(request(b"OPTIONS", b"/", spelling or self.tls_command, b"Connection: Upgrade") + behind)
        answer = read_response(wire)
        if answer.status != 101:
            return answer.line
        if not answer.header("upgrade").upper().startswith("TLS/"):
            raise Malformed(f"101 that names no version of TLS in Upgrade: {answer.header('upgrade')!r}")
        _of(wire).owed = True
        return None

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        front = exchange(wire, b"GET", b"/")
        if front.status == 401 and front.header("www-authenticate").lower().startswith("basic"):
            return frozenset({"Basic authentication"})
        if 300 <= front.status < 400:
            front = exchange(wire, b"GET", urlsplit(urljoin("/", front.header("location"))).path.encode())
        return frozenset({"a form"} if login_form(front.body) is not None else ())

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        path = credentials.how.path
        return _lets_in(exchange(wire, b"GET", path.encode()), path)

    def probe(self, wire: Wire) -> None:
        self._served(wire, PATIENCE)

    def begin(self, wire: Wire) -> None:
        wire.send(_BEGUN)

    def login(self, wire: Wire, credentials: Credentials) -> None:
        way = _basic if credentials.how.scheme == "basic" else _form
        if (reply := way(wire, credentials)) is not None:
            raise NotServed(reply)

    def goodbye(self, wire: Wire) -> None:
        exchange(wire, b"HEAD", b"/", b"Connection: close")

    def is_farewell(self, said: bytes) -> bool:
        return said.startswith(b"HTTP/1.1 408")

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        del wire
        return request(b"GET", credentials.how.path.encode()) * MUCH
