"""TLS records for clients made by hand: whole messages in and out, encrypted once there are keys.

Owns: the record layer of TLS 1.2 (RFC 5246 6.2, RFC 5288) and of TLS 1.3 (RFC 8446 5) with AES-GCM, over a raw
connection.  Knows no handshake: :mod:`conformance.client_1_2` and :mod:`conformance.client_1_3` hand in the keys.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conformance.hello import ALERTS
from conformance.wire import PATIENCE, Wire

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23


class TurnedAway(Exception):
    """The server does not go on with the handshake, or with the session; ``str()`` is its alert."""

    def __init__(self, alert: int) -> None:
        super().__init__(f"alert {ALERTS.get(alert, alert)}")
        self.alert = alert


class Unreadable(Exception):
    """What came is no TLS that a client made by hand can read."""


@dataclass(slots=True)
class Keys:
    """One direction of one epoch.  ``explicit``: the nonce travels in the record, as in TLS 1.2."""

    cipher: AESGCM
    iv: bytes
    explicit: bool
    sequence: int = 0

    def seal(self, kind: int, content: bytes) -> bytes:
        """A whole record."""
        number = struct.pack(">Q", self.sequence)
        self.sequence += 1
        if self.explicit:
            bound = number + struct.pack(">BHH", kind, 0x0303, len(content))
            body = number + self.cipher.encrypt(self.iv + number, content, bound)
            return struct.pack(">BHH", kind, 0x0303, len(body)) + body
        header = struct.pack(">BHH", APPLICATION, 0x0303, len(content) + 17)
        return header + self.cipher.encrypt(self._nonce(number), content + bytes([kind]), header)

    def open(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The type and the content of a record."""
        number = struct.pack(">Q", self.sequence)
        self.sequence += 1
        try:
            if self.explicit:
                bound = number + struct.pack(">BHH", kind, 0x0303, len(body) - 24)
                return kind, self.cipher.decrypt(self.iv + body[:8], body[8:], bound)
            header = struct.pack(">BHH", kind, 0x0303, len(body))
            content = self.cipher.decrypt(self._nonce(number), body, header).rstrip(b"\0")
        except (InvalidTag, ValueError, struct.error):
            raise Unreadable("a record that does not belong to these keys") from None
        return content[-1], content[:-1]

    def _nonce(self, number: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(self.iv, bytes(4) + number, strict=True))


class Records:
    """The records of one connection."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        #: The keys of each direction, None while it is in clear.
        self.reading: Keys | None = None
        self.writing: Keys | None = None
        self._raw = b""
        self._messages = b""

    def send(self, kind: int, content: bytes) -> None:
        """Send one record.  Raises ``Ended``, ``Silent``."""
        if self.writing is not None:
            self.wire.send_raw(self.writing.seal(kind, content))
        else:
            self.wire.send_raw(struct.pack(">BHH", kind, 0x0303, len(content)) + content)

    def next(self, patience: float = PATIENCE) -> tuple[int, bytes]:
        """The type and content of the next record.

        Raises ``Ended``, ``Silent``; :class:`TurnedAway` for an alert, :class:`Unreadable` for what is no TLS.
        """
        while len(self._raw) < 5 or len(self._raw) < 5 + int.from_bytes(self._raw[3:5], "big"):
            self._raw += self.wire.receive(patience, "a record")
            if self._raw[:1] and self._raw[0] not in range(20, 24):
                raise Unreadable(f"no TLS record: {self._raw[:40]!r}")
        end = 5 + int.from_bytes(self._raw[3:5], "big")
        kind, body, self._raw = self._raw[0], self._raw[5:end], self._raw[end:]
        # RFC 8446 5: change_cipher_spec is never encrypted in TLS 1.3, and means nothing there.
        if self.reading is not None and (kind != CHANGE_CIPHER_SPEC or self.reading.explicit):
            kind, body = self.reading.open(kind, body)
        if kind == ALERT and len(body) == 2:
            raise TurnedAway(body[1])
        return kind, body

    def next_message(self, patience: float = PATIENCE) -> bytes:
        """The next whole handshake message; application data before it is skipped."""
        while len(self._messages) < 4 or len(self._messages) < 4 + int.from_bytes(self._messages[1:4], "big"):
            kind, body = self.next(patience)
            if kind == HANDSHAKE:
                self._messages += body
        end = 4 + int.from_bytes(self._messages[1:4], "big")
        message, self._messages = self._messages[:end], self._messages[end:]
        return message
