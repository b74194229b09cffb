"""TLS as a pipe of bytes, and the settings it runs under.

Owns: the making of server contexts from certificate files, the handshake, and the turning of records into
application bytes and back.  Deliberately knows no socket and no session: records go in and out as bytes, so that
whoever owns the connection also owns what becomes of bytes in clear.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reference_server.session import Security

#: TLS 1.2: forward secrecy and 256 bits, authenticated (RFC 9325 4.2).  TLS 1.3 suites cannot be chosen here; a
#: session's cipher is looked at after its handshake.
CIPHERS_256 = "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:DHE+CHACHA20:!aNULL:!eNULL"
CIPHERS_ANY = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL"

MOST_AT_ONCE = 1 << 18


class CertificateError(Exception):
    """A certificate that cannot be used; ``str()`` names the file and the reason."""


class TlsFailure(Exception):
    """The peer's TLS is no good; ``str()`` says why.  What must be sent because of it is still in ``outgoing``."""


def server_context(chain: Path, key: Path, min_bits: int = 256) -> ssl.SSLContext:
    """A context that presents ``chain`` and speaks TLS 1.2 and 1.3.  Raises :class:`CertificateError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.set_ciphers(CIPHERS_256 if min_bits >= 256 else CIPHERS_ANY)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_SINGLE_ECDH_USE | ssl.OP_SINGLE_DH_USE
    with _explained(chain, key):
        # A key that wants a password must not make the server ask for it at the terminal.
        context.load_cert_chain(chain, key, password=_no_password)
    return context


def _no_password() -> str:
    raise CertificateError("the key is encrypted; a server needs one that is not")


@contextmanager
def _explained(chain: Path, key: Path) -> Iterator[None]:
    try:
        yield
    except CertificateError as error:
        raise CertificateError(f"{key}: {error}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key}: this is not the key of the certificate in {chain}") from None
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise CertificateError(f"{chain} with key {key}: {reason}") from None
    except OSError as error:
        missing = next((file for file in (chain, key) if not file.is_file()), None)
        raise CertificateError(f"{missing or f'{chain} or {key}'}: {error.strerror}") from None


class TlsPipe:
    """The server's end of one TLS connection."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "closed", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        #: Whether the peer has said that it will send nothing more (close_notify).
        self.closed = False

    def feed(self, records: bytes) -> None:
        """Octets came from the peer."""
        self._incoming.write(records)

    def handshake(self) -> bool:
        """Go on with the handshake: whether it is done.  Raises :class:`TlsFailure`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsFailure(error.reason or str(error)) from None
        self.established = True
        return True

    def read(self) -> bytes:
        """Application bytes that have arrived; sets ``closed``.  Raises :class:`TlsFailure`."""
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(MOST_AT_ONCE):
                pieces.append(piece)
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        except ssl.SSLError as error:
            if not pieces:
                raise TlsFailure(error.reason or str(error)) from None
            # What came before is whole and authentic; the session hears it, then the connection ends.
            self.closed = True
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Application bytes for the peer.  Raises :class:`TlsFailure`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise TlsFailure(error.reason or str(error)) from None

    def notify_close(self) -> None:
        """Say that nothing more will be sent (RFC 8446 6.1); of no effect before the handshake is done."""
        if self.established:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                # The peer's own close_notify is not waited for, and its absence is no error of ours.
                return

    def outgoing(self) -> bytes:
        """Octets that must go to the peer now."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def security(self) -> Security:
        """What the handshake agreed on."""
        cipher = self._tls.cipher()
        version = self._tls.version()
        if cipher is None or version is None:
            raise TlsFailure("no cipher was agreed on")
        return Security(version, cipher[0], cipher[2])
