"""A TLS 1.2 client made by hand, for what libraries no longer do: to renegotiate, and to do so the old way.

Owns: the client's side of RFC 5246 7.3 with ECDHE and AES-256-GCM (RFC 5289), and of RFC 5746.  It believes every
certificate: whom it talks to is for others to find out.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from conformance.hello import SIGNAL, TLS1_2, client_hello, read_answer
from conformance.records import APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, Keys, Records, Unreadable
from conformance.wire import PATIENCE, Wire

#: ECDHE with AES-256-GCM and SHA-384, for an ECDSA and for an RSA certificate.
SUITES = (0xC02C, 0xC030)
_SERVER_HELLO, _SERVER_KEY_EXCHANGE, _SERVER_HELLO_DONE, _CLIENT_KEY_EXCHANGE, _FINISHED = 2, 12, 14, 16, 20
_CURVES: dict[int, ec.EllipticCurve] = {23: ec.SECP256R1(), 24: ec.SECP384R1(), 25: ec.SECP521R1()}


def _prf(secret: bytes, label: bytes, seed: bytes, length: int) -> bytes:
    """RFC 5246 5, with SHA-384."""
    seed = label + seed
    block, output = seed, b""
    while len(output) < length:
        block = hmac.digest(secret, block, "sha384")
        output += hmac.digest(secret, block + seed, "sha384")
    return output[:length]


class Client12:
    """One session of TLS 1.2."""

    def __init__(self, wire: Wire) -> None:
        self.records = Records(wire)
        self._client_verify = b""
        self._master = b""

    def handshake(self, *, signal: bool = True) -> None:
        """The first one; ``signal``: the client says that it knows secure renegotiation.

        Raises ``Ended``, ``Silent``; ``TurnedAway``, ``Unreadable``.
        """
        self._shake_hands(client_hello(TLS1_2, (*SUITES, SIGNAL) if signal else SUITES))

    def renegotiate(self, *, legacy: bool = False, patience: float = PATIENCE) -> None:
        """Another one, inside the session; ``legacy``: with nothing that ties it to the one before (CVE-2009-3555).

        Raises as :meth:`handshake` does.
        """
        tie = None if legacy else self._client_verify
        self._shake_hands(client_hello(TLS1_2, SUITES, renegotiation=tie), patience)

    def receive(self, patience: float = PATIENCE) -> bytes:
        """The next application data.  Raises as :meth:`handshake` does."""
        while True:
            kind, body = self.records.next(patience)
            if kind == APPLICATION:
                return body

    def send(self, data: bytes) -> None:
        """Send application data."""
        self.records.send(APPLICATION, data)

    def _shake_hands(self, hello: bytes, patience: float = PATIENCE) -> None:
        records = self.records
        hello = hello[5:]
        said = hello
        records.send(HANDSHAKE, hello)
        client_random, server_random, theirs = hello[6:38], b"", b""
        while True:
            message = records.next_message(patience)
            if message[0] == 0:  # RFC 5246 7.4.1.1: a HelloRequest is no part of what is said
                continue
            said += message
            if message[0] == _SERVER_HELLO:
                server_random = message[6:38]
                chosen = read_answer(b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message).hello
                if chosen is None or chosen.version != TLS1_2 or chosen.suite not in SUITES:
                    raise Unreadable(f"the server takes {chosen}, which was not offered")
            elif message[0] == _SERVER_KEY_EXCHANGE:
                theirs = message[4:]
            elif message[0] == _SERVER_HELLO_DONE:
                break
        ours, shared = _agree(theirs)
        exchange = struct.pack(">B", _CLIENT_KEY_EXCHANGE) + (len(ours) + 1).to_bytes(3, "big") + bytes([len(ours)])
        exchange += ours
        said += exchange
        self._master = _prf(shared, b"master secret", client_random + server_random, 48)
        block = _prf(self._master, b"key expansion", server_random + client_random, 72)
        records.send(HANDSHAKE, exchange)
        records.send(CHANGE_CIPHER_SPEC, b"\x01")
        records.writing = Keys(AESGCM(block[:32]), block[64:68], explicit=True)
        verify = _prf(self._master, b"client finished", hashlib.sha384(said).digest(), 12)
        finished = bytes([_FINISHED]) + len(verify).to_bytes(3, "big") + verify
        records.send(HANDSHAKE, finished)
        while records.next(patience)[0] != CHANGE_CIPHER_SPEC:
            continue
        records.reading = Keys(AESGCM(block[32:64]), block[68:72], explicit=True)
        if records.next_message(patience)[0] != _FINISHED:
            raise Unreadable("the server's Finished is missing")
        self._client_verify = verify


def _agree(exchange: bytes) -> tuple[bytes, bytes]:
    """Our public key and the shared secret, from a ServerKeyExchange (RFC 8422 5.4)."""
    if len(exchange) < 4 or exchange[0] != 3:
        raise Unreadable("a key exchange without a named curve")
    curve, length = struct.unpack(">HB", exchange[1:4])
    theirs = exchange[4 : 4 + length]
    if curve == 29:
        private = x25519.X25519PrivateKey.generate()
        shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(theirs))
        return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), shared
    if curve not in _CURVES:
        raise Unreadable(f"curve {curve}, which was not offered")
    named = _CURVES[curve]
    own = ec.generate_private_key(named)
    shared = own.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(named, theirs))
    return own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), shared
