"""Hand-made TLS ClientHello messages, for what a modern TLS library will not say.

Owns: the octets of RFC 5246 7.4.1.2 in a record of RFC 5246 6.2.1.  Knows nothing of connections.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

SSL3 = 0x0300
TLS1_0 = 0x0301
TLS1_1 = 0x0302
TLS1_2 = 0x0303

#: Suites that every old client knew (RFC 5246 A.5): AES and 3DES with RSA key exchange, and the renegotiation signal.
OLD_SUITES = (0xC014, 0xC013, 0x0035, 0x002F, 0x000A, 0x00FF)


def _vector(octets: bytes, width: int) -> bytes:
    return len(octets).to_bytes(width, "big") + octets


def _extension(number: int, body: bytes) -> bytes:
    return struct.pack(">H", number) + _vector(body, 2)


def client_hello(version: int, suites: Sequence[int] = OLD_SUITES, server_name: str = "localhost") -> bytes:
    """A whole ClientHello record that offers nothing newer than ``version``."""
    name = _vector(b"\0" + _vector(server_name.encode("ascii"), 2), 2)
    extensions = _extension(0, name)
    # supported_groups and ec_point_formats (RFC 8422 5.1), without which no elliptic curve is used.
    extensions += _extension(10, _vector(struct.pack(">HHH", 23, 24, 29), 2)) + _extension(11, b"\x01\x00")
    body = (
        struct.pack(">H", version)
        + os.urandom(32)
        + _vector(b"", 1)
        + _vector(b"".join(struct.pack(">H", suite) for suite in suites), 2)
        + _vector(b"\0", 1)
        + _vector(extensions, 2)
    )
    handshake = b"\x01" + _vector(body, 3)
    return b"\x16" + struct.pack(">H", min(version, TLS1_0)) + _vector(handshake, 2)
