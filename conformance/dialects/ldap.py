"""LDAP as the suite speaks it (RFC 4511): its own few kinds of BER, and no more of the protocol than is judged.

Owns: messages and their numbers, searching the root DSE, the simple bind, StartTLS (RFC 4511 4.14), Who am I
(RFC 4532) and the Notice of Disconnection.  Knows nothing of the reference server's encoder.

LDAP has no greeting: the first answer of a connection stands for it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from conformance.dialects.dialect import Credentials, Login, Malformed, NotServed, Stage
from conformance.wire import PATIENCE, Wire
from reference_server.settings import Service

# Tags of protocol operations (RFC 4511 4.2 to 4.14).
BIND, BIND_RESPONSE, UNBIND = 0x60, 0x61, 0x42
SEARCH, ENTRY, DONE = 0x63, 0x64, 0x65
EXTENDED, EXTENDED_RESPONSE = 0x77, 0x78
SEQUENCE, SET, INTEGER, OCTETS, ENUMERATED, BOOLEAN = 0x30, 0x31, 0x02, 0x04, 0x0A, 0x01
RESPONSE_NAME, RESPONSE_VALUE = 0x8A, 0x8B

START_TLS = b"1.3.6.1.4.1.1466.20037"
DISCONNECTION = b"1.3.6.1.4.1.1466.20036"
WHO_AM_I = b"1.3.6.1.4.1.4203.1.11.3"

# Result codes (RFC 4511 4.1.9).
SUCCESS, OPERATIONS_ERROR, PROTOCOL_ERROR, CONFIDENTIALITY_REQUIRED = 0, 1, 2, 13

#: What of the root DSE tells what the server can do.
ABILITIES = (
    b"supportedLDAPVersion", b"supportedExtension", b"supportedControl", b"supportedFeatures",
    b"supportedSASLMechanisms", b"namingContexts",
)  # fmt: skip
#: No request of ours has this number, but the one that must not be answered.
STRAY = 0x5EAD
LONGEST = 1 << 24
#: Octets that no system buffers for a client that does not read.
MUCH = 4_000_000
#: A server may have sent a result and still count its operation among those that StartTLS has to wait for (RFC 4511
#: 4.14.1), as OpenLDAP's does for a moment: it is asked again after so long (seconds).
HESITATION = (0.01, 0.05)
#: The beginning of a message of 1 KiB.
BEGUN = b"\x30\x84\x00\x00\x04\x00\x02\x01"

_numbers = itertools.count(STRAY + 1)


# -- BER -------------------------------------------------------------------------------------------------------------


def element(tag: int, *contents: bytes) -> bytes:
    """Tag, length in its shortest form, contents (X.690 8.1)."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def integer(value: int, tag: int = INTEGER) -> bytes:
    """A number that is not negative."""
    return element(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element.  Raises :class:`Malformed`."""
    at = 0
    while at < len(content):
        tag, length, at = _head(content, at)
        if at + length > len(content):
            raise Malformed(f"an element that is longer than what it is in: {content[:40]!r}")
        yield tag, content[at : at + length]
        at += length


def _head(octets: bytes, at: int = 0) -> tuple[int, int, int]:
    """Tag, length, and where the content begins.  Raises ``IndexError`` where more is needed to tell."""
    tag, first = octets[at], octets[at + 1]
    at += 2
    if first < 0x80:
        return tag, first, at
    count = first & 0x7F
    if not 1 <= count <= 4:
        # RFC 4511 5.1: lengths are always given.
        raise Malformed(f"a length that LDAP does not have: {octets[:40]!r}")
    octets[at + count - 1]  # IndexError where it has not come whole
    return tag, int.from_bytes(octets[at : at + count], "big"), at + count


# -- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the server's: its number, the operation's tag and content, and all its octets."""

    number: int
    tag: int
    content: bytes
    octets: bytes

    @property
    def result(self) -> int:
        """The result code, where it is a message that has one."""
        tag, value = next(elements(self.content), (0, b""))
        if tag != ENUMERATED or not value:
            raise Malformed(f"a message without a result code: {self.octets[:80]!r}")
        return int.from_bytes(value, "big")

    def part(self, tag: int) -> bytes | None:
        """What comes under ``tag`` in the operation; None where nothing does."""
        return next((value for each, value in elements(self.content) if each == tag), None)

    @property
    def is_notice(self) -> bool:
        """Whether it is the Notice of Disconnection (RFC 4511 4.4.1)."""
        return self.number == 0 and self.tag == EXTENDED_RESPONSE and self.part(RESPONSE_NAME) == DISCONNECTION


def message(number: int, operation: bytes) -> bytes:
    """The octets of a message."""
    return element(SEQUENCE, integer(number), operation)


def read_message(wire: Wire, patience: float = PATIENCE) -> Message:
    """The server's next message.  Raises :class:`Malformed`."""
    octets = b""
    while True:
        octets += wire.receive(patience, "a message")
        if octets[0] != SEQUENCE:
            raise Malformed(f"not a message of LDAP: {octets[:80]!r}")
        try:
            _, length, begins = _head(octets)
        except IndexError:
            continue
        if length > LONGEST:
            raise Malformed(f"a message of {length} octets")
        if len(octets) >= begins + length:
            break
    wire.unread(octets[begins + length :])
    return _parsed(octets[: begins + length], octets[begins : begins + length])


def _parsed(octets: bytes, content: bytes) -> Message:
    parts = list(_all(content))
    if len(parts) < 2 or parts[0][0] != INTEGER:
        raise Malformed(f"not a message of LDAP: {octets[:80]!r}")
    return Message(int.from_bytes(parts[0][1], "big"), parts[1][0], parts[1][1], octets)


def _all(content: bytes) -> list[tuple[int, bytes]]:
    try:
        return list(elements(content))
    except IndexError:
        raise Malformed(f"an element that is cut off: {content[:40]!r}") from None


def ask(
    wire: Wire, operation: bytes, patience: float = PATIENCE, *, shown: bytes | None = None
) -> tuple[list[Message], Message]:
    """Send one request: what came before the result, and the result.

    Raises :class:`NotServed` for a Notice of Disconnection, :class:`Malformed` for the answer to anything else.
    """
    number = next(_numbers)
    wire.send(message(number, operation), shown=None if shown is None else message(number, shown))
    return answer_to(wire, number, patience)


def answer_to(wire: Wire, number: int, patience: float = PATIENCE) -> tuple[list[Message], Message]:
    """What answers the request of that number.  Raises as :func:`ask` does."""
    before: list[Message] = []
    while True:
        said = read_message(wire, patience)
        if said.is_notice:
            raise NotServed(said.octets)
        if said.number != number:
            raise Malformed(f"an answer to message {said.number}, which nobody has sent")
        if said.tag in (DONE, BIND_RESPONSE, EXTENDED_RESPONSE):
            return before, said
        before.append(said)


def search(base: bytes, *attributes: bytes, scope: int = 0) -> bytes:
    """The operation of a search for whatever is there (RFC 4511 4.5.1)."""
    return element(
        SEARCH,
        element(OCTETS, base),
        integer(scope, ENUMERATED),
        integer(0, ENUMERATED),
        integer(0),
        integer(0),
        element(BOOLEAN, b"\0"),
        element(0x87, b"objectClass"),
        element(SEQUENCE, *(element(OCTETS, name) for name in attributes)),
    )


def bind(name: bytes, password: bytes) -> bytes:
    """The operation of a simple bind (RFC 4511 4.2)."""
    return element(BIND, integer(3), element(OCTETS, name), element(0x80, password))


def extended(name: bytes) -> bytes:
    """An extended operation without a value (RFC 4511 4.12)."""
    return element(EXTENDED, element(0x80, name))


ROOT_DSE = search(b"", b"1.1")


def attributes(entry: Message) -> dict[bytes, list[bytes]]:
    """The attributes of an entry that was found; types in lower case."""
    parts = _all(entry.content)
    if len(parts) != 2:
        raise Malformed(f"not an entry: {entry.octets[:80]!r}")
    found: dict[bytes, list[bytes]] = {}
    for _, attribute in _all(parts[1][1]):
        match _all(attribute):
            case [(_, kind), (_, values)]:
                found[kind.lower()] = [value for _, value in _all(values)]
            case _:
                raise Malformed(f"not an attribute: {attribute[:80]!r}")
    return found


def _size(answer: list[Message]) -> int:
    return sum(len(each.octets) for each in answer)


# -- the dialect -----------------------------------------------------------------------------------------------------


def distinguished_name(credentials: Credentials) -> bytes:
    """The name that the target has its accounts bind with."""
    return (credentials.how.user_dn or "{name}").replace("{name}", credentials.name).encode()


def simple_bind(wire: Wire, credentials: Credentials) -> bytes | None:
    """None when the client is bound, else the answer."""
    name = distinguished_name(credentials)
    _, result = ask(wire, bind(name, credentials.password.encode()), shown=bind(name, b"<password>"))
    return None if result.result == SUCCESS else result.octets


def _answered(wire: Wire, credentials: Credentials) -> None:
    del credentials
    LDAP().probe(wire)


def _bound(wire: Wire, credentials: Credentials) -> None:
    LDAP().login(wire, credentials)


def _in_message(wire: Wire, credentials: Credentials) -> None:
    del credentials
    LDAP().begin(wire)


class LDAP:
    """The dialect of LDAP."""

    service = Service.LDAP
    greets = False
    stages: Mapping[str, Stage] = {
        "after_command": Stage("after an answer", "before_login", _answered),
        "after_login": Stage("bound", "after_login", _bound),
        "in_message": Stage("within a message", "before_login", _in_message),
    }
    tls_command = b"StartTLS"
    stray = message(STRAY, ROOT_DSE)
    turned_down = b""
    logins: Mapping[str, Login] = {"simple bind": simple_bind}

    def greeting(self, wire: Wire, patience: float) -> bytes:
        return self._served(wire, patience).octets

    def sentences(self, said: bytes) -> list[bytes]:
        try:
            return [content for _, content in elements(said)]
        except (IndexError, Malformed):
            return [said]

    def act(self, wire: Wire) -> None:
        self._served(wire, PATIENCE)

    def _served(self, wire: Wire, patience: float) -> Message:
        _, result = ask(wire, ROOT_DSE, patience)
        if result.result != SUCCESS:
            raise NotServed(result.octets)
        return result

    def capabilities(self, wire: Wire) -> frozenset[str]:
        entries, result = ask(wire, search(b"", *ABILITIES))
        if result.result != SUCCESS:
            raise NotServed(result.octets)
        return frozenset(
            f"{kind.decode('ascii', 'backslashreplace')} {value.decode('utf-8', 'backslashreplace')}".upper()
            for entry in entries
            if entry.tag == ENTRY
            for kind, values in attributes(entry).items()
            for value in values
        )

    def offers_tls(self, wire: Wire) -> bool:
        return f"SUPPORTEDEXTENSION {START_TLS.decode()}" in self.capabilities(wire)

    def ask_tls(self, wire: Wire, spelling: bytes | None = None, behind: bytes = b"") -> bytes | None:
        del spelling  # it is a number, and there is one way to write it
        for pause in (*HESITATION, None):
            number = next(_numbers)
            wire.send(message(number, extended(START_TLS)) + behind)
            _, result = answer_to(wire, number)
            if result.result != OPERATIONS_ERROR or behind or pause is None:
                break
            time.sleep(pause)
        return None if result.result == SUCCESS else result.octets

    def offered_logins(self, wire: Wire) -> frozenset[str]:
        del wire  # RFC 4513 5.1: every server has the simple bind; nothing says whether it takes passwords
        return frozenset()

    def is_signed_in(self, wire: Wire, credentials: Credentials) -> bool:
        del credentials
        _, result = ask(wire, extended(WHO_AM_I))
        return result.result == SUCCESS and bool(result.part(RESPONSE_VALUE))

    def probe(self, wire: Wire) -> None:
        self._served(wire, PATIENCE)

    def begin(self, wire: Wire) -> None:
        wire.send(BEGUN)

    def login(self, wire: Wire, credentials: Credentials) -> None:
        if (reply := simple_bind(wire, credentials)) is not None:
            raise NotServed(reply)

    def goodbye(self, wire: Wire) -> None:
        # RFC 4511 4.3: there is no answer to this.
        wire.send(message(next(_numbers), element(UNBIND)))

    def is_farewell(self, said: bytes) -> bool:
        return DISCONNECTION in said

    def ask_much(self, wire: Wire, credentials: Credentials) -> bytes:
        del credentials
        found, _ = ask(wire, search(b"", b"*", b"+", b"subschemaSubentry"))
        largest, size = b"", _size(found)
        # RFC 4512 4.4: where all of the schema is, which is the longest answer that most servers have.  A few of
        # those do; OpenLDAP takes thousands of requests at once for an attack.
        for name in (name for entry in found for name in attributes(entry).get(b"subschemasubentry", ())):
            schema, _ = ask(wire, search(name, b"*", b"+"))
            if _size(schema) > size:
                largest, size = name, _size(schema)
        return message(STRAY, search(largest, b"*", b"+")) * (MUCH // max(size, 1000))
