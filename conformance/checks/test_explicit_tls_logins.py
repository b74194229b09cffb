"""Explicit TLS (EXP) and passwords: none is taken in clear where TLS is required for them, in whatever way it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotOffered, check
from conformance.checks.test_explicit_tls import EXPLICIT, upgrade_only, upgraded
from conformance.dialects import NotServed, imap, pop3, smtp
from conformance.dialects.dialect import Login, Malformed
from conformance.visit import Door, Endpoint, expecting
from conformance.wire import Ended, Silent, Wire
from reference_server.settings import Service


def under_tls(endpoint: Endpoint) -> list[Endpoint]:
    """The same service through every channel with TLS."""
    return [endpoint.through(channel) for channel in endpoint.channels if channel is not Channel.PLAIN]


@check(
    "EXP-13",
    scenario="login_needs_tls",
    channels=NO_CHANNEL,
    services=(Service.SMTP, Service.POP3, Service.IMAP, Service.LDAP),
)
def test_no_password_is_taken_in_clear(endpoint: Endpoint) -> None:
    """Every way to send the right password is refused on every plain port; inside TLS some way is accepted."""
    plain = endpoint.through(Channel.PLAIN)
    for door in plain.doors:
        for name, login in plain.dialect.logins.items():
            require_refused_login(plain, door, name, login)
    for secured in under_tls(endpoint):
        if not any(accepts(secured, login) for login in secured.dialect.logins.values()):
            raise Mismatch(f"the right password to be taken inside TLS ({secured.channel})", "no way of sending it is")


def require_refused_login(plain: Endpoint, door: Door, name: str, login: Login) -> None:
    expected = f"{name} with the right password to be refused in clear"
    with plain.visit(door) as visit:
        try:
            refusal = login(visit.wire, plain.credentials)
            if refusal is None:
                raise Mismatch(expected, "it was accepted")
            # 503 tells of a session that is signed in (RFC 4954 4), but not where it was the first answer already:
            # that is how a server says that there is no AUTH here.
            signed_in = not refusal.startswith(b"503") and plain.dialect.is_signed_in(visit.wire, plain.credentials)
        except Ended:
            return
        except (Silent, NotServed, Malformed) as answer:
            raise Mismatch(f"{expected}, in a reply", str(answer)) from None
        if signed_in:
            raise Mismatch(expected, "the reply says so, but the client is signed in")


def accepts(endpoint: Endpoint, login: Login) -> bool:
    """Whether the way of signing in works there."""
    with endpoint.visit() as visit:
        try:
            accepted = login(visit.wire, endpoint.credentials) is None
        except (Ended, NotServed, Malformed):
            return False
        # In good order: until then, nobody else can have a maildrop (RFC 1939 4).
        visit.goodbye()
        return accepted


@check("EXP-14", scenario="login_needs_tls", channels=NO_CHANNEL)
def test_no_login_is_advertised_in_clear(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    for door in plain.doors:
        with plain.visit(door) as visit, expecting("a list of capabilities"):
            if offered := plain.dialect.offered_logins(visit.wire):
                raise Mismatch("no way to send a password advertised in clear", ", ".join(sorted(offered)))
    for secured in under_tls(endpoint):
        for door in secured.doors:
            with secured.visit(door) as visit, expecting("a list of capabilities"):
                if not secured.dialect.offered_logins(visit.wire):
                    offers = ", ".join(sorted(secured.dialect.capabilities(visit.wire)))
                    raise Mismatch(f"a way to sign in advertised inside TLS ({secured.channel})", offers)


@check("EXP-15", scenario="login_needs_tls", channels=NO_CHANNEL, needs=EXPLICIT)
def test_what_works_without_tls_and_what_is_answered_with_530(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    with plain.visit() as visit, expecting("EHLO, NOOP and STARTTLS to work before TLS"):
        smtp.demand(visit.wire, b"NOOP", 250)
        smtp.demand(visit.wire, b"EHLO " + smtp.CLIENT_NAME, 250)
        upgraded(plain, visit.wire)
    with plain.visit() as visit:
        with expecting("an answer to MAIL before TLS"):
            code, reply = smtp.ask(visit.wire, b"MAIL FROM:<sender@example.org>")
        with expecting("QUIT to work before TLS"):
            smtp.demand(visit.wire, b"QUIT", 221)
    # Where TLS is required for passwords alone, MAIL may be taken, as it must be from other servers.
    if code not in (250, 530):
        raise Latitude(f"before TLS, MAIL is answered with {reply!r}")


@check("EXP-16", scenario="login_needs_tls", channels=NO_CHANNEL)
def test_mail_for_here_is_taken_without_tls(endpoint: Endpoint) -> None:
    """Where the world sends its mail, whatever logins need."""
    if endpoint.declared.login.role != "mx":
        raise NotOffered("it is declared to take mail from those who have signed in only")
    plain = endpoint.through(Channel.PLAIN)
    for door in plain.doors:
        with plain.visit(door) as visit, expecting("a recipient who is here to be accepted before TLS"):
            smtp.demand(visit.wire, b"MAIL FROM:<sender@example.org>", 250)
            smtp.demand(visit.wire, b"RCPT TO:<" + plain.credentials.address.encode() + b">", 250)
            smtp.demand(visit.wire, b"RSET", 250)
            visit.goodbye()


def _user(wire: Wire, endpoint: Endpoint) -> None:
    pop3.ask(wire, b"USER " + endpoint.credentials.login.encode())


def _password(wire: Wire, endpoint: Endpoint) -> None:
    with contextlib.suppress(NotServed):
        pop3.ask(wire, b"PASS " + endpoint.credentials.password.encode(), shown=b"PASS <password>")


def _half_sasl_of_pop3(wire: Wire, endpoint: Endpoint) -> None:
    del endpoint
    wire.send(b"AUTH PLAIN\r\n")
    if wire.read_line().startswith(b"+"):
        wire.send(b"*\r\n")
        wire.read_line()


def _half_sasl_of_imap(wire: Wire, endpoint: Endpoint) -> None:
    del endpoint
    wire.send(imap.new_tag() + b" AUTHENTICATE PLAIN\r\n")
    if imap.read_response(wire).startswith(b"+"):
        wire.send(b"*\r\n")
        imap.read_response(wire)


def _nothing(wire: Wire, endpoint: Endpoint) -> None:
    del wire, endpoint


HalfLogin = Callable[[Wire, Endpoint], None]
#: What is said in clear, and what inside TLS.
HALF_LOGINS: dict[Service, tuple[tuple[HalfLogin, HalfLogin], ...]] = {
    Service.POP3: ((_user, _password), (_half_sasl_of_pop3, _nothing)),
    Service.IMAP: ((_half_sasl_of_imap, _nothing),),
}


@check("EXP-17", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_nothing_said_before_tls_is_remembered(endpoint: Endpoint) -> None:
    """A user name, or half an authentication exchange, then the upgrade, then the rest: nobody is signed in."""
    plain = endpoint.through(Channel.PLAIN)
    dialect = plain.dialect
    for before, inside in HALF_LOGINS[plain.service]:
        with plain.visit() as visit:
            wire = visit.wire
            try:
                before(wire, plain)
            except (Ended, Silent, NotServed, Malformed) as error:
                raise Inconclusive(f"no half login in clear: {error}") from None
            upgrade_only(plain, wire)
            with expecting("commands inside TLS to be answered"):
                inside(wire, plain)
                signed_in = dialect.is_signed_in(wire, plain.credentials)
            if signed_in:
                raise Mismatch("what was said before TLS to be forgotten", "the client is signed in with it")
            with expecting("a whole login inside TLS to be accepted"):
                dialect.login(wire, plain.credentials)
            visit.goodbye()
