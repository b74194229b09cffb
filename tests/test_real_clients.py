"""Programs that nobody here wrote get a real session from the server, on every channel."""

from __future__ import annotations

import os
import pty
import re
import select
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path

import pytest

from conformance.clients import CLIENTS
from conformance.dialects.dialect import Credentials
from conformance.wire_contexts import client_context
from reference_server.settings import Service
from tests.components import needs
from tests.mail_server import CHANNELS, PASSWORD, SOON, MailServer, settings

ALICE = Credentials("alice", PASSWORD, "alice@example.test")


class Site:
    """The server of this module, and a folder of one's own for each test."""

    def __init__(self, server: MailServer, root: Path, folder: Path) -> None:
        self.server = server
        self.root = root
        self.folder = folder

    def run(self, *command: str, input: str | None = None, **environment: str) -> str:
        """Run a program to its end, which must be a good one; what it said."""
        ended = subprocess.run(
            command,
            input=input,
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), **environment},
        )
        assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    def url(self, service: str, channel: str) -> str:
        """As curl writes it."""
        scheme = f"{service}s" if channel == "implicit" else service
        return f"{scheme}://localhost:{self.server.port(service, channel)}"

    def deliver(self, subject: str) -> None:
        """A message that arrives over SMTP."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "bob@example.org", ALICE.address, subject
        message.set_content("Is anybody there?")
        with smtplib.SMTP("localhost", self.server.port("smtp"), timeout=SOON) as client:
            client.send_message(message)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MailServer, Path]]:
    folder = tmp_path_factory.mktemp("server")
    with MailServer(folder, settings(folder)) as server:
        assert server.event()["event"] == "ready"
        yield server, folder / "root.pem"


@pytest.fixture
def site(server: tuple[MailServer, Path], tmp_path: Path) -> Site:
    return Site(*server, tmp_path)


every_channel = pytest.mark.parametrize("channel", CHANNELS)


@every_channel
@pytest.mark.parametrize("service", [Service.SMTP, Service.POP3, Service.IMAP])
def test_the_libraries_that_people_use(site: Site, service: Service, channel: str) -> None:
    """smtplib, poplib and imapclient sign in and look around."""
    _, use = CLIENTS[service]
    use("127.0.0.1", site.server.port(service, channel), channel, client_context(str(site.root)), ALICE)


def required(channel: str) -> list[str]:
    return ["--ssl-reqd"] if channel == "explicit" else []


@needs("curl")
@every_channel
def test_curl_sends_and_finds_it_over_pop3_and_imap(site: Site, channel: str) -> None:
    subject = f"by curl over {channel}"
    (site.folder / "m.eml").write_text(f"Subject: {subject}\n\nhello\n")
    login = ["--silent", "--show-error", "--cacert", str(site.root), "--user", f"alice:{PASSWORD}", *required(channel)]
    site.run(
        *("curl", *login, site.url("smtp", channel), "--mail-from", "bob@example.org"),
        *("--mail-rcpt", ALICE.address, "--upload-file", "m.eml"),
    )
    assert "1 " in site.run("curl", *login, site.url("pop3", channel))
    search = f"/INBOX?SUBJECT%20%22{subject.replace(' ', '%20')}%22"
    found = site.run("curl", *login, site.url("imap", channel) + search)
    number = found.split()[2]
    assert subject in site.run("curl", *login, f"{site.url('imap', channel)}/INBOX;MAILINDEX={number}")


@needs("openssl")
@pytest.mark.parametrize("channel", ["explicit", "implicit"])
@pytest.mark.parametrize(
    ("service", "goodbye", "answer"), [("smtp", "QUIT", "221"), ("pop3", "QUIT", "+OK"), ("imap", "a LOGOUT", "a OK")]
)
def test_openssl_verifies_the_chain_and_the_name(
    site: Site, service: str, goodbye: str, answer: str, channel: str
) -> None:
    starttls = ["-starttls", service] if channel == "explicit" else []
    said = site.run(
        *("openssl", "s_client", "-connect", f"localhost:{site.server.port(service, channel)}", *starttls),
        *("-CAfile", str(site.root), "-verify_return_error", "-verify_hostname", "localhost", "-quiet"),
        input=f"{goodbye}\r\n",
    )
    assert answer in said


def tls_options(channel: str) -> list[str]:
    """As msmtp and mpop have them."""
    return [
        f"--tls={'off' if channel == 'plain' else 'on'}",
        f"--tls-starttls={'on' if channel == 'explicit' else 'off'}",
    ]


@needs("msmtp")
@every_channel
def test_msmtp_sends(site: Site, channel: str) -> None:
    tls = tls_options(channel)
    site.run(
        *("msmtp", "--host=localhost", f"--port={site.server.port('smtp', channel)}", *tls),
        *(f"--tls-trust-file={site.root}", "--auth=plain", "--user=alice", f"--passwordeval=echo '{PASSWORD}'"),
        *("--from=alice@example.test", ALICE.address),
        input="Subject: by msmtp\n\nhello\n",
    )


@needs("swaks")
@every_channel
def test_swaks_sends(site: Site, channel: str) -> None:
    tls = {"plain": [], "explicit": ["-tls"], "implicit": ["-tlsc"]}[channel]
    verify = ["--tls-verify", "--tls-ca-path", str(site.root)] if tls else []
    site.run(
        *("swaks", "--server", "localhost", "--port", str(site.server.port("smtp", channel)), *tls, *verify),
        *("--from", "bob@example.org", "--to", ALICE.address, "--auth", "LOGIN"),
        *("--auth-user", "alice", "--auth-password", PASSWORD),
    )


@needs("mpop")
@every_channel
def test_mpop_fetches(site: Site, channel: str) -> None:
    site.deliver("for mpop")
    tls = tls_options(channel)
    site.run(
        *("mpop", "--host=localhost", f"--port={site.server.port('pop3', channel)}", *tls),
        *(f"--tls-trust-file={site.root}", "--auth=user", "--user=alice", f"--passwordeval=echo '{PASSWORD}'"),
        *("--keep=on", "--uidls-file=uidls", "--delivery=mbox,mbox"),
    )
    assert "Subject: for mpop" in (site.folder / "mbox").read_text()


@needs("mbsync")
@every_channel
def test_mbsync_copies_the_inbox_and_brings_back_what_is_new(site: Site, channel: str) -> None:
    site.deliver(f"for mbsync over {channel}")
    (site.folder / "mail").mkdir()
    kind = {"plain": "None", "explicit": "STARTTLS", "implicit": "IMAPS"}[channel]
    (site.folder / "rc").write_text(
        f"""IMAPAccount a
Host localhost
Port {site.server.port("imap", channel)}
User alice
Pass "{PASSWORD}"
SSLType {kind}
CertificateFile {site.root}
AuthMechs LOGIN

IMAPStore far
Account a

MaildirStore near
Path {site.folder}/mail/
Inbox {site.folder}/mail/inbox
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns INBOX
Create Both
Sync All
Expunge Both
SyncState *
"""
    )
    site.run("mbsync", "-c", "rc", "-a")
    texts = [file.read_text() for file in (site.folder / "mail" / "inbox").glob("*/*") if file.is_file()]
    assert any(f"for mbsync over {channel}" in text for text in texts)
    (site.folder / "mail" / "inbox" / "new" / "1.local").write_text(f"Subject: written near {channel}\n\nhello\n")
    site.run("mbsync", "-c", "rc", "-a")
    login = ["curl", "--silent", "--show-error", "--cacert", str(site.root), "--user", f"alice:{PASSWORD}"]
    found = site.run(*login, site.url("imap", "implicit") + f"/INBOX?SUBJECT%20%22near%20{channel}%22")
    assert len(found.split()) == 3, found


def play(command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a program that wants a terminal, and press no key: its exit status, and what it showed."""
    shown = b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**os.environ, **environment})
    deadline = time.monotonic() + SOON
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    piece = os.read(terminal, 65536)
                    shown += piece
                    if not piece:
                        break
                except OSError:
                    break
        else:
            os.kill(pid, 9)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode("utf-8", "replace")


@needs("mutt")
@every_channel
def test_mutt_opens_the_inbox_and_reads(site: Site, channel: str) -> None:
    site.deliver("for mutt")
    scheme = "imaps" if channel == "implicit" else "imap"
    (site.folder / "muttrc").write_text(
        f"""set imap_user=alice
set imap_pass="{PASSWORD}"
set ssl_starttls={"yes" if channel == "explicit" else "no"}
set ssl_force_tls={"no" if channel == "plain" else "yes"}
set certificate_file={site.root}
set ssl_ca_certificates_file={site.root}
set folder={site.folder}
set header_cache=""
set timeout=5
set wait_key=no
set mark_old=no
push "<last-entry><pipe-message>cat > {site.folder}/read<enter><exit>"
"""
    )
    mailbox = f"{scheme}://localhost:{site.server.port('imap', channel)}/INBOX"
    environment = {"HOME": str(site.folder), "TERM": "xterm"}
    status, shown = play(["mutt", "-n", "-R", "-F", "muttrc", "-f", mailbox], site.folder, environment)
    assert status == 0, shown
    assert "Subject: for mutt" in (site.folder / "read").read_text()


#: Tests that fail whatever the server does: imapclient 4 has made Envelope something that its own test_fetch cannot
#: compare, and imaplib of Python 3.11 does not know the MOVE that test_move sends.
OWN_FAULTS = {"test_fetch", "test_move"}
LIVE_TESTS = ("TestGeneral", "TestWithUIDs", "TestWithoutUIDs")


@every_channel
def test_the_live_test_of_imapclient(tmp_path: Path, channel: str) -> None:
    """The tests that imapclient's author runs against servers.

    Left out are its two tests of time-outs so short that only a far-away server fails to answer within them.
    """
    with MailServer(tmp_path, settings(tmp_path)) as server:
        server.event()
        (tmp_path / "live.ini").write_text(
            f"""[DEFAULT]
host = localhost
port = {server.port("imap", channel)}
username = alice
password = {PASSWORD}
ssl = {channel == "implicit"}
starttls = {channel == "explicit"}
ssl_ca_file = {tmp_path / "root.pem"}
"""
        )
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "imapclient.livetest", str(tmp_path / "live.ini"), *LIVE_TESTS],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "root.pem")},
        )
    assert re.search(r"^Ran \d\d tests", ended.stderr, re.MULTILINE), ended.stderr
    failed = set(re.findall(r"^(?:FAIL|ERROR): (\w+)", ended.stderr, re.MULTILINE))
    assert failed <= OWN_FAULTS, ended.stderr
