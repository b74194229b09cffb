"""``listenspec serve``: the reference server with a configuration, or as a demonstration on the loopback.

Owns: what the demonstration consists of (an account, a certificate, a first message, ports that need no root) and how
it is told.  Deliberately knows nothing of how the server works; it is started with settings like any other.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime
from pathlib import Path
from typing import Any

from reference_server.settings import ServerSettings, Service, parse
from reference_server.settings import defaults_of as customary

OFFSET = 1000
"""What the demonstration adds to the customary port numbers: whoever asks for 143 without being root gets 1143."""
HIGHEST_OFFSET = 56000

#: The customary ports of implicit TLS; LDAP offers no TLS.  Anybody may listen on Remote Admin's: with the usual offset
#: they stay as they are.
_ADMIN_OFFSET = -OFFSET
_IMPLICIT: Mapping[Service, int | None] = {
    Service.SMTP: 465,
    Service.POP3: 995,
    Service.IMAP: 993,
    Service.WEBMAIL: 443,
    Service.LDAP: None,
    Service.ADMIN: 9443 + _ADMIN_OFFSET,
}
_NAMES: Mapping[Service, str] = {
    Service.SMTP: "SMTP",
    Service.POP3: "POP3",
    Service.IMAP: "IMAP",
    Service.WEBMAIL: "WebMail",
    Service.LDAP: "LDAP",
    Service.ADMIN: "Remote Admin",
}
_USER, _ADDRESS = "alice", "alice@example.test"


def serve(config: Path | None = None, *, offset: int = OFFSET, fault: str | None = None) -> int:
    """Run ``config``, or without one the demonstration, until SIGINT or SIGTERM.

    ``fault`` is the name of one thing that the server is to do wrong.  Exit status 0, or 2 with the reason on stderr
    when it cannot run.
    """
    if fault is not None:
        from reference_server.faults import FAULTS

        if fault not in FAULTS:
            near = get_close_matches(fault, FAULTS, 1)
            return _complain(
                f"there is no fault {fault!r}; "
                + (f"did you mean {near[0]}?" if near else "listenspec faults lists those that there are")
            )
    if config is not None:
        return _run(config, fault)
    if not 0 <= offset <= HIGHEST_OFFSET:
        return _complain(f"the offset must be between 0 and {HIGHEST_OFFSET}")
    # The folder is nobody else's (mode 0700) and goes when the server does.
    with tempfile.TemporaryDirectory(prefix="listenspec-demo-") as folder:
        return _demonstrate(Demonstration.prepare(Path(folder), offset), fault)


def list_faults() -> None:
    """Print the name of every fault that a server may be given, and what it does wrong; then what is only odd."""
    from reference_server.faults import FAULTS

    width = max(len(name) for name in FAULTS)
    for decoys in (False, True):
        if decoys:
            print("\nWhat is legal, and often taken for wrong:")
        for fault in FAULTS.values():
            if fault.is_decoy is decoys:
                print(f"{fault.name:{width}}  {fault.description}")


def _run(config: Path, fault: str | None) -> int:
    if fault is not None:
        from reference_server.faults.__main__ import main as main_with_fault

        return main_with_fault([fault, str(config)])
    from reference_server.__main__ import main

    return main([str(config)])


def _demonstrate(demonstration: Demonstration, fault: str | None) -> int:
    from reference_server.__main__ import run
    from reference_server.server import Parts, Server, StartError

    def started(_: Server) -> None:
        # When its terminal is closed, the demonstration ends in good order as well.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        print(demonstration.describe(), flush=True)

    parts = Parts()
    configuration = parts.configuration(demonstration.file)
    if fault is not None:
        from reference_server.faults import FAULTS

        parts = FAULTS[fault].build(parts)
        configuration = parts.configuration(demonstration.file, FAULTS[fault].change)
        print(f"On purpose: {FAULTS[fault].description}.\n")
    try:
        run(configuration.load(), parts=parts, configuration=configuration, started=started)
    except StartError as error:
        return _complain(
            f"the demonstration cannot start.\n{error}\n"
            "Stop what listens there, or take other ports: listenspec serve --offset 2000"
        )
    return 0


def _complain(reason: str) -> int:
    print(f"listenspec serve: {reason}", file=sys.stderr)
    return 2


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A server on the loopback with everything that it needs, below one private folder."""

    folder: Path
    addresses: tuple[str, ...]
    offset: int
    password: str = field(repr=False)

    @classmethod
    def prepare(cls, folder: Path, offset: int = OFFSET) -> Demonstration:
        """Put certificate and first message into ``folder``."""
        from certs import Authority
        from conformance.wire_local import has_ipv6

        authority = Authority.create(name="listenspec demonstration")
        authority.issue().write(folder)
        (folder / "root.pem").write_bytes(authority.root_pem)
        (folder / "welcome.eml").write_bytes(_welcome())
        addresses = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)
        prepared = cls(folder, addresses, offset, secrets.token_hex(6))
        prepared.file.write_text(json.dumps(prepared.document, indent=2))
        return prepared

    @property
    def file(self) -> Path:
        """The settings file, which Remote Admin changes."""
        return self.folder / "settings.json"

    @property
    def settings(self) -> ServerSettings:
        """The configuration to run."""
        return parse(self.document, self.folder)

    @property
    def document(self) -> dict[str, Any]:
        """The configuration as it is written.  A scenario: only there mail is put into an inbox at the start."""
        return {
            "format": 1,
            "hostname": "localhost",
            "data": "mail",
            "certificates": {"demo": {"chain": "chain.pem", "key": "key.pem"}},
            "accounts": [
                {
                    "name": _USER,
                    "password": self.password,
                    "address": _ADDRESS,
                    "inbox": ["welcome.eml"],
                    "admin": True,
                },
            ],
            "services": {service.value: self._service(service) for service in _IMPLICIT},
        }

    def _service(self, service: Service) -> dict[str, Any]:
        usual = customary(service)
        return {
            "bind": list(self.addresses),
            "ports": self.ports(service),
            "explicit_tls": _IMPLICIT[service] is not None,
            "implicit_tls_ports": self.implicit_ports(service),
            "max_connections": usual.max_connections,
            "idle_timeout": usual.idle_timeout,
        }

    def ports(self, service: Service) -> list[int]:
        """The ports on which sessions of a service begin in clear."""
        further = _ADMIN_OFFSET if service is Service.ADMIN else 0
        return [self.offset + further + port for port in customary(service).ports]

    def implicit_ports(self, service: Service) -> list[int]:
        """The ports on which they begin with TLS."""
        port = _IMPLICIT[service]
        return [] if port is None else [self.offset + port]

    @property
    def root(self) -> Path:
        """What a client has to trust."""
        return self.folder / "root.pem"

    @property
    def send_line(self) -> str:
        """A shell command that sends a message."""
        message = "Subject: Hello\\r\\n\\r\\nIt works.\\r\\n"
        return (
            f"printf '{message}' | curl -sS --ssl-reqd --cacert {shlex.quote(str(self.root))} "
            f"--mail-from bob@example.test --mail-rcpt {_ADDRESS} -T - smtp://localhost:{self.ports(Service.SMTP)[0]}"
        )

    @property
    def read_line(self) -> str:
        """A shell command that shows the newest message."""
        return (
            f"curl -sS --ssl-reqd --cacert {shlex.quote(str(self.root))} --user {_USER}:{self.password} "
            f"'imap://localhost:{self.ports(Service.IMAP)[0]}/INBOX;MAILINDEX=*'"
        )

    def describe(self) -> str:
        """What listens where, how to log in, and what to try."""
        rows = [("service", "clear, then STARTTLS", "TLS at once")]
        rows += [
            (name, ", ".join(map(str, self.ports(service))), ", ".join(map(str, self.implicit_ports(service))))
            for service, name in _NAMES.items()
        ]
        return "\n".join(
            [
                f"A mail server listens on {' and '.join(self.addresses)}.",
                "",
                *_table(rows),
                "",
                f"  login         {_USER}",
                f"  password      {self.password}",
                f"  address       {_ADDRESS}",
                f"  certificate   trust {self.root}",
                "",
                f"Read and write in a browser:    http://localhost:{self.ports(Service.WEBMAIL)[0]}/",
                f"Change how the server listens:  http://localhost:{self.ports(Service.ADMIN)[0]}/",
                "",
                "Send a message:",
                "",
                f"  {self.send_line}",
                "",
                "Read the newest one:",
                "",
                f"  {self.read_line}",
                "",
                "Ctrl-C ends it, and its mail goes with it.",
            ]
        )


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _welcome() -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "listenspec <postmaster@example.test>"
    message["To"] = _ADDRESS
    message["Subject"] = "Welcome"
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{secrets.token_hex(8)}@example.test>"
    message.set_content(
        "This mailbox is real and yours alone: every message that you send to it over SMTP\n"
        "is there for POP3 and IMAP at once, until the server ends.\n"
    )
    return message.as_bytes()
