"""A raw connection with deadlines that records every byte and can misbehave.

Owns: sockets and TLS on the suite's side, and the names of the ways in which a connection ends.  Knows no protocol:
what the bytes mean is for :mod:`conformance.dialects` to say.

TLS runs over memory buffers rather than a wrapped socket, because the suite must be able to see what real clients hide:
bytes in clear on a TLS port, a FIN without close_notify, data that comes after a closure alert.
"""

from __future__ import annotations

import contextlib
import enum
import selectors
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Self

from conformance.transcript import CLIENT, SERVER, Transcript

#: How long the second half of a flight waits, so that it is no part of the first one's segment (seconds).
BETWEEN_SEGMENTS = 0.02
#: How long to wait for an answer that must come (seconds).  Generous: nothing is judged by it but presence.
PATIENCE = 8.0
#: What a client can be pinned to.
TLS1_2 = ssl.TLSVersion.TLSv1_2
TLS1_3 = ssl.TLSVersion.TLSv1_3
#: The longest segment that a client with little room accepts (octets).
SHORT_SEGMENT = 1200
#: Raw octets from the server that are kept for looking at what came before TLS.
KEPT_RAW = 4096


class Ending(enum.StrEnum):
    """How a connection came to its end, as the client saw it."""

    REFUSED = "connect refused"
    UNREACHABLE = "address not reachable"
    FIN = "FIN"
    RST = "RST"
    CLOSE_NOTIFY = "close_notify"
    RAGGED = "FIN inside TLS without close_notify"
    TLS_FAILED = "TLS handshake failed"
    LOCAL = "closed by us"


class Ended(Exception):
    """The connection ended while something was expected of it."""

    def __init__(self, ending: Ending, detail: str = "") -> None:
        super().__init__(f"{ending}{f' ({detail})' if detail else ''}")
        self.ending = ending
        self.detail = detail


class Silent(Exception):
    """Nothing came within the deadline, and the connection is still open."""

    def __init__(self, seconds: float, expected: str = "a byte") -> None:
        super().__init__(f"no {expected.removeprefix('a ')} within {seconds:.1f} s")
        self.seconds = seconds


class Wire:
    """One TCP connection of the suite's, in clear or under TLS."""

    def __init__(self, sock: socket.socket, transcript: Transcript, number: int, asked_at: float | None = None) -> None:
        self.transcript = transcript
        self.number = number
        self.connected_at = time.monotonic()
        #: Monotonic time just before the kernel was asked to connect: no server accepted it earlier.
        self.asked_at = self.connected_at if asked_at is None else asked_at
        #: Monotonic time just before the last octet of ours was handed to the kernel.
        self.last_sent_at = self.connected_at
        self.last_received_at = self.connected_at
        self.ended_at: float | None = None
        self.ending: Ending | None = None
        #: The first octets that came from the server, before any decryption.
        self.raw = bytearray()
        self._sock = sock
        self._buffer = bytearray()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: How the server has announced the end, while data that came before it was still to be read.
        self._announced: Ending | None = None
        #: The longest that this process slept past the moment it had asked for (seconds).
        self.lateness = 0.0

    @classmethod
    def connect(
        cls,
        address: str,
        port: int,
        *,
        transcript: Transcript,
        source: str | None = None,
        timeout: float = PATIENCE,
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect from ``source`` (or wherever the kernel likes).

        With a ``receive_buffer`` (octets) little of what is not read is on its way, or waits in a kernel.

        Raises :class:`Ended` when the connect is refused or reset, :class:`Silent` when nobody answers.
        """
        number = transcript.new_connection()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        where = f"{address} port {port}{f' from {source}' if source else ''}"
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                # The kernel of a server keeps some segments of the longest kind for us: on the loopback, megabytes.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SHORT_SEGMENT)
            if source is not None:
                # Without this, bind() takes an ephemeral port for every destination at once and runs out of them.
                sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
                sock.bind((source, 0))
            sock.settimeout(timeout)
            asked_at = time.monotonic()
            sock.connect((address, port))
        except TimeoutError:
            sock.close()
            transcript.note(number, f"connect to {where}: no answer")
            raise Silent(timeout, "an answer to the connect") from None
        except OSError as error:
            sock.close()
            known: dict[type[OSError], Ending] = {
                ConnectionRefusedError: Ending.REFUSED,
                ConnectionResetError: Ending.RST,
            }
            ending = known.get(type(error), Ending.UNREACHABLE)
            transcript.note(number, f"connect to {where}: {ending}")
            raise Ended(ending, error.strerror or str(error)) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        transcript.note(number, f"connected to {where}")
        return cls(sock, transcript, number, asked_at)

    # -- what the client does ------------------------------------------------------------------------------------

    @property
    def secure(self) -> bool:
        """Whether a handshake has been completed."""
        return self._tls is not None

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, for its version, cipher and certificate."""
        return self._tls

    @property
    def heard(self) -> int:
        """How many of the octets in ``raw`` have been read in clear; what comes behind them waits still."""
        return len(self.raw) - len(self._buffer)

    @property
    def local_address(self) -> str:
        """The source address that was used."""
        return str(self._sock.getsockname()[0])

    def send(self, data: bytes, *, shown: bytes | None = None) -> None:
        """Send all of ``data``; ``shown`` is what the transcript says instead where ``data`` is secret.

        Raises :class:`Ended` when the connection is gone, :class:`Silent` when the server does not read.
        """
        self.transcript.record(self.number, CLIENT, data if shown is None else shown, tls=self.secure)
        if self._tls is None:
            self._send_raw(data)
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._over(Ending.RAGGED, str(error.reason))
        self._send_raw(self._outgoing.read())

    def send_some(self, data: bytes, patience: float = 0.3) -> int:
        """Send as much as the server takes within ``patience`` seconds of stalling: how many octets that were.

        Under TLS a record may be cut off; the connection is of no use for anything but being idle afterwards.
        """
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        self.transcript.note(self.number, f"sending up to {len(data)} octets", tls=self.secure)
        sent = 0
        while sent < len(data):
            try:
                sent += self._sock.send(data[sent : sent + 65536])
                self.last_sent_at = time.monotonic()
            except BlockingIOError:
                if not self._wait(selectors.EVENT_WRITE, time.monotonic() + patience):
                    break
            except OSError:
                self._over(Ending.RST, "while sending")
        self.transcript.note(self.number, f"{sent} octets sent, nothing read", tls=self.secure)
        return sent

    def pour(self, data: bytes, patience: float = 0.5) -> None:
        """Send as much as the server takes, and stop when it has gone: what it said before can be read still.

        Next to nothing is held back here, so that what has been sent has been read, or has come to a closed door.
        """
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < len(data):
                try:
                    sent += self._sock.send(data[sent : sent + 65536])
                except BlockingIOError:
                    if not self._wait(selectors.EVENT_WRITE, time.monotonic() + patience):
                        break
        self.transcript.note(self.number, f"{sent} of {len(data)} octets sent before reading", tls=self.secure)

    def send_raw(self, data: bytes) -> None:
        """Send octets as they are, below TLS: hand-made records, garbage in a handshake."""
        self.transcript.record(self.number, CLIENT, data, tls=False)
        self._send_raw(data)

    def send_raw_and_finish(self, data: bytes) -> None:
        """Send octets as they are, with the FIN in their last segment: whoever reads them can know of the end."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.send_raw(data)
        self.finish()

    def start_tls(
        self,
        context: ssl.SSLContext,
        server_name: str | None = None,
        timeout: float = PATIENCE,
        session: ssl.SSLSession | None = None,
        *,
        in_pieces: bool = False,
    ) -> None:
        """Shake hands as a client, offering to resume ``session``.  Raises :class:`Ended` or :class:`Silent`.

        ``in_pieces``: each flight leaves in two segments.
        """
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name, session=session)
        if self._buffer:
            # Octets in clear that came before the handshake are the server's first TLS octets, or its mistake.
            self._incoming.write(bytes(self._buffer))
            self._buffer.clear()
        deadline = time.monotonic() + timeout
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_flight(in_pieces)
                octets = self._receive_raw(deadline, timeout, "an answer in the handshake")
                if octets:
                    self._incoming.write(octets)
                else:
                    self._over(self.ending or Ending.FIN, "in the TLS handshake")
            except ssl.SSLError as error:
                with contextlib.suppress(Ended, Silent):
                    self._send_raw(self._outgoing.read())
                reason = error.reason or error.strerror or str(error)
                self.transcript.note(self.number, f"TLS handshake failed: {reason}")
                self._over(Ending.TLS_FAILED, reason)
            else:
                break
        self._send_raw(self._outgoing.read())
        self._tls = tls
        cipher = tls.cipher()
        suite = f"{cipher[0]}, {cipher[2]} bits" if cipher else "no cipher"
        resumed = ", resumed" if tls.session_reused else ""
        self.transcript.note(self.number, f"handshake done: {tls.version()}, {suite}{resumed}", tls=True)
        # Under TLS 1.2 the server may speak in the segment that ends the handshake.
        if clear := self._read_clear():
            self.transcript.record(self.number, SERVER, clear, tls=True)
            self._buffer += clear

    def send_half_hello(self, context: ssl.SSLContext) -> None:
        """Begin a handshake and stop in the middle of the first message."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        octets = outgoing.read()
        self.transcript.note(self.number, f"half a ClientHello ({len(octets) // 2} of {len(octets)} octets)")
        self._send_raw(octets[: len(octets) // 2])

    def keep_probing(self, seconds: int = 1) -> None:
        """Have the kernel send keep-alive probes: segments without data, which are no activity of the client's."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
        self.transcript.note(self.number, f"TCP keep-alive probes every {seconds} s", tls=self.secure)

    # -- what the server does --------------------------------------------------------------------------------------

    def receive(self, timeout: float = PATIENCE, expected: str = "a byte") -> bytes:
        """The next octets, at least one.  Raises :class:`Ended` or :class:`Silent`."""
        if self._buffer:
            octets = bytes(self._buffer)
            self._buffer.clear()
            return octets
        deadline = time.monotonic() + timeout
        while True:
            if self.ending is not None:
                raise Ended(self.ending)
            if self._announced is not None:
                self._over(self._announced)
            octets = self._receive_raw(deadline, timeout, expected)
            if self._tls is not None:
                octets = self._decrypt(octets)
            elif not octets:
                self._over(self.ending or Ending.FIN)
            if octets:
                self.transcript.record(self.number, SERVER, octets, tls=self.secure)
                return octets

    def read_line(self, timeout: float = PATIENCE, expected: str = "a line") -> bytes:
        """The next line with its end.  Raises :class:`Ended`, :class:`Silent`."""
        return self.read_until(b"\n", timeout, expected)

    def read_until(self, mark: bytes, timeout: float = PATIENCE, expected: str = "a line") -> bytes:
        """Everything up to and including ``mark``; what comes behind it stays for the next read."""
        deadline = time.monotonic() + timeout
        collected = bytearray()
        while True:
            collected += self.receive(max(0.0, deadline - time.monotonic()), expected)
            end = collected.find(mark)
            if end >= 0:
                end += len(mark)
                self._buffer[:0] = collected[end:]
                return bytes(collected[:end])
            if len(collected) > 1 << 24:
                raise Ended(Ending.LOCAL, "16 MiB came without the mark that was waited for")

    @property
    def pending(self) -> bytes:
        """What has come and been read from the kernel, and is still to be looked at."""
        return bytes(self._buffer)

    def unread(self, octets: bytes) -> None:
        """Put octets back before what is still to be read."""
        self._buffer[:0] = octets

    def await_end(self, timeout: float) -> tuple[Ending, bytes]:
        """Read until the server ends the connection: how it did, and what it said last.

        Raises :class:`Silent` when it is still open after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        said = bytearray()
        while True:
            try:
                said += self.receive(max(0.0, deadline - time.monotonic()), "an end")
            except Ended as end:
                return end.ending, bytes(said)
            except Silent:
                raise Silent(timeout, "an end of the connection") from None

    def _send_flight(self, in_pieces: bool) -> None:
        flight = self._outgoing.read()
        half = len(flight) // 2 if in_pieces else 0
        if half:
            self._send_raw(flight[:half])
            time.sleep(BETWEEN_SEGMENTS)
        self._send_raw(flight[half:])

    # -- endings of ours --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """FIN: we have nothing more to say (and, under TLS, no close_notify either)."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self.transcript.note(self.number, "FIN sent", tls=self.secure)

    def notify_close(self) -> None:
        """Under TLS: send close_notify and go on reading."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            with contextlib.suppress(Ended, Silent):
                self._send_raw(self._outgoing.read())
            self.transcript.note(self.number, "close_notify sent", tls=True)

    def reset(self) -> None:
        """RST: gone without a word."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        self._mark_end(Ending.LOCAL)
        self.transcript.note(self.number, "RST sent", tls=self.secure)

    def close(self) -> None:
        """Close in good order (close_notify under TLS, then FIN); safe to repeat."""
        if self._sock.fileno() < 0:
            return
        if self.ending is None:
            self.notify_close()
            self.transcript.note(self.number, "closed by us", tls=self.secure)
        self._sock.close()
        self._mark_end(Ending.LOCAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- below ------------------------------------------------------------------------------------------------------

    def _mark_end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.ended_at = time.monotonic()

    def _over(self, ending: Ending, detail: str = "") -> None:
        first = self.ending is None
        self._mark_end(ending)
        if first:
            self.transcript.note(self.number, f"{ending}{f': {detail}' if detail else ''}", tls=self.secure)
        raise Ended(ending, detail)

    def _wait(self, events: int, deadline: float) -> bool:
        asked = max(0.0, deadline - time.monotonic())
        with selectors.PollSelector() as selector:
            selector.register(self._sock, events)
            began = time.monotonic()
            ready = bool(selector.select(asked))
            if not ready:
                self.lateness = max(self.lateness, time.monotonic() - began - asked)
            return ready

    def _send_raw(self, octets: bytes) -> None:
        view = memoryview(octets)
        deadline = time.monotonic() + PATIENCE
        if view:
            self.last_sent_at = time.monotonic()
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                if not self._wait(selectors.EVENT_WRITE, deadline):
                    raise Silent(PATIENCE, "a reader on the other side") from None
            except (BrokenPipeError, ConnectionResetError):
                self._over(Ending.RST, "while sending")
            except OSError as error:
                self._over(Ending.LOCAL, error.strerror or str(error))

    def _receive_raw(self, deadline: float, timeout: float, expected: str) -> bytes:
        """Some octets, or none at the end of the stream."""
        while True:
            try:
                octets = self._sock.recv(65536)
            except BlockingIOError:
                if not self._wait(selectors.EVENT_READ, deadline):
                    raise Silent(timeout, expected) from None
            except ConnectionResetError:
                self._over(Ending.RST)
            except OSError as error:
                self._over(self.ending or Ending.LOCAL, error.strerror or str(error))
            else:
                self.last_received_at = time.monotonic()
                if len(self.raw) < KEPT_RAW:
                    self.raw += octets[: KEPT_RAW - len(self.raw)]
                return octets

    def _decrypt(self, octets: bytes) -> bytes:
        if octets:
            self._incoming.write(octets)
        else:
            self._incoming.write_eof()
        return self._read_clear()

    def _read_clear(self) -> bytes:
        """What can be decrypted of what has come; an end that is found is announced."""
        assert self._tls is not None
        clear = bytearray()
        try:
            while piece := self._tls.read(65536):
                clear += piece
            self._announced = Ending.CLOSE_NOTIFY
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._announced = Ending.CLOSE_NOTIFY
        except ssl.SSLError:
            # An end of the stream without close_notify, or a record that cannot be decrypted.
            self._announced = Ending.RAGGED
        answer = self._outgoing.read()
        if answer:
            with contextlib.suppress(Ended, Silent):
                self._send_raw(answer)
        return bytes(clear)
