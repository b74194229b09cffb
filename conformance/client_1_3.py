"""A TLS 1.3 client made by hand, for what libraries do not let one choose: one suite alone, and what tickets allow.

Owns: the client's side of RFC 8446 2 with a key on curve 25519 and AES-GCM.  It believes every certificate: whom it
talks to is for others to find out.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from conformance.hello import AES_128_OF_1_3, AES_256_OF_1_3, TLS1_3, ServerHello, client_hello, read_answer
from conformance.records import APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, Keys, Records, Unreadable
from conformance.wire import PATIENCE, Wire

_FINISHED, _NEW_SESSION_TICKET, _KEY_UPDATE = 20, 4, 24
_KEY_SHARE, _EARLY_DATA = 51, 42
#: The suites it speaks: the hash, and the octets of a key.
_SUITES = {AES_128_OF_1_3: ("sha256", 16), AES_256_OF_1_3: ("sha384", 32)}


def _expand(name: str, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 7.1); no more than one block of it is ever needed."""
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\x01", name)[:length]


@dataclass(slots=True)
class _Schedule:
    """The secrets of one handshake, as RFC 8446 7.1 draws them."""

    name: str
    key_length: int
    secret: bytes = b""

    def __post_init__(self) -> None:
        self.secret = hmac.digest(self._zeros, self._zeros, self.name)

    @property
    def _zeros(self) -> bytes:
        return bytes(hashlib.new(self.name).digest_size)

    def digest(self, said: bytes) -> bytes:
        return hashlib.new(self.name, said).digest()

    def advance(self, fresh: bytes | None = None) -> None:
        salt = self.derive(self.secret, b"derived", b"")
        self.secret = hmac.digest(salt, self._zeros if fresh is None else fresh, self.name)

    def derive(self, secret: bytes, label: bytes, said: bytes) -> bytes:
        return _expand(self.name, secret, label, self.digest(said), len(self._zeros))

    def keys(self, traffic: bytes) -> Keys:
        key = _expand(self.name, traffic, b"key", b"", self.key_length)
        return Keys(AESGCM(key), _expand(self.name, traffic, b"iv", b"", 12), explicit=False)

    def finished(self, traffic: bytes, said: bytes) -> bytes:
        key = _expand(self.name, traffic, b"finished", b"", len(self._zeros))
        return hmac.digest(key, self.digest(said), self.name)


class Client13:
    """One session of TLS 1.3."""

    def __init__(self, wire: Wire, suite: int = AES_256_OF_1_3) -> None:
        self.records = Records(wire)
        #: For each ticket that came, how many octets of early data it allows.
        self.tickets: list[int] = []
        self._suite = suite
        self._schedule = _Schedule(*_SUITES[suite])
        self._traffic = b""

    def handshake(self) -> None:
        """Raises ``Ended``, ``Silent``; ``TurnedAway``, ``Unreadable``."""
        records = self.records
        private = x25519.X25519PrivateKey.generate()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        said = client_hello(TLS1_3, (self._suite,), key_share=public)[5:]
        records.send(HANDSHAKE, said)
        message = records.next_message()
        said += message
        share = self._accepted(message).extensions.get(_KEY_SHARE, b"")
        schedule = self._schedule
        schedule.advance(private.exchange(x25519.X25519PublicKey.from_public_bytes(share[4:36])))
        ours = schedule.derive(schedule.secret, b"c hs traffic", said)
        records.reading = schedule.keys(schedule.derive(schedule.secret, b"s hs traffic", said))
        while message[0] != _FINISHED:
            message = records.next_message()
            said += message
        schedule.advance()
        application = schedule.derive(schedule.secret, b"c ap traffic", said)
        records.reading = schedule.keys(schedule.derive(schedule.secret, b"s ap traffic", said))
        verify = schedule.finished(ours, said)
        records.send(CHANGE_CIPHER_SPEC, b"\x01")
        records.writing = schedule.keys(ours)
        records.send(HANDSHAKE, bytes([_FINISHED]) + len(verify).to_bytes(3, "big") + verify)
        records.writing = schedule.keys(application)
        self._traffic = application

    def update_key(self) -> None:
        """Go on with another key, and tell the server no more than that (RFC 8446 4.6.3, 7.2)."""
        self.records.send(HANDSHAKE, bytes([_KEY_UPDATE, 0, 0, 1, 0]))
        self._traffic = _expand(self._schedule.name, self._traffic, b"traffic upd", b"", len(self._traffic))
        self.records.writing = self._schedule.keys(self._traffic)

    def receive(self, patience: float = PATIENCE) -> bytes:
        """The next application data; tickets that come before it are noted.  Raises as :meth:`handshake` does."""
        while True:
            kind, body = self.records.next(patience)
            if kind == APPLICATION:
                return body
            if kind == HANDSHAKE:
                self._note_tickets(body)

    def send(self, data: bytes) -> None:
        """Send application data."""
        self.records.send(APPLICATION, data)

    def _accepted(self, message: bytes) -> ServerHello:
        hello = read_answer(b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message).hello
        if hello is None or hello.version != TLS1_3 or hello.suite != self._suite:
            raise Unreadable(f"the server takes {hello}, which was not offered")
        if hello.retry:
            raise Unreadable("the server wants another curve")
        return hello

    def _note_tickets(self, messages: bytes) -> None:
        while len(messages) >= 4:
            end = 4 + int.from_bytes(messages[1:4], "big")
            if messages[0] == _NEW_SESSION_TICKET:
                self.tickets.append(_early_data_of(messages[4:end]))
            messages = messages[end:]


def _early_data_of(ticket: bytes) -> int:
    """How many octets of early data a NewSessionTicket allows (RFC 8446 4.6.1)."""
    at = 9 + ticket[8]
    at += 2 + int.from_bytes(ticket[at : at + 2], "big")
    extensions = ticket[at + 2 :]
    while len(extensions) >= 4:
        number, length = struct.unpack(">HH", extensions[:4])
        if number == _EARLY_DATA:
            return int.from_bytes(extensions[4 : 4 + length], "big")
        extensions = extensions[4 + length :]
    return 0
