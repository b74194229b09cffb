"""Explicit TLS (EXP): offered when it is on and not when it is off, and nothing from before it lives on inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conformance.check import NO_CHANNEL, Channel, Inconclusive, Latitude, Mismatch, NotAssessable, check
from conformance.dialects import NotServed, smtp
from conformance.dialects.dialect import Malformed
from conformance.handshake import at_the_hello
from conformance.hello import AES_256, SIGNAL, TLS1_0, TLS1_2, client_hello, in_clear
from conformance.visit import Door, Endpoint, Visit, expecting
from conformance.wire import Ended, Silent, Wire
from reference_server.settings import Service

Elsewhere = Callable[[str], Endpoint]

EXPLICIT = ("explicit_tls",)
#: How long a connection is listened to on which nothing at all should be said (seconds).
LISTENING = 0.5


def upgraded(endpoint: Endpoint, wire: Wire) -> Visit:
    """From a session in clear to one under TLS that serves."""
    explicit = endpoint.through(Channel.EXPLICIT)
    with expecting("an upgrade to TLS"):
        explicit.upgrade(wire)
        explicit.dialect.act(wire)
    return Visit(wire, explicit)


def require_refused(endpoint: Endpoint, wire: Wire, when: str) -> bytes:
    """Asking for TLS is refused, and the session goes on: the reply."""
    with expecting(f"{endpoint.dialect.tls_command.decode()} to be refused {when}, in a reply"):
        reply = endpoint.dialect.ask_tls(wire)
    if reply is None:
        raise Mismatch(f"{endpoint.dialect.tls_command.decode()} to be refused {when}", "it was agreed to")
    with expecting(f"the session to go on after {endpoint.dialect.tls_command.decode()} was refused {when}"):
        endpoint.dialect.probe(wire)
    return reply


def require_bad(endpoint: Endpoint, reply: bytes, when: str) -> None:
    """IMAP: BAD, and not NO, is the answer to a command that has no place there (RFC 9051 6.2.1)."""
    words = reply.upper().split()
    if endpoint.service is Service.IMAP and words[1:2] != [b"BAD"]:
        raise Mismatch(f"BAD in answer to STARTTLS {when}", reply.decode("utf-8", "backslashreplace").strip())


@check("EXP-01", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_explicit_tls_that_is_on_is_advertised(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    for door in plain.doors:
        with plain.visit(door) as visit, expecting("a list of capabilities"):
            if not plain.dialect.offers_tls(visit.wire):
                offered = ", ".join(sorted(plain.dialect.capabilities(visit.wire)))
                raise Mismatch(f"{plain.dialect.tls_command.decode()} among what port {door.port} offers", offered)


@check("EXP-02", scenario="clear_only", channels=NO_CHANNEL, also=("no_explicit_tls",))
def test_explicit_tls_that_is_off_is_neither_advertised_nor_accepted(endpoint: Endpoint, elsewhere: Elsewhere) -> None:
    """Without any TLS; and with implicit TLS, where the server has all that it would take."""
    require_no_upgrade(endpoint)
    if "implicit_tls" not in endpoint.declared.offers:
        return
    try:
        beside_implicit = elsewhere("no_explicit_tls")
    except NotAssessable as reason:
        endpoint.transcript.note(0, f"not tried beside implicit TLS: {reason}")
        return
    require_no_upgrade(beside_implicit)
    beside_implicit.through(Channel.IMPLICIT).visit().goodbye()


def require_no_upgrade(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    for door in plain.doors:
        with plain.visit(door) as visit:
            with expecting("a list of capabilities"):
                if plain.dialect.offers_tls(visit.wire):
                    raise Mismatch(f"no {plain.dialect.tls_command.decode()} among what is offered", "it is offered")
            require_refused(plain, visit.wire, "where explicit TLS is off")


@check("EXP-03", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_a_positive_reply_then_the_handshake_then_service(endpoint: Endpoint) -> None:
    explicit = endpoint.through(Channel.EXPLICIT)
    for door in explicit.doors:
        with explicit.visit(door) as visit:
            if not visit.is_alive():
                raise Mismatch("a session that was upgraded to go on", "it could no longer act")
            visit.goodbye()
    with at_the_hello(explicit) as wire, expecting("service for a client whose ClientHello comes in two segments"):
        wire.start_tls(explicit.context(), explicit.server_name, in_pieces=True)
        explicit.dialect.act(wire)
        explicit.dialect.goodbye(wire)


@check("EXP-04", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_nothing_pipelined_in_clear_behind_the_upgrade_is_executed(endpoint: Endpoint) -> None:
    """A whole request and half a one, each in the segment of the upgrade.

    Nothing may answer them in clear; and inside TLS the next reply must be that to the next command.
    """
    explicit = endpoint.through(Channel.EXPLICIT)
    stray = explicit.dialect.stray
    for door in explicit.doors:
        explicit.visit(door).goodbye()
        for behind in (stray, stray * 3, stray[:-3]):
            require_not_executed(explicit, door, behind)
        explicit.visit(door).goodbye()


def require_not_executed(explicit: Endpoint, door: Door, behind: bytes) -> None:
    dialect = explicit.dialect
    wire = explicit.through(Channel.PLAIN).visit(door).wire
    try:
        if dialect.ask_tls(wire, behind=behind) is not None:
            return  # refused for the sake of what came with it
        heard = wire.heard
    except (Ended, Silent, NotServed, Malformed):
        return
    try:
        wire.start_tls(explicit.context(), "localhost")
    except (Ended, Silent) as error:
        if answered := in_clear(bytes(wire.raw[heard:])):
            raise Mismatch(f"{behind!r} behind the upgrade not to be executed", f"in clear: {answered!r}") from None
        explicit.transcript.note(wire.number, f"what came in clear was taken for TLS: {error}")
        return
    with wire:
        try:
            dialect.act(wire)
            dialect.goodbye(wire)
        except (NotServed, Malformed) as answer:
            raise Mismatch(
                f"the next reply inside TLS to answer the next command, not {behind!r} that came in clear", str(answer)
            ) from None
        except Ended:
            return
        except Silent as error:
            raise Inconclusive(f"inside TLS the session does not answer: {error}") from None


@check("EXP-05", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_after_the_handshake_the_session_begins_afresh(endpoint: Endpoint) -> None:
    """EHLO name, transaction and login were before TLS, and are forgotten."""
    plain = endpoint.through(Channel.PLAIN)
    forgets_the_transaction(plain)
    forgets_the_login(plain)
    with upgrade_only(plain, plain.visit().wire) as wire, expecting("an answer to MAIL inside TLS"):
        code, reply = smtp.ask(wire, b"MAIL FROM:<sender@example.org>")
        if code < 400:
            raise Latitude(f"MAIL is taken without a new EHLO: {reply!r}")


def upgrade_only(plain: Endpoint, wire: Wire) -> Wire:
    """The upgrade and the handshake, and nothing said inside."""
    with expecting("an upgrade to TLS"):
        if (reply := plain.dialect.ask_tls(wire)) is not None:
            raise NotServed(reply)
        wire.start_tls(plain.context(), "localhost")
    return wire


def forgets_the_transaction(plain: Endpoint) -> None:
    with plain.visit().wire as wire:
        with expecting("MAIL and STARTTLS to be answered"):
            code, _ = smtp.ask(wire, b"MAIL FROM:<sender@example.org>")
            if code != 250 or plain.dialect.ask_tls(wire) is not None:
                return  # no mail without TLS, or no TLS within a transaction: there is none to be remembered
        recipient = b"RCPT TO:<" + plain.credentials.address.encode() + b">"
        with expecting("503 to RCPT inside TLS, after MAIL in clear"):
            wire.start_tls(plain.context(), "localhost")
            for command in (recipient, b"EHLO " + smtp.CLIENT_NAME, recipient):
                code, reply = smtp.ask(wire, command)
                if command is recipient and code < 400:
                    raise NotServed(reply)
            smtp.demand(wire, b"MAIL FROM:<sender@example.org>", 250)


def forgets_the_login(plain: Endpoint) -> None:
    visit = plain.visit()
    with visit.wire as wire:
        try:
            plain.dialect.login(wire, plain.credentials)
            if plain.dialect.ask_tls(wire) is not None:
                return  # not after a login: then there is none to be remembered
        except (NotServed, Ended):
            return
        with expecting("a session that nobody has signed in to"):
            wire.start_tls(plain.context(), "localhost")
            plain.dialect.act(wire)
            if plain.dialect.is_signed_in(wire, plain.credentials):
                raise Mismatch("the login to be forgotten with the rest", "inside TLS the client is still signed in")


@check("EXP-06", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_inside_tls_the_upgrade_is_not_advertised(endpoint: Endpoint) -> None:
    explicit = endpoint.through(Channel.EXPLICIT)
    for door in explicit.doors:
        with explicit.visit(door) as visit, expecting("a list of capabilities"):
            if explicit.dialect.offers_tls(visit.wire):
                raise Mismatch(f"no {explicit.dialect.tls_command.decode()} offered inside TLS", "it is offered")


@check("EXP-07", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_a_second_upgrade_is_rejected(endpoint: Endpoint) -> None:
    explicit = endpoint.through(Channel.EXPLICIT)
    for door in explicit.doors:
        with explicit.visit(door) as visit:
            require_bad(explicit, require_refused(explicit, visit.wire, "inside TLS"), "inside TLS")
            visit.goodbye()


@check("EXP-08", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_the_upgrade_is_possible_only_before_login(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    with plain.visit() as visit:
        try:
            plain.dialect.login(visit.wire, plain.credentials)
        except (NotServed, Ended) as refusal:
            raise NotAssessable(f"nobody can sign in in clear here: {refusal}") from None
        require_bad(plain, require_refused(plain, visit.wire, "after the login"), "after the login")
        if not plain.dialect.is_signed_in(visit.wire, plain.credentials):
            raise Mismatch("the login to be still there", "the client is no longer signed in")
        visit.goodbye()


@check("EXP-10", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_an_argument_is_rejected(endpoint: Endpoint) -> None:
    plain = endpoint.through(Channel.PLAIN)
    with plain.visit() as visit, expecting("an answer to STARTTLS with a space behind it"):
        reply = plain.dialect.ask_tls(visit.wire, b"STARTTLS ")
        if reply is None:
            visit.wire.start_tls(plain.context(), "localhost")
            plain.dialect.act(visit.wire)
    with plain.visit() as visit:
        with expecting("501 to STARTTLS with an argument"):
            reply = plain.dialect.ask_tls(visit.wire, b"STARTTLS now")
        if reply is None:
            raise Mismatch("501 to STARTTLS with an argument", "it was agreed to")
        upgraded(plain, visit.wire)
        if not reply.startswith(b"501"):
            raise Latitude(f"rejected, with another code: {reply!r}")


#: Ways for a client to make a handshake fail for good.
FAILURES = {
    "garbage": bytes(range(0x80, 0x100)) * 4,
    "a fatal alert": bytes.fromhex("15030300020228"),
    "a record that is no ClientHello": b"\x16\x03\x01\x00\x05hello",
    "an old version": client_hello(TLS1_0),
    "a fatal alert in the middle": client_hello(TLS1_2, (*AES_256, SIGNAL)) + bytes.fromhex("15030300020230"),
}


@check("EXP-11", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_no_failed_handshake_leads_back_to_clear(endpoint: Endpoint) -> None:
    """Whatever made it fail: no command in clear is answered in clear any more."""
    explicit = endpoint.through(Channel.EXPLICIT)
    stray = explicit.dialect.stray
    explicit.visit().goodbye()
    for failure, octets in {**FAILURES, "a command in clear": stray}.items():
        with at_the_hello(explicit) as wire:
            heard = wire.heard
            for piece in (octets, stray, stray):
                listen(wire, piece)
            if answered := in_clear(bytes(wire.raw[heard:])):
                raise Mismatch(f"nothing in clear after a handshake failed by {failure}", repr(answered[:200]))
    explicit.visit().goodbye()


def listen(wire: Wire, piece: bytes) -> None:
    """Send it as it is and read whatever comes, until nothing more does."""
    try:
        wire.send_raw(piece)
        while True:
            wire.receive(LISTENING)
    except (Ended, Silent):
        return


@check("EXP-12", scenario="own_certificate", channels=NO_CHANNEL, needs=("explicit_tls", "reload"))
def test_tls_that_cannot_be_had_is_not_agreed_to(endpoint: Endpoint) -> None:
    """The certificate is emptied, and taken away, at run time: TLS works all the same, or the answer is 454."""
    plain = endpoint.through(Channel.PLAIN)
    settings = plain.site.settings
    entry = settings["certificates"][plain.settings["certificate"]]
    files = {Path(entry[name]): Path(entry[name]).read_bytes() for name in ("chain", "key")}
    modes = {file: file.stat().st_mode for file in files}
    upgraded(plain, plain.visit().wire).goodbye()
    for spoil, how in ((lambda file: file.write_bytes(b""), "empty"), (Path.unlink, "missing")):
        for file in files:
            spoil(file)
        try:
            error = plain.site.reload(settings)
            plain.transcript.note(0, f"the files are {how}: {error or 'the settings are taken'}")
            with plain.visit() as visit, expecting("454 to STARTTLS without a certificate, or TLS that works"):
                require_454_or_tls(plain, visit.wire)
        finally:
            for file, content in files.items():
                file.write_bytes(content)
                file.chmod(modes[file])
            again = plain.site.reload(settings)
        if again is not None:
            raise Inconclusive(f"the server does not take its own certificate back: {again}")
    upgraded(plain, plain.visit().wire).goodbye()


def require_454_or_tls(plain: Endpoint, wire: Wire) -> None:
    """What is agreed to works; what is offered and cannot be had is refused with 454."""
    offered = plain.dialect.offers_tls(wire)
    reply = plain.dialect.ask_tls(wire)
    if reply is None:
        wire.start_tls(plain.context(), "localhost")
        plain.dialect.act(wire)
    elif offered and not reply.startswith(b"454"):
        raise NotServed(reply)


@check("EXP-21", scenario="general", channels=NO_CHANNEL, needs=EXPLICIT)
def test_the_command_is_taken_in_any_case_of_letters(endpoint: Endpoint) -> None:
    """On every plain port, and once a connection."""
    plain = endpoint.through(Channel.PLAIN)
    command = plain.dialect.tls_command
    for door in plain.doors:
        for spelling in (command.lower(), command.swapcase().title()):
            with plain.visit(door) as visit:
                with expecting(f"{spelling.decode()} to be taken for {command.decode()}"):
                    if (reply := plain.dialect.ask_tls(visit.wire, spelling)) is not None:
                        raise NotServed(reply)
                    visit.wire.start_tls(plain.context(), "localhost")
                    plain.dialect.act(visit.wire)
                with expecting(f"a second {spelling.decode()} to be answered"):
                    if plain.dialect.ask_tls(visit.wire, spelling) is None:
                        raise Mismatch("one upgrade a connection", "a second was agreed to")
