"""HTTP specifics (HTT): connections that are kept, requests that are pipelined, cookies; and passwords (EXP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotAssessable, NotOffered, check
from conformance.checks.test_explicit_tls_logins import accepts, require_refused_login, under_tls
from conformance.checks.test_http_endings import WEB
from conformance.checks.test_http_framing import statuses
from conformance.checks.test_limits import gives_way, require_full
from conformance.checks.test_refusals import FIRST_WORDS, surplus
from conformance.dialects import NotServed
from conformance.dialects.dialect import Malformed
from conformance.dialects.http import (
    LoginRequest,
    Response,
    basic_credentials,
    cookies,
    cookies_given,
    exchange,
    login_request,
    read_response,
    read_to_the_end,
    request,
    send_login,
)
from conformance.visit import Door, Endpoint, Form, Refusal, expecting
from conformance.watch import Seen
from conformance.wire import Ended, Silent

Observed = Callable[..., Seen]

# -- connections that are kept ---------------------------------------------------------------------------------------

#: Requests on each connection: together far more than there is room for connections.
REQUESTS = 6


@check("HTT-05", scenario="limited", watches=("after_command",))
def test_a_kept_connection_counts_once_and_is_idle_between_requests(observed: Observed, endpoint: Endpoint) -> None:
    visits = endpoint.fill()
    for number in range(REQUESTS):
        for visit in visits:
            if not visit.is_alive():
                raise Mismatch(
                    f"{len(visits)} connections to be served, however many requests they carry",
                    f"one of them got no answer to request number {number + 1} in a row",
                )
    require_full(endpoint, visits)
    # One that leaves makes room for one, whatever it has asked.
    visits.pop().goodbye()
    newcomer = endpoint.eventually()
    if isinstance(newcomer, Refusal):
        raise Mismatch("room for one when one of the kept connections has gone", str(newcomer))
    if not gives_way(endpoint):
        require_full(endpoint, [*visits, newcomer])
    observed("after_command").require_in_time()


# -- requests that are pipelined -------------------------------------------------------------------------------------

MIXED = (
    request(b"GET", b"/"),
    request(b"GET", b"/request-of-listenspec-that-leads-nowhere"),
    request(b"OPTIONS", b"*"),
    request(b"GET", b"/style-of-listenspec.css"),
)
#: The same again in other orders, so that no answer is right by chance; the last of them brings a password.
ORDER = (0, 1, 4, 2, 0, 4, 2, 1, 3, 0, 4, 1, 1, 0, 2)
SHOWN = b"<credentials>"


def mixed(endpoint: Endpoint) -> tuple[bytes, ...]:
    """Requests that are answered differently; where a header field signs people in, one of them has it."""
    credentials = endpoint.credentials
    if endpoint.declared.login.scheme != "basic":
        return MIXED
    field = b"Authorization: Basic " + basic_credentials(credentials)
    return (*MIXED, request(b"GET", credentials.how.path.encode(), field))


def _mark(response: Response) -> tuple[int, str, str]:
    """By what an answer is known, though a page may be another one each time."""
    return response.status, response.header("location"), response.header("content-type")


def _kept(endpoint: Endpoint, requests: Sequence[bytes]) -> dict[int, tuple[int, str, str]]:
    """By number, the answers to those requests behind which the connection is kept.  Raises Inconclusive."""
    secret, marks = basic_credentials(endpoint.credentials), dict[int, tuple[int, str, str]]()
    for number, octets in enumerate(requests):
        shown = octets.replace(secret, SHOWN)
        with endpoint.visit() as visit:
            try:
                visit.wire.send(octets, shown=shown)
                response = read_response(visit.wire)
            except (Ended, Silent, Malformed) as error:
                raise Inconclusive(f"{shown!r} is not answered: {error}") from None
        if not response.closes:
            marks[number] = _mark(response)
    return marks


@check("HTT-09", scenario="general")
def test_pipelined_requests_are_answered_in_their_order(endpoint: Endpoint) -> None:
    requests = mixed(endpoint)
    marks = _kept(endpoint, requests)
    if len({*marks.values()}) < 2:
        raise NotAssessable("whatever the suite asks for is answered alike, or for the last time")
    order = [number for number in ORDER if number in marks]
    expected = [marks[number] for number in order]
    octets = b"".join(requests[number] for number in order) + request(b"GET", b"/", b"Connection: close")
    with endpoint.visit() as visit:
        visit.wire.send(octets, shown=octets.replace(basic_credentials(endpoint.credentials), SHOWN))
        try:
            responses, ending = read_to_the_end(visit.wire)
        except (Silent, Malformed) as error:
            raise Mismatch(f"an answer to each of {len(order) + 1} requests", str(error)) from None
    answered = [_mark(response) for response in responses[: len(order)]]
    if answered != expected[: len(answered)]:
        raise Mismatch(
            f"answers in the order of the requests: {', '.join(str(mark[0]) for mark in expected)}", statuses(responses)
        )
    # After so many requests a server may have had enough, and says so.
    if len(responses) != len(order) + 1 and not (len(responses) <= len(order) and responses and responses[-1].closes):
        raise Mismatch(f"an answer to each of {len(order) + 1} requests", f"{len(responses)}, and then {ending}")


# -- passwords and cookies -------------------------------------------------------------------------------------------


@check("EXP-13", scenario="login_needs_tls", channels=NO_CHANNEL, services=WEB)
def test_no_password_is_taken_in_clear_in_a_request(endpoint: Endpoint) -> None:
    """By the form and by Basic; and by a form that was fetched under TLS, with its cookies, and sent in clear."""
    plain, secured = endpoint.through(Channel.PLAIN), under_tls(endpoint)
    for door in plain.doors:
        for name, login in plain.dialect.logins.items():
            require_refused_login(plain, door, name, login)
    for each in secured:
        if not any(accepts(each, login) for login in each.dialect.logins.values()):
            raise Mismatch(f"the right password to be taken inside TLS ({each.channel})", "no way of sending it is")
    if secured and endpoint.declared.login.scheme == "form":
        for door in plain.doors:
            require_no_way_around(plain, secured[0], door)


def require_no_way_around(plain: Endpoint, secured: Endpoint, door: Door) -> None:
    what = "a form that was fetched under TLS, sent in clear, to let nobody in"
    path = plain.credentials.how.path
    filled_in, jar = fetched(secured)
    with plain.visit(door) as visit:
        cookies(visit.wire).update(jar)
        try:
            if send_login(visit.wire, filled_in, path) is None:
                raise Mismatch(what, "it was accepted")
            if plain.dialect.is_signed_in(visit.wire, plain.credentials):
                raise Mismatch(what, "the answer says so, but the client is signed in")
        except (Ended, NotServed):
            pass
        except (Silent, Malformed) as answer:
            raise Mismatch(f"{what}, in an answer", str(answer)) from None
        jar = dict(cookies(visit.wire))
    with secured.visit() as visit, expecting("an answer under TLS to whoever tried in clear"):
        cookies(visit.wire).update(jar)
        if secured.dialect.is_signed_in(visit.wire, secured.credentials):
            raise Mismatch(what, "under TLS, the client is signed in by it")


def fetched(secured: Endpoint) -> tuple[LoginRequest, dict[str, str]]:
    """The form under TLS, filled in, and the cookies that came with it."""
    with secured.visit() as visit:
        try:
            return login_request(visit.wire, secured.credentials), dict(cookies(visit.wire))
        except NotServed as answer:
            raise Inconclusive(f"the form for signing in is not to be had under TLS: {answer}") from None


ATTRIBUTES = ("Secure", "HttpOnly", "SameSite")


@check("HTT-10", scenario="login_needs_tls", channels=NO_CHANNEL)
def test_passwords_and_cookies_stay_under_tls(endpoint: Endpoint) -> None:
    """The cookies that make up a login: their attributes under TLS, and that none of them is ever set in clear."""
    secured, plain = under_tls(endpoint), endpoint.through(Channel.PLAIN)
    if endpoint.declared.login.scheme != "form":
        raise NotOffered("nobody signs in by a form here, and there are no cookies of a login")
    names: set[str] = set()
    for each in secured:
        names |= require_attributes(each)
    for door in plain.doors:
        with plain.visit(door) as visit, expecting("pages in clear"):
            for path in ("/", endpoint.credentials.how.path):
                exchange(visit.wire, b"GET", path.encode())
            if set_in_clear := names & cookies_given(visit.wire).keys():
                raise Mismatch("no cookie of a login set in clear where logins need TLS", ", ".join(set_in_clear))


def require_attributes(secured: Endpoint) -> set[str]:
    """The names of the cookies without which nobody is signed in."""
    with secured.visit() as visit, expecting(f"a login under TLS ({secured.channel})"):
        wire = visit.wire
        filled_in = login_request(wire, secured.credentials)
        if filled_in.scheme == "http":
            raise Mismatch("a form under TLS that is sent under TLS", f"it is sent to http: {filled_in.target!r}")
        if (refusal := send_login(wire, filled_in, secured.credentials.how.path)) is not None:
            raise NotServed(refusal)
        given, jar = cookies_given(wire), dict(cookies(wire))
    names = {name for name in jar if not signed_in(secured, {key: jar[key] for key in jar if key != name})}
    if not names or not signed_in(secured, jar):
        raise Inconclusive(f"being signed in does not depend on a cookie ({', '.join(jar) or 'there is none'})")
    for name in names & given.keys():
        said = {each.partition("=")[0].strip().lower() for each in given[name].split(";")[1:]}
        if missing := [attribute for attribute in ATTRIBUTES if attribute.lower() not in said]:
            shown = "; ".join(part for part in [f"{name}=...", *given[name].split(";")[1:]])
            raise Mismatch(f"{', '.join(missing)} in the cookie of a login ({secured.channel})", shown)
    return names


def signed_in(secured: Endpoint, jar: dict[str, str]) -> bool:
    """Whether these cookies are a login."""
    with secured.visit() as visit, expecting("an answer to a client with cookies"):
        cookies(visit.wire).update(jar)
        return secured.dialect.is_signed_in(visit.wire, secured.credentials)


# -- clients that are one too many -----------------------------------------------------------------------------------


@check("LIM-26", scenario="limited", channels=FIRST_WORDS, services=WEB)
def test_http_refuses_with_503(endpoint: Endpoint) -> None:
    refusal = surplus(endpoint)
    if refusal.form is not Form.REPLY:
        raise Latitude(f"a surplus client is {refusal}")
    if refusal.detail[9:12] != "503":
        raise Latitude(f"a surplus client is answered {refusal.detail!r}")
