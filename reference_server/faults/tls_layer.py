"""Faults of what is agreed on in a handshake: versions, suites, certificates."""

from __future__ import annotations

import ctypes
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reference_server.connection import Connection
from reference_server.faults.ledger import MAIL_AND_WEB, changed, fault, hit
from reference_server.faults.limits import with_connection
from reference_server.server import Parts
from reference_server.session import Actions, Send
from reference_server.settings import ServerSettings
from reference_server.tls import CIPHERS_256, TlsFailure, TlsPipe, server_context


def with_context(parts: Parts, change: Callable[[ssl.SSLContext], object]) -> Parts:
    """The same server, whose TLS contexts are changed before they are used."""

    def context(chain: Path, key: Path, bits: int) -> ssl.SSLContext:
        made = parts.context(chain, key, bits)
        change(made)
        hit()
        return made

    return replace(parts, context=context)


def with_pipe(parts: Parts, kind: type[TlsPipe]) -> Parts:
    """The same server, whose connections speak TLS in another way."""

    class OtherConnection(Connection):
        pipe_type = kind

    return with_connection(parts, OtherConnection)


@fault(
    "speaks-old-versions",
    "TLS 1.0 and 1.1 are still negotiated",
    breaks="TLS-01",
    consequences="TLS-07 TLS-08 EXP-11 IMP-02",
    services=MAIL_AND_WEB,
)
def speaks_old_versions(parts: Parts) -> Parts:
    def change(context: ssl.SSLContext) -> None:
        context.set_ciphers(f"{CIPHERS_256}:ECDHE+AES256:DHE+AES256:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED

    return with_context(parts, change)


@fault(
    "speaks-the-newest-version-only",
    "TLS 1.2 is not spoken any more, and nobody was told",
    breaks="TLS-02",
    consequences="TLS EXP IMP LIM IDL",
    services=MAIL_AND_WEB,
)
def speaks_the_newest_version_only(parts: Parts) -> Parts:
    def change(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3

    return with_context(parts, change)


def _without_least_bits(settings: ServerSettings) -> ServerSettings:
    return settings.model_copy(update={"min_cipher_bits": 128})


@fault(
    "lets-the-client-choose",
    "a client that offers both sizes, but prefers 128 bits, gets 128 bits",
    breaks="TLS-03",
    consequences="TLS-04 TLS-08 TLS-17",
    services=MAIL_AND_WEB,
    change=_without_least_bits,
)
def lets_the_client_choose(parts: Parts) -> Parts:
    def change(context: ssl.SSLContext) -> None:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE

    return with_context(parts, change)


@fault(
    "serves-128-bits",
    "a client that offers no more than 128 bits is served",
    breaks="TLS-04",
    services=MAIL_AND_WEB,
    change=_without_least_bits,
)
def serves_128_bits(parts: Parts) -> Parts:
    return with_context(parts, lambda context: context)


@fault(
    "presents-the-first-certificate",
    "the first certificate is presented, whichever is selected",
    breaks="TLS-05 TLS-06",
    consequences="IMP-08 TLS-08 TLS-15 EXP-12",
    services=MAIL_AND_WEB,
    change=lambda settings: changed(
        settings, certificate=lambda table: table.certificate and next(iter(settings.certificates))
    ),
)
def presents_the_first_certificate(parts: Parts) -> Parts:
    return parts


@fault(
    "wants-its-own-name",
    "a client that asks for another server name, or for none, is sent away with handshake_failure",
    breaks="TLS-06",
    consequences="TLS EXP IMP PRT LIM IDL ACL CLS",
)
def wants_its_own_name(parts: Parts) -> Parts:
    def choose(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int | None:
        if name == "localhost":
            return None
        hit()
        return int(ssl.AlertDescription.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)

    def change(context: ssl.SSLContext) -> None:
        context.sni_callback = choose

    return with_context(parts, change)


@fault(
    "takes-weak-suites",
    "suites without authentication or without encryption are agreed to",
    breaks="TLS-07",
    consequences="TLS-01 TLS-04 TLS-08 TLS-10",
    services=MAIL_AND_WEB,
)
def takes_weak_suites(parts: Parts) -> Parts:
    # Not behind our own list: what that excludes cannot be had back.
    weak = "ECDHE+AESGCM+AES256:ECDHE+CHACHA20:DHE+AESGCM+AES256:aNULL:eNULL:@SECLEVEL=0"
    return with_context(parts, lambda context: context.set_ciphers(weak))


@fault(
    "does-without-forward-secrecy",
    "the key exchange may be the certificate's own key, without forward secrecy",
    breaks="TLS-08",
    services=MAIL_AND_WEB,
)
def does_without_forward_secrecy(parts: Parts) -> Parts:
    return with_context(parts, lambda context: context.set_ciphers(f"{CIPHERS_256}:kRSA+AES256"))


#: OpenSSL's SSL_OP_ALLOW_CLIENT_RENEGOTIATION, for which the module has no name.
_ALLOW_CLIENT_RENEGOTIATION = 1 << 8


@fault(
    "renegotiates-for-ever",
    "a client of TLS 1.2 may renegotiate as often as it likes",
    breaks="TLS-09",
    services=MAIL_AND_WEB,
)
def renegotiates_for_ever(parts: Parts) -> Parts:
    def change(context: ssl.SSLContext) -> None:
        context.options &= ~ssl.OP_NO_RENEGOTIATION
        context.options |= _ALLOW_CLIENT_RENEGOTIATION

    return with_context(parts, change)


@fault(
    "wants-the-hello-whole",
    "a ClientHello that comes in two segments is taken for no handshake",
    breaks="IMP-01 EXP-03",
    consequences="IDL-05 IDL-06 IMP-12",
)
def wants_the_hello_whole(parts: Parts) -> Parts:
    class Hasty(TlsPipe):
        __slots__ = ("_cut",)

        def feed(self, records: bytes) -> None:
            length = 5 + int.from_bytes(records[3:5], "big")
            self._cut = not self.established and records[:1] == b"\x16" and len(records) < length
            super().feed(records)

        def handshake(self) -> bool:
            if self._cut:
                hit()
                raise TlsFailure("half a ClientHello")
            return super().handshake()

    return with_pipe(parts, Hasty)


@fault(
    "compresses",
    "a client that offers compression gets it",
    breaks="TLS-10",
    services=MAIL_AND_WEB,
)
def compresses(parts: Parts) -> Parts:
    class Compressing(TlsPipe):
        __slots__ = ("_offered",)

        def feed(self, records: bytes) -> None:
            # No library compresses any more: the agreement is written into the ServerHello afterwards.
            self._offered = not self.established and _compressions(records) not in (b"", b"\0")
            super().feed(records)

        def outgoing(self) -> bytes:
            records = super().outgoing()
            if getattr(self, "_offered", False) and records[:1] == b"\x16" and records[5:6] == b"\x02":
                hit()
                place = 44 + records[43] + 2
                records = records[:place] + b"\x01" + records[place + 1 :]
            return records

    return with_pipe(parts, Compressing)


def _hello(records: bytes) -> bytes:
    """A ClientHello from its version on, if that is what these records are."""
    return records[9:] if records[:1] == b"\x16" and records[5:6] == b"\x01" else b""


def _compressions(records: bytes) -> bytes:
    hello = _hello(records)
    if len(hello) < 40:
        return b""
    at = 34 + 1 + hello[34]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    return hello[at + 1 : at + 1 + hello[at]]


@fault(
    "answers-unknown-protocols-wrongly",
    "a client that names application protocols is sent away with internal_error",
    breaks="TLS-14",
    services=MAIL_AND_WEB,
)
def answers_unknown_protocols_wrongly(parts: Parts) -> Parts:
    class Confused(TlsPipe):
        __slots__ = ("_alert",)

        def feed(self, records: bytes) -> None:
            self._alert = b""
            if not self.established and b"\x00\x10\x00" in _hello(records) and b"invented" in records:
                hit()
                self._alert = b"\x15\x03\x03\x00\x02\x02\x50"
            super().feed(records)

        def handshake(self) -> bool:
            if self._alert:
                raise TlsFailure("unknown protocols")
            return super().handshake()

        def outgoing(self) -> bytes:
            alert, self._alert = getattr(self, "_alert", b""), b""
            return alert or super().outgoing()

    return with_pipe(parts, Confused)


@fault(
    "never-reads-its-certificate-again",
    "a certificate that was replaced is not taken on by a reload",
    breaks="TLS-15",
    consequences="TLS-05 IMP-08 EXP-12 IMP-11",
    services=MAIL_AND_WEB,
)
def never_reads_its_certificate_again(parts: Parts) -> Parts:
    known: dict[tuple[Path, Path], tuple[bytes, bytes]] = {}

    def context(chain: Path, key: Path, bits: int) -> ssl.SSLContext:
        texts = known.setdefault((chain, key), (chain.read_bytes(), key.read_bytes()))
        if texts == (chain.read_bytes(), key.read_bytes()):
            return parts.context(chain, key, bits)
        hit()
        return _from_memory(*texts, bits)

    return replace(parts, context=context)


def _from_memory(chain: bytes, key: bytes, bits: int) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        for file, text in zip(files, (chain, key), strict=True):
            file.write_bytes(text)
        return server_context(*files, bits)


@fault(
    "takes-early-data",
    "tickets allow data to be sent before the handshake is done, which somebody else may send again",
    breaks="TLS-16",
    services=MAIL_AND_WEB,
)
def takes_early_data(parts: Parts) -> Parts:
    import _ssl

    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_CTX_set_max_early_data.argtypes = (ctypes.c_void_p, ctypes.c_uint32)

    def change(context: ssl.SSLContext) -> None:
        # The module has no way to it.  Behind the head that every object has, a context has OpenSSL's own.
        pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
        library.SSL_CTX_set_max_early_data(pointer, 16384)

    return with_context(parts, change)


@fault(
    "weaker-after-an-upgrade",
    "explicit TLS agrees to 128 bits, implicit TLS does not",
    breaks="TLS-17",
    consequences="TLS-03 TLS-04",
    services=MAIL_AND_WEB,
)
def weaker_after_an_upgrade(parts: Parts) -> Parts:
    weak: dict[int, ssl.SSLContext] = {}

    def context(chain: Path, key: Path, bits: int) -> ssl.SSLContext:
        made = parts.context(chain, key, bits)
        weak[id(made)] = server_context(chain, key, 0)
        return made

    class Weaker(Connection):
        def _start_tls(self) -> None:
            super()._start_tls()
            hit()
            self._tls = TlsPipe(weak[id(self.engine.tls_context)])

    return replace(with_connection(parts, Weaker), context=context)


@fault(
    "takes-clear-for-decrypted",
    "commands that come in clear where a handshake is due are carried out",
    breaks="TLS-18",
    consequences="IMP-02 IMP-03 EXP-04 EXP-11 LIM-06 LIM-07",
)
def takes_clear_for_decrypted(parts: Parts) -> Parts:
    class Gullible(Connection):
        def _decrypt(self, tls: TlsPipe) -> None:
            clear = bytes(self._clear)
            if not clear[:1].isalpha() or tls.established:
                super()._decrypt(tls)
                return
            hit()
            actions: list[object] = [] if self._upgrading else [*self.session.connected(self.peer, None)]
            actions += self._answers(clear)
            self._put(b"".join(action.data for action in actions if isinstance(action, Send)))
            self._leave()

        def _answers(self, clear: bytes) -> Actions:
            return self.session.received(clear)

        @property
        def _clear(self) -> bytes:
            assert isinstance(self._tls, Peeking)
            return self._tls.clear

    class Peeking(TlsPipe):
        __slots__ = ("clear",)

        def __init__(self, context: ssl.SSLContext) -> None:
            super().__init__(context)
            self.clear = b""

        def feed(self, records: bytes) -> None:
            if not self.established:
                self.clear += records
            super().feed(records)

    Gullible.pipe_type = Peeking
    return with_connection(parts, Gullible)
