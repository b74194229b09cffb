"""Programs that people use to look into an address book, against the real server."""

from __future__ import annotations

import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import needs
from tests.mail_server import CHANNELS, PASSWORD, SOON, MailServer, settings

with warnings.catch_warnings():
    # pyasn1 warns of names that ldap3 2.9.1 still uses.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ldap3
    from ldap3.core.exceptions import LDAPExceptionError, LDAPSessionTerminatedByServerError

pytestmark = pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning")

ALICE = "uid=alice,ou=people,o=mail"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ldap")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MailServer]:
    document = settings(folder, services=("ldap",), require_tls_for_login=True)
    document["ldap_tls"] = True
    document["accounts"].append({"name": "bob.dylan", "password": "blowin'", "address": "bob@example.test"})
    with MailServer(folder, document) as server:
        assert server.event()["event"] == "ready"
        yield server


def connect(server: MailServer, folder: Path, channel: str) -> ldap3.Connection:
    """An anonymous connection, under TLS where the channel says so."""
    trusting = ldap3.Tls(ca_certs_file=str(folder / "root.pem"), validate=ssl.CERT_REQUIRED)
    host = ldap3.Server(
        "localhost", server.port("ldap", channel), use_ssl=channel == "implicit", tls=trusting, get_info=ldap3.DSA,
        connect_timeout=SOON,
    )  # fmt: skip
    connection = ldap3.Connection(host, receive_timeout=int(SOON), raise_exceptions=False)
    connection.open()
    if channel == "explicit":
        connection.start_tls()
    return connection


@pytest.mark.parametrize("channel", CHANNELS)
def test_ldap3_looks_somebody_up(server: MailServer, folder: Path, channel: str) -> None:
    client = connect(server, folder, channel)
    assert client.bind()
    assert client.search("o=mail", "(&(objectClass=inetOrgPerson)(mail=ALICE*))", attributes=["cn", "mail"])
    (found,) = client.response
    assert found["dn"] == ALICE
    assert dict(found["attributes"]) == {"cn": ["Alice"], "mail": ["alice@example.test"]}
    client.unbind()


@pytest.mark.parametrize("channel", CHANNELS)
def test_ldap3_signs_in_under_tls_only(server: MailServer, folder: Path, channel: str) -> None:
    client = connect(server, folder, channel)
    done = client.rebind(ALICE, PASSWORD) if client.bound else _bind(client, ALICE, PASSWORD)
    if channel == "plain":
        assert not done
        assert client.result["description"] == "confidentialityRequired"
    else:
        assert done
        assert client.extend.standard.who_am_i() == "u:alice"
    client.unbind()


def _bind(client: ldap3.Connection, name: str, password: str) -> bool:
    client.user, client.password, client.authentication = name, password, ldap3.SIMPLE
    return bool(client.bind())


def test_ldap3_reads_what_the_server_can_do(server: MailServer, folder: Path) -> None:
    client = connect(server, folder, "plain")
    client.bind()
    info = client.server.info
    assert info.naming_contexts == ["o=mail"]
    assert {each[0] for each in info.supported_extensions} == {"1.3.6.1.4.1.1466.20037", "1.3.6.1.4.1.4203.1.11.3"}
    client.unbind()


def test_ldap3_compares(server: MailServer, folder: Path) -> None:
    client = connect(server, folder, "plain")
    client.bind()
    assert client.compare("uid=bob.dylan,ou=people,o=mail", "sn", "dylan")
    assert not client.compare("uid=bob.dylan,ou=people,o=mail", "sn", "zimmerman")
    client.unbind()


def test_ldap3_hears_that_a_server_stops(folder: Path, tmp_path: Path) -> None:
    document = settings(tmp_path, services=("ldap",))
    document["ldap_tls"] = True
    with MailServer(tmp_path, document) as server:
        assert server.event()["event"] == "ready"
        client = connect(server, tmp_path, "plain")
        client.bind()
        server.process.terminate()
        server.process.wait(SOON)
        with pytest.raises(LDAPExceptionError) as caught:
            client.search("o=mail", "(cn=*)")
        assert isinstance(caught.value, LDAPSessionTerminatedByServerError)


@needs("ldapsearch")
@pytest.mark.parametrize("channel", CHANNELS)
def test_ldapsearch_finds_everybody(server: MailServer, folder: Path, channel: str) -> None:
    port = server.port("ldap", channel)
    url = f"{'ldaps' if channel == 'implicit' else 'ldap'}://localhost:{port}"
    command = ["ldapsearch", "-LLL", "-x", "-H", url, *(["-ZZ"] if channel == "explicit" else []), "-b", "o=mail"]
    found = subprocess.run(
        [*command, "(mail=*)", "uid"],
        env={"LDAPTLS_CACERT": str(folder / "root.pem"), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=SOON, check=True,
    )  # fmt: skip
    assert [line for line in found.stdout.splitlines() if line.startswith("uid:")] == ["uid: alice", "uid: bob.dylan"]


@needs("curl")
def test_curl_prints_an_entry(server: MailServer, folder: Path) -> None:
    url = f"ldap://localhost:{server.port('ldap')}/ou=people,o=mail?mail?sub?(uid=alice)"
    found = subprocess.run(["curl", "-sS", url], capture_output=True, text=True, timeout=SOON, check=True)
    assert "mail: alice@example.test" in found.stdout
