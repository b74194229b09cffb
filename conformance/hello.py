"""Hand-made TLS ClientHello messages, for what a modern TLS library will not say, and what a server makes of them.

Owns: the octets of RFC 5246 7.4.1.2 and RFC 8446 4.1.2 in records of RFC 5246 6.2.1, and as much of the answer as a
server sends in clear: its ServerHello, its certificates under TLS 1.2, an alert.  Knows nothing of connections, and
cannot complete a handshake: what must be seen inside TLS is for :mod:`conformance.wire`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

SSL2 = 0x0002
SSL3 = 0x0300
TLS1_0 = 0x0301
TLS1_1 = 0x0302
TLS1_2 = 0x0303
TLS1_3 = 0x0304

VERSIONS: Mapping[int, str] = {
    SSL2: "SSL 2",
    SSL3: "SSL 3",
    TLS1_0: "TLS 1.0",
    TLS1_1: "TLS 1.1",
    TLS1_2: "TLS 1.2",
    TLS1_3: "TLS 1.3",
}

#: Says that secure renegotiation is known (RFC 5746 3.3); no suite, but offered among them.
SIGNAL = 0x00FF
#: Suites that every old client knew: AES and 3DES in CBC mode, key exchange for every kind of certificate.
OLD_SUITES = (0xC00A, 0xC014, 0xC009, 0xC013, 0x0039, 0x0033, 0x0035, 0x002F, 0xC008, 0xC012, 0x000A, SIGNAL)
#: TLS 1.2 as RFC 9325 4.2 wants it, by size of key: ECDHE with ECDSA and with RSA, DHE with RSA.
AES_256 = (0xC02C, 0xC030, 0x009F)
AES_128 = (0xC02B, 0xC02F, 0x009E)
CHACHA_20 = (0xCCA9, 0xCCA8, 0xCCAA)
#: TLS 1.3 (RFC 8446 B.4).
AES_128_OF_1_3 = 0x1301
AES_256_OF_1_3 = 0x1302
CHACHA_20_OF_1_3 = 0x1303
#: Key exchange by RSA encryption: whoever gets the key can read all that was ever recorded.
WITHOUT_FORWARD_SECRECY = (0x009D, 0x003D, 0x0035, 0x009C, 0x003C, 0x002F)

#: Suites that nobody should use any more (RFC 9325 4.1), by what is wrong with them.
WEAK_SUITES: Mapping[str, tuple[int, ...]] = {
    "no encryption": (0xC006, 0xC010, 0x003B, 0x0002, 0x0001),
    "no authentication": (
        *(0xC019, 0xC018, 0xC017, 0xC016, 0xC015, 0x00A7, 0x00A6, 0x006D, 0x006C),
        *(0x003A, 0x0034, 0x0089, 0x0046, 0x001B, 0x001A, 0x0018),
    ),
    "export strength": (0x0064, 0x0062, 0x0063, 0x0014, 0x0011, 0x000E, 0x000B, 0x0008, 0x0006, 0x0003, 0x0019, 0x0017),
    "RC4": (0xC007, 0xC011, 0xC016, 0x0005, 0x0004),
    "3DES": (0xC008, 0xC012, 0xC003, 0xC00D, 0x0016, 0x0013, 0x000A, 0x0015, 0x0009),
}

#: Two ways to carry 256 bits with forward secrecy, for seeing whose order of preference decides.
STRONG_BOTH_WAYS = ((*AES_256[:2], *CHACHA_20[:2]), (*CHACHA_20[:2], *AES_256[:2]))

_X25519 = 29
_GROUPS = (_X25519, 23, 24, 25)
#: ECDSA and RSA with the hashes in use; the last two are what TLS 1.1 had (RFC 8446 4.2.3).
_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)

_RECORD_TYPES = range(20, 24)
_ALERT, _HANDSHAKE = 21, 22
_SERVER_HELLO, _CERTIFICATE, _SERVER_KEY_EXCHANGE, _SERVER_HELLO_DONE = 2, 11, 12, 14
_SUPPORTED_VERSIONS = 43
RENEGOTIATION_INFO = 0xFF01
#: RFC 8446 4.1.3: a ServerHello with this for its random part asks for another ClientHello.
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")

ALERTS: Mapping[int, str] = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    47: "illegal_parameter",
    50: "decode_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    100: "no_renegotiation",
    112: "unrecognized_name",
    120: "no_application_protocol",
}


def _vector(octets: bytes, width: int) -> bytes:
    return len(octets).to_bytes(width, "big") + octets


def _numbers(numbers: Sequence[int]) -> bytes:
    return b"".join(struct.pack(">H", number) for number in numbers)


def _extension(number: int, body: bytes) -> bytes:
    return struct.pack(">H", number) + _vector(body, 2)


def client_hello(
    version: int,
    suites: Sequence[int] = OLD_SUITES,
    server_name: str | bytes | None = "localhost",
    *,
    compressions: bytes = b"\0",
    protocols: Sequence[bytes] = (),
    versions: Sequence[int] = (),
    key_share: bytes | None = None,
    renegotiation: bytes | None = None,
) -> bytes:
    """A whole ClientHello record that offers nothing newer than ``version``.

    ``server_name`` goes into SNI as it is, None: no such extension.  ``compressions`` are compression methods (RFC
    3749), ``protocols`` names for ALPN (RFC 7301).  ``versions`` is what supported_versions lists (RFC 8446 4.2.1),
    the extension being there for TLS 1.3 in any case.  ``key_share`` is a public key on curve 25519, anything at all
    where the handshake is not to be completed; ``renegotiation`` what RFC 5746 3.5 has the client say of the handshake
    before.
    """
    extensions = b""
    if server_name is not None:
        name = server_name.encode("ascii") if isinstance(server_name, str) else server_name
        extensions += _extension(0, _vector(b"\0" + _vector(name, 2), 2))
    # supported_groups and ec_point_formats (RFC 8422 5.1), without which no elliptic curve is used.
    extensions += _extension(10, _vector(_numbers(_GROUPS), 2)) + _extension(11, b"\x01\x00")
    if version >= TLS1_2:
        extensions += _extension(13, _vector(_numbers(_SIGNATURES), 2))
    if protocols:
        extensions += _extension(16, _vector(b"".join(_vector(name, 1) for name in protocols), 2))
    if version >= TLS1_3:
        versions = versions or (TLS1_3,)
        # Every 32 octets are a public key on this curve (RFC 7748 5).
        share = struct.pack(">H", _X25519) + _vector(key_share or os.urandom(32), 2)
        extensions += _extension(51, _vector(share, 2)) + _extension(45, b"\x01\x01")
    if renegotiation is not None:
        extensions += _extension(RENEGOTIATION_INFO, _vector(renegotiation, 1))
    if versions:
        extensions += _extension(_SUPPORTED_VERSIONS, _vector(_numbers(versions), 1))
    body = (
        struct.pack(">H", min(version, TLS1_2))
        + os.urandom(32)
        + _vector(os.urandom(32) if version >= TLS1_3 else b"", 1)
        + _vector(_numbers(suites), 2)
        + _vector(compressions, 1)
        # SSL 3 knows no extensions; a server of its time might refuse the message for them.
        + (_vector(extensions, 2) if version > SSL3 else b"")
    )
    handshake = b"\x01" + _vector(body, 3)
    return b"\x16" + struct.pack(">H", min(version, TLS1_0)) + _vector(handshake, 2)


def ssl2_hello() -> bytes:
    """The first message of a client that speaks SSL 2 and nothing else (RFC 6101 E.2 tells of its form)."""
    ciphers = bytes.fromhex("0700c0 030080 010080 060040 040080 020080")
    body = b"\x01" + struct.pack(">HHHH", SSL2, len(ciphers), 0, 16) + ciphers + os.urandom(16)
    return struct.pack(">H", 0x8000 | len(body)) + body


@dataclass(frozen=True, slots=True)
class ServerHello:
    """What the server has chosen: numbers as in the registries; ``retry``: it asks for another ClientHello."""

    version: int
    suite: int
    compression: int = 0
    extensions: Mapping[int, bytes] = field(default_factory=dict)
    retry: bool = False

    def __str__(self) -> str:
        return f"{VERSIONS.get(self.version, hex(self.version))} with suite 0x{self.suite:04X}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came after a ClientHello, as far as it can be read without keys.

    ``chain`` are the certificates (DER) that TLS 1.2 shows in clear; ``alert`` the number of the last alert; ``clear``
    everything from the first octet that belongs to no TLS record; ``settled``: there is nothing more to wait for.
    """

    hello: ServerHello | None = None
    chain: tuple[bytes, ...] = ()
    alert: int | None = None
    clear: bytes = b""
    settled: bool = False

    def __str__(self) -> str:
        if self.clear:
            return f"{self.clear[:80]!r} in clear"
        if self.hello is not None:
            return str(self.hello)
        if self.alert is not None:
            return f"alert {ALERTS.get(self.alert, self.alert)}"
        return "no answer"


def in_clear(octets: bytes) -> bytes:
    """Everything from the first octet on that belongs to no TLS record."""
    for _, _, rest in _records(octets):
        octets = rest
    return octets if octets and not _could_be_a_record(octets) else b""


def read_answer(octets: bytes) -> Answer:
    """What ``octets``, all that came since the ClientHello, say so far."""
    if len(octets) >= 5 and octets[0] & 0x80 and octets[2] == 4:
        return Answer(ServerHello(SSL2, 0), settled=True)  # SSL 2's own ServerHello
    alert: int | None = None
    messages = b""
    for kind, body, rest in _records(octets):
        octets = rest
        if kind == _ALERT and len(body) == 2:
            alert = body[1]
        elif kind == _HANDSHAKE:
            messages += body
        else:
            break  # what is encrypted begins here
    hello: ServerHello | None = None
    chain: tuple[bytes, ...] = ()
    done = False
    for kind, body in _messages(messages):
        if kind == _SERVER_HELLO:
            hello = _server_hello(body)
            done = hello.version >= TLS1_3
        elif kind == _CERTIFICATE:
            chain, done = _chain(body), True
        elif kind in (_SERVER_KEY_EXCHANGE, _SERVER_HELLO_DONE):
            done = True
    clear = in_clear(octets)
    return Answer(hello, chain, alert, clear, done or alert is not None or bool(clear))


def _could_be_a_record(octets: bytes) -> bool:
    return octets[0] in _RECORD_TYPES and octets[1:2] in (b"", b"\x03")


def _records(octets: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Every whole record: its type, its content, and what comes behind it."""
    while len(octets) >= 5 and _could_be_a_record(octets):
        end = 5 + int.from_bytes(octets[3:5], "big")
        if len(octets) < end:
            return
        kind, body, octets = octets[0], octets[5:end], octets[end:]
        yield kind, body, octets


def _messages(octets: bytes) -> Iterator[tuple[int, bytes]]:
    while len(octets) >= 4:
        end = 4 + int.from_bytes(octets[1:4], "big")
        if len(octets) < end:
            return
        yield octets[0], octets[4:end]
        octets = octets[end:]


def _server_hello(body: bytes) -> ServerHello:
    version = int.from_bytes(body[:2], "big")
    at = 35 + body[34] if len(body) > 34 else len(body)
    suite = int.from_bytes(body[at : at + 2], "big")
    compression = body[at + 2] if len(body) > at + 2 else 0
    extensions: dict[int, bytes] = {}
    rest = body[at + 5 :]
    while len(rest) >= 4:
        number, length = struct.unpack(">HH", rest[:4])
        extensions[number] = rest[4 : 4 + length]
        rest = rest[4 + length :]
    if _SUPPORTED_VERSIONS in extensions:
        version = int.from_bytes(extensions[_SUPPORTED_VERSIONS], "big")
    return ServerHello(version, suite, compression, extensions, body[2:34] == _RETRY)


def _chain(body: bytes) -> tuple[bytes, ...]:
    certificates: list[bytes] = []
    rest = body[3:]
    while len(rest) >= 3:
        end = 3 + int.from_bytes(rest[:3], "big")
        certificates.append(rest[3:end])
        rest = rest[end:]
    return tuple(certificates)
