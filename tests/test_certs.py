"""What clients make of the test authority's certificates: Python's ssl module and OpenSSL's own program."""

from __future__ import annotations

import json
import platform
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from certs import Authority, KeyType, Leaf, Situation
from certs.__main__ import main
from tests.components import needs, program

OPENSSL = program("openssl")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create()


def _handshake(authority: Authority, leaf: Leaf, folder: Path, host: str) -> None:
    """A whole handshake in memory; raises ssl.SSLCertVerificationError when the client is not content."""
    chain, key = leaf.write(folder)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain, key)
    visiting = ssl.create_default_context(cadata=authority.root_pem.decode())
    visiting.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = visiting.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.cipher() is not None


@pytest.mark.parametrize("key", ["ec", "rsa"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.3", "::1", "mail.example.test", platform.node()])
def test_valid_certificate_is_good_for_every_name_of_this_machine(
    authority: Authority, tmp_path: Path, key: KeyType, host: str
) -> None:
    _handshake(authority, authority.issue(Situation.VALID, key), tmp_path, host)


def test_valid_certificate_is_good_for_names_and_addresses_that_were_added(
    authority: Authority, tmp_path: Path
) -> None:
    leaf = authority.issue(names=["imap.example.test"], addresses=["192.0.2.1"])
    _handshake(authority, leaf, tmp_path, "imap.example.test")
    _handshake(authority, leaf, tmp_path, "192.0.2.1")


@pytest.mark.parametrize("key", ["ec", "rsa"])
@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (Situation.EXPIRED, "certificate has expired"),
        (Situation.NOT_YET_VALID, "certificate is not yet valid"),
        (Situation.WRONG_HOST, "Hostname mismatch"),
        (Situation.SELF_SIGNED, "self.signed certificate"),
        (Situation.UNKNOWN_CA, "unable to get local issuer certificate"),
    ],
)
def test_every_other_certificate_is_wrong_in_exactly_its_own_way(
    authority: Authority, tmp_path: Path, key: KeyType, situation: Situation, reason: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        _handshake(authority, authority.issue(situation, key), tmp_path, "localhost")


def test_authority_itself_can_have_rsa_keys(tmp_path: Path) -> None:
    authority = Authority.create("rsa")
    _handshake(authority, authority.issue(Situation.VALID, "rsa"), tmp_path, "localhost")


@needs("openssl")
def test_openssl_agrees_about_each_certificate_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    index = json.loads((folder / "index.json").read_text())
    assert len(index["certificates"]) == len(Situation) * 2
    for entry in index["certificates"]:
        assert entry["meaning"] in said
        finished = subprocess.run(
            [
                str(OPENSSL),
                "verify",
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "localhost",
                "-CAfile",
                str(folder / index["root"]),
                "-untrusted",
                str(folder / entry["chain"]),
                str(folder / entry["chain"]),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (finished.returncode == 0) == (entry["situation"] == "valid"), finished.stdout + finished.stderr


def test_private_keys_are_readable_by_their_owner_only(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("an older key, open to everybody")
    (tmp_path / "key.pem").chmod(0o666)
    _, key = authority.issue().write(tmp_path)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_private_key_does_not_show_in_a_leafs_repr(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority.issue())


def test_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    finished = subprocess.run(
        [sys.executable, "-m", "certs", str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert "not an empty folder" in finished.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_of_an_earlier_run_is_made_anew(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    first = (tmp_path / "root.pem").read_bytes()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "root.pem").read_bytes() != first
