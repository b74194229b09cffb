"""Ports and addresses of the machine that the suite runs on.

Owns: listeners of ours that serve nobody, port numbers kept apart for one run, and the question which addresses there
are.  Knows nothing of connections to a server.
"""

from __future__ import annotations

import socket


class Occupied:
    """A port that somebody else holds: a listener of ours that serves nobody."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind((address, port))
        self._sock.listen(1)

    def close(self) -> None:
        """Let go of the port."""
        self._sock.close()


class Reservation:
    """A port number kept apart for one run.

    A UDP socket of the same number marks it for other runs of the suite, while the TCP port stays free for the server
    under test.
    """

    def __init__(self, port: int) -> None:
        """Raises OSError when the number is taken, by anybody."""
        self.port = port
        self._mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._mark.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("0.0.0.0", port))
            if has_ipv6():
                with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    trial.bind(("::", port))
        except OSError:
            self._mark.close()
            raise

    def close(self) -> None:
        """Give the number back."""
        self._mark.close()


def addresses_of(name: str) -> list[str]:
    """All addresses of a host name that this machine can use, as the resolver orders them."""
    found = (info[4][0] for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    return [str(address) for address in dict.fromkeys(found) if ":" not in str(address) or has_ipv6()]


def has_ipv6() -> bool:
    """Whether ``::1`` can be used on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True
