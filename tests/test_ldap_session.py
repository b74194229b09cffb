"""LDAP dialogues, as RFC 4511 has them.  What is expected is written down with the same words as what is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reference_server.accounts import Account
from reference_server.protocols import ber, ldap
from reference_server.protocols import ldap_messages as messages
from reference_server.protocols.ber import Content, ElementReader, Tag
from reference_server.protocols.ldap import LdapSession
from reference_server.protocols.ldap_messages import Answer, Result
from reference_server.session import Policy, Refusal, Security
from tests.dialogue import TLS, Conversation
from tests.memory_store import ALICE, BOB, MemoryStore

OPEN = Policy("mail.example.test")
OFFERS = Policy("mail.example.test", offers_tls=True)
REQUIRES = Policy("mail.example.test", offers_tls=True, login_needs_tls=True)

NAME = "uid=alice,ou=people,o=mail"
PRESENT = ber.octets("objectClass", 0x87)


def bind(number: int = 1, name: str = "", password: str = "", version: int = 3) -> bytes:
    parts = (ber.integer(version), ber.octets(name), ber.octets(password, 0x80))
    return messages.message(number, ber.sequence(parts, 0x60))


def search(
    number: int = 1,
    base: str = "o=mail",
    scope: int = 2,
    filter_: bytes = PRESENT,
    *attributes: str,
    size: int = 0,
    seconds: int = 0,
    types_only: bool = False,
) -> bytes:
    parts = (
        ber.octets(base), ber.integer(scope, Tag.ENUMERATED), ber.integer(0, Tag.ENUMERATED), ber.integer(size),
        ber.integer(seconds), ber.boolean(types_only), filter_, ber.sequence(map(ber.octets, attributes)),
    )  # fmt: skip
    return messages.message(number, ber.sequence(parts, 0x63))


def compare(number: int, name: str, attribute: str, value: str) -> bytes:
    assertion = ber.sequence((ber.octets(attribute), ber.octets(value)))
    return messages.message(number, ber.sequence((ber.octets(name), assertion), 0x6E))


def extended(number: int, name: str, value: bytes | None = None) -> bytes:
    parts = [ber.octets(name, 0x80), *([] if value is None else [ber.octets(value, 0x81)])]
    return messages.message(number, ber.sequence(parts, 0x77))


def unbind(number: int = 9) -> bytes:
    return messages.message(number, b"\x42\x00")


def is_equal(attribute: str, value: str) -> bytes:
    return ber.sequence((ber.octets(attribute), ber.octets(value)), 0xA3)


def begun(policy: Policy = OPEN, *, security: Security | None = None, store: MemoryStore | None = None) -> Conversation:
    conversation = Conversation(LdapSession(policy, store or MemoryStore(), lambda: 0.0), security=security)
    conversation.begin()
    assert conversation.sent == b""  # LDAP has no greeting
    return conversation


def said(conversation: Conversation) -> list[tuple[int, int, bytes]]:
    """What the server has said since this was last asked: number, tag and content of each message."""
    sent = b"".join(each for each in conversation.taken() if isinstance(each, bytes))
    reader = ElementReader(1 << 20)
    reader.feed(sent)
    found = []
    while (octets := reader.element()) is not None:
        content = Content(octets)
        number = content.integer()
        found.append((number, *content.element()))
    assert not reader.pending
    return found


def result_of(answer: tuple[int, int, bytes]) -> tuple[int, Answer, Result]:
    number, tag, content = answer
    return number, Answer(tag), Result(Content(content).integer(Tag.ENUMERATED))


def names_of(answers: list[tuple[int, int, bytes]]) -> list[str]:
    return [Content(content).text() for _, tag, content in answers if tag == 0x64]


def attributes_of(answer: tuple[int, int, bytes]) -> dict[str, list[str]]:
    content = Content(answer[2])
    content.text()
    listed = content.inside()
    found: dict[str, list[str]] = {}
    while not listed.at_end:
        one = listed.inside()
        name, values = one.text(), one.inside(Tag.SET)
        found[name] = []
        while not values.at_end:
            found[name].append(values.text())
    return found


def ask(conversation: Conversation, *requests: bytes) -> list[tuple[int, int, bytes]]:
    conversation.feed([b"".join(requests)])
    return said(conversation)


# -- binding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [
        ("", "", Result.SUCCESS),
        (NAME, "ecila", Result.SUCCESS),
        ("UID = Alice , OU=People,O=Mail", "ecila", Result.SUCCESS),
        (NAME, "wrong", Result.INVALID_CREDENTIALS),
        ("uid=nobody,ou=people,o=mail", "ecila", Result.INVALID_CREDENTIALS),
        ("cn=alice,ou=people,o=mail", "ecila", Result.INVALID_CREDENTIALS),
        ("", "ecila", Result.INVALID_CREDENTIALS),
        ("alice", "ecila", Result.INVALID_DN_SYNTAX),
        (NAME, "", Result.UNWILLING_TO_PERFORM),  # RFC 4513 5.1.2
    ],
)
def test_who_may_bind(name: str, password: str, code: Result) -> None:
    (answer,) = ask(begun(), bind(7, name, password))
    assert result_of(answer) == (7, Answer.BIND, code)


def test_whoever_fails_to_bind_is_nobody() -> None:
    client = begun()
    ask(client, bind(1, NAME, "ecila"))
    assert identity(client) == b"u:alice"
    ask(client, bind(3, NAME, "wrong"))
    assert identity(client) == b""


def identity(client: Conversation) -> bytes:
    ((_, tag, octets),) = ask(client, extended(99, messages.WHO_AM_I))
    assert tag == Answer.EXTENDED
    content = Content(octets)
    assert content.integer(Tag.ENUMERATED) == 0
    content.text(), content.text()
    return content.octets(0x8B)


def test_other_versions_and_methods_are_not_spoken() -> None:
    client = begun()
    assert result_of(ask(client, bind(1, version=2))[0]) == (1, Answer.BIND, Result.PROTOCOL_ERROR)
    sasl = ber.sequence((ber.integer(3), ber.octets(""), ber.sequence((ber.octets("PLAIN"),), 0xA3)), 0x60)
    assert result_of(ask(client, messages.message(2, sasl))[0])[2] is Result.AUTH_METHOD_NOT_SUPPORTED


@pytest.mark.parametrize("password", ["ecila", "wrong"])
def test_where_logins_need_tls_no_password_is_looked_at_in_clear(password: str) -> None:
    assert result_of(ask(begun(REQUIRES), bind(1, NAME, password))[0])[2] is Result.CONFIDENTIALITY_REQUIRED


def test_under_tls_a_login_that_needs_it_succeeds() -> None:
    assert result_of(ask(begun(REQUIRES, security=TLS), bind(1, NAME, "ecila"))[0])[2] is Result.SUCCESS


def test_too_many_wrong_passwords_end_the_session() -> None:
    client = begun()
    answers = ask(client, *(bind(number, NAME, "wrong") for number in range(1, 9)))
    assert [result_of(each)[2] for each in answers[:-1]] == [Result.INVALID_CREDENTIALS] * ldap.MAX_FAILED_BINDS
    assert is_notice(answers[-1], Result.UNAVAILABLE)
    assert client.closed


# -- looking up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "scope", "names"),
    [
        ("o=mail", 0, ["o=mail"]),
        ("o=mail", 1, ["ou=people,o=mail"]),
        ("o=mail", 2, ["o=mail", "ou=people,o=mail", NAME, "uid=bob,ou=people,o=mail"]),
        ("ou=people,o=mail", 1, [NAME, "uid=bob,ou=people,o=mail"]),
        ("ou=people,o=mail", 2, ["ou=people,o=mail", NAME, "uid=bob,ou=people,o=mail"]),
        (NAME, 0, [NAME]),
        (NAME, 1, []),
        (NAME, 2, [NAME]),
        ("", 2, ["o=mail", "ou=people,o=mail", NAME, "uid=bob,ou=people,o=mail"]),
    ],
)
def test_scopes(base: str, scope: int, names: list[str]) -> None:
    answers = ask(begun(store=MemoryStore(BOB, ALICE)), search(4, base, scope))
    assert names_of(answers) == names
    assert result_of(answers[-1]) == (4, Answer.SEARCH_DONE, Result.SUCCESS)


def test_a_base_that_does_not_exist_and_what_is_nearest() -> None:
    (answer,) = ask(begun(), search(1, "uid=nobody,ou=people,o=mail"))
    assert result_of(answer)[2] is Result.NO_SUCH_OBJECT
    content = Content(answer[2])
    content.element()
    assert content.text() == "ou=people,o=mail"


def test_attributes_are_chosen() -> None:
    client = begun()
    entry = {
        "objectClass": ["top", "person", "organizationalPerson", "inetOrgPerson"],
        "uid": ["alice"], "cn": ["Alice"], "sn": ["Alice"], "displayName": ["Alice"], "mail": ["alice@example.test"],
    }  # fmt: skip
    for asked, found in (
        ((), entry),
        (("*",), entry),
        (("CN", "mail", "shoesize"), {"cn": ["Alice"], "mail": ["alice@example.test"]}),
        (("1.1",), {}),
        (("+",), {"entryDN": [NAME]}),
        (("commonName", "2.5.4.4"), {"cn": ["Alice"], "sn": ["Alice"]}),
    ):
        assert attributes_of(ask(client, search(1, NAME, 0, PRESENT, *asked))[0]) == found
    assert attributes_of(ask(client, search(1, NAME, 0, PRESENT, "cn", types_only=True))[0]) == {"cn": []}


def test_a_search_brings_as_many_as_the_client_wants_and_says_that_there_are_more() -> None:
    answers = ask(begun(), search(1, "ou=people,o=mail", 1, PRESENT, size=2))
    assert len(names_of(answers)) == 2
    assert result_of(answers[-1])[2] is Result.SIZE_LIMIT_EXCEEDED
    answers = ask(begun(), search(1, "ou=people,o=mail", 1, PRESENT, size=4))
    assert len(names_of(answers)) == 4
    assert result_of(answers[-1])[2] is Result.SUCCESS


def test_a_search_brings_no_more_than_the_server_wants() -> None:
    crowd = [Account(f"user{number:04}", f"user{number}@example.test") for number in range(ldap.MAX_ENTRIES + 5)]
    answers = ask(begun(store=MemoryStore(*crowd)), search(1, "ou=people,o=mail", 1, PRESENT, "1.1"))
    assert len(names_of(answers)) == ldap.MAX_ENTRIES
    assert result_of(answers[-1])[2] is Result.SIZE_LIMIT_EXCEEDED


def test_a_search_takes_no_longer_than_the_client_wants() -> None:
    seconds = iter(range(100))
    session = LdapSession(OPEN, MemoryStore(), lambda: float(next(seconds)))
    client = Conversation(session)
    client.begin()
    answers = ask(client, search(1, "ou=people,o=mail", 1, PRESENT, seconds=3))
    assert len(names_of(answers)) == 2
    assert result_of(answers[-1])[2] is Result.TIME_LIMIT_EXCEEDED


def test_what_a_filter_leaves_out_is_not_told() -> None:
    assert names_of(ask(begun(), search(1, "o=mail", 2, is_equal("mail", "BOB@example.test")))) == [
        "uid=bob,ou=people,o=mail"
    ]


@pytest.mark.parametrize(
    ("name", "attribute", "value", "code"),
    [
        (NAME, "mail", "ALICE@example.test", Result.COMPARE_TRUE),
        (NAME, "mail", "bob@example.test", Result.COMPARE_FALSE),
        (NAME, "title", "king", Result.NO_SUCH_ATTRIBUTE),
        (NAME, "shoesize", "44", Result.UNDEFINED_ATTRIBUTE_TYPE),
        ("uid=nobody,o=mail", "mail", "x", Result.NO_SUCH_OBJECT),
        ("nonsense", "mail", "x", Result.INVALID_DN_SYNTAX),
    ],
)
def test_comparing(name: str, attribute: str, value: str, code: Result) -> None:
    assert result_of(ask(begun(), compare(3, name, attribute, value))[0]) == (3, Answer.COMPARE, code)


@pytest.mark.parametrize(
    ("policy", "security", "announced"),
    [(OPEN, None, False), (OFFERS, None, True), (OFFERS, TLS, False)],
)
def test_the_root_says_what_there_is(policy: Policy, security: Security | None, announced: bool) -> None:
    answers = ask(begun(policy, security=security), search(1, "", 0, PRESENT, "+", "*"))
    attributes = attributes_of(answers[0])
    assert attributes["supportedLDAPVersion"] == ["3"]
    assert attributes["namingContexts"] == ["o=mail"]
    assert (messages.START_TLS in attributes["supportedExtension"]) is announced  # RFC 4512 5.1
    assert names_of(ask(begun(), search(2, "", 0, is_equal("uid", "alice")))) == []


# -- what is not offered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "answer"),
    [(0x66, Answer.MODIFY), (0x68, Answer.ADD), (0x4A, Answer.DELETE), (0x6C, Answer.RENAME)],
)
def test_nothing_is_changed_here(tag: int, answer: Answer) -> None:
    (said_,) = ask(begun(), messages.message(5, ber.octets(NAME, tag)))
    assert result_of(said_) == (5, answer, Result.UNWILLING_TO_PERFORM)


def test_an_extension_that_does_not_exist_ends_nothing() -> None:
    client = begun()
    assert result_of(ask(client, extended(1, "1.2.3.4"))[0]) == (1, Answer.EXTENDED, Result.PROTOCOL_ERROR)
    assert result_of(ask(client, bind(2))[0])[2] is Result.SUCCESS


@pytest.mark.parametrize("essential", [True, False])
def test_a_control_that_is_essential_must_be_known(essential: bool) -> None:
    control = ber.sequence((ber.octets("1.2.3"), ber.boolean(essential)))
    octets = bind(1)[2:] + ber.sequence((control,), 0xA0)
    expected = Result.UNAVAILABLE_CRITICAL_EXTENSION if essential else Result.SUCCESS
    assert result_of(ask(begun(), ber.element(Tag.SEQUENCE, octets))[0])[2] is expected


def test_what_is_abandoned_is_not_answered() -> None:
    answers = ask(begun(), messages.message(2, ber.integer(1, 0x50)), bind(3))
    assert [result_of(each)[0] for each in answers] == [3]


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_starttls_and_what_is_forgotten() -> None:
    client = begun(OFFERS)
    ask(client, bind(1, NAME, "ecila"))
    (answer,) = ask(client, extended(2, messages.START_TLS))
    assert result_of(answer) == (2, Answer.EXTENDED, Result.SUCCESS)
    content = Content(answer[2])
    content.element(), content.element(), content.element()
    assert content.text(0x8A) == messages.START_TLS
    assert client.awaiting_tls
    client.happen("secured")
    assert identity(client) == b""
    assert result_of(ask(client, extended(4, messages.START_TLS))[0])[2] is Result.OPERATIONS_ERROR


def test_what_came_in_clear_behind_starttls_is_never_carried_out() -> None:
    client = begun(OFFERS)
    answers = ask(client, extended(1, messages.START_TLS), bind(2), bind(3)[:4])
    assert [result_of(each)[0] for each in answers] == [1]
    client.happen("secured")
    assert not client.session.unfinished
    assert [result_of(each)[0] for each in ask(client, bind(5))] == [5]


@pytest.mark.parametrize(("policy", "value"), [(OPEN, None), (OFFERS, b"")])
def test_starttls_that_is_not_offered_or_not_well_asked_for(policy: Policy, value: bytes | None) -> None:
    client = begun(policy)
    assert result_of(ask(client, extended(1, messages.START_TLS, value))[0])[2] is Result.PROTOCOL_ERROR
    assert result_of(ask(client, bind(2))[0])[2] is Result.SUCCESS


# -- how it ends -------------------------------------------------------------------------------------------------------


def is_notice(answer: tuple[int, int, bytes], code: Result) -> bool:
    """RFC 4511 4.4.1."""
    content = Content(answer[2])
    found = content.integer(Tag.ENUMERATED)
    content.text(), content.text()
    name = content.text(0x8A)
    return (answer[0], answer[1], found, name, content.at_end) == (
        0, Answer.EXTENDED, code, messages.NOTICE_OF_DISCONNECTION, True,
    )  # fmt: skip


def test_unbind_is_not_answered() -> None:
    client = begun()
    assert ask(client, unbind(), bind(10)) == []
    assert client.closed


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO there\r\n",
        b"\x30\x80",
        b"\x30\x84\x7f\xff\xff\xff",
        messages.message(0, b"\x42\x00"),
        messages.message(1, b"\x7f\x01\x00"),
        messages.message(1, b"\x5e\x00"),
        bind(1)[:-1] + b"\x05",
        search(1, scope=7),
        search(1, filter_=ber.octets(b"\xff", 0x87)),
    ],
)
def test_what_cannot_be_read_ends_the_session(octets: bytes) -> None:
    client = begun()
    answers = ask(client, bind(8), octets, bind(9)) if len(octets) > 12 else ask(client, bind(8), octets)
    assert result_of(answers[0])[2] is Result.SUCCESS
    assert is_notice(answers[-1], Result.PROTOCOL_ERROR)
    assert client.closed


@pytest.mark.parametrize("event", ["idled", "stopping"])
def test_a_notice_before_the_end(event: str) -> None:
    client = begun()
    client.happen(event)
    (answer,) = said(client)
    assert is_notice(answer, Result.UNAVAILABLE)


def test_a_bind_under_way_is_answered_before_the_server_stops() -> None:
    client = begun()
    client.holding = True
    ask(client, bind(1, NAME, "ecila"), bind(2))
    client.session.stopping()
    client.happen("release")
    answers = said(client)
    assert result_of(answers[0]) == (1, Answer.BIND, Result.SUCCESS)
    assert is_notice(answers[1], Result.UNAVAILABLE)
    assert client.closed


def test_a_disk_that_fails_ends_the_session_with_a_notice() -> None:
    store = MemoryStore()
    store.fault = OSError("the disk is gone")
    client = begun(store=store)
    (answer,) = ask(client, bind(1, NAME, "ecila"))
    assert is_notice(answer, Result.OTHER)


@pytest.mark.parametrize("why", list(Refusal))
def test_whoever_is_not_let_in_is_told_why(why: Refusal) -> None:
    reader = ElementReader(1000)
    reader.feed(ldap.refusal(why))
    octets = reader.element()
    assert octets is not None
    content = Content(octets)
    assert is_notice((content.integer(), *content.element()), Result.UNAVAILABLE)


# -- cut anywhere ------------------------------------------------------------------------------------------------------


def everything(feed: Callable[[Conversation, bytes], None]) -> bytes:
    client = begun(OFFERS)
    requests = (
        bind(1, NAME, "ecila") + search(2) + compare(3, NAME, "cn", "Alice") + extended(4, messages.WHO_AM_I)
        + messages.message(5, ber.octets(NAME, 0x4A)) + search(6, "", 0) + bind(7, NAME, "wrong") + unbind()
    )  # fmt: skip
    feed(client, requests)
    assert client.closed
    return bytes(client.sent)


def test_octet_by_octet_it_answers_the_same() -> None:
    def whole(client: Conversation, octets: bytes) -> None:
        client.feed([octets])

    def by_octets(client: Conversation, octets: bytes) -> None:
        for each in octets:
            client.feed([bytes((each,))])

    assert everything(whole) == everything(by_octets)


def test_an_unfinished_request_is_known_to_be_one() -> None:
    client = begun()
    assert not client.session.unfinished
    client.feed([bind(1)[:5]])
    assert client.session.unfinished
    client.feed([bind(1)[5:]])
    assert not client.session.unfinished
