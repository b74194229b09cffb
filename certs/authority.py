"""Root, intermediate and leaf, and what can be the matter with a leaf.

Owns: the making of keys and certificates, and the writing of a leaf to a folder.  Deliberately knows nothing of
who presents or verifies them; the folder that ``python -m certs`` makes is ``certs.__main__``'s.

Every certificate carries what a strict verifier asks for (RFC 5280; OpenSSL's ``X509_V_FLAG_X509_STRICT``, which
Python 3.13 switches on): subject and authority key identifiers, basic constraints, key usage.
"""

from __future__ import annotations

import enum
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KeyType: TypeAlias = Literal["ec", "rsa"]
_PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

HOST_NAMES = ("localhost", "mail.example.test")
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.1.1", "::1")
"""127.0.1.1 is what Debian's /etc/hosts gives a machine's own name."""
WRONG_NAME = "elsewhere.invalid"

_DAY = timedelta(days=1)
_YEAR = timedelta(days=365)
_LONG = 100 * _YEAR
"""Long enough for a server whose clock is run hundreds of times faster than ours."""


class Situation(enum.StrEnum):
    """What a client that trusts the root finds when it is shown the leaf."""

    VALID = "valid"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_HOST = "wrong-host"
    SELF_SIGNED = "self-signed"
    UNKNOWN_CA = "unknown-ca"

    @property
    def meaning(self) -> str:
        """The situation in a few words."""
        return _MEANINGS[self]


_MEANINGS = {
    Situation.VALID: "good for this machine's names and addresses",
    Situation.EXPIRED: "ended yesterday",
    Situation.NOT_YET_VALID: "begins in fifty years",
    Situation.WRONG_HOST: f"good, but for {WRONG_NAME}",
    Situation.SELF_SIGNED: "signed with its own key",
    Situation.UNKNOWN_CA: "signed by an authority that nobody trusts",
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server's certificate followed by its intermediate, and the private key, as PEM."""

    situation: Situation
    key_type: KeyType
    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"Leaf({self.situation.value}, {self.key_type})"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``chain.pem`` and ``key.pem`` (readable by the owner only) into ``folder``, which is made when it
        is missing.  Gives back both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        chain, key = folder / "chain.pem", folder / "key.pem"
        _write(chain, self.chain_pem, 0o644)
        _write(key, self.key_pem, 0o600)
        return chain, key


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: _PrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A root that clients are told to trust, and an intermediate that signs for it."""

    _root: _Issuer
    _intermediate: _Issuer

    @classmethod
    def create(cls, key: KeyType = "ec", name: str = "listenspec test") -> Authority:
        """A new authority with keys of its own; ``name`` begins the names of both certificates."""
        root = _certify(f"{name} root", _new_key(key), issuer=None, path_length=1)
        intermediate = _certify(f"{name} intermediate", _new_key(key), issuer=root, path_length=0)
        return cls(root, intermediate)

    @property
    def root_pem(self) -> bytes:
        """What a client has to trust."""
        return _pem(self._root.certificate)

    @property
    def intermediate_pem(self) -> bytes:
        """What a server sends behind its own certificate."""
        return _pem(self._intermediate.certificate)

    def issue(
        self,
        situation: Situation = Situation.VALID,
        key: KeyType = "ec",
        *,
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> Leaf:
        """A leaf for this machine (its host name, ``localhost``, addresses of the loopback) and for whatever
        ``names`` and ``addresses`` add.  Raises ValueError when one of them is none."""
        authority = _stranger(key) if situation is Situation.UNKNOWN_CA else self
        issuer = None if situation is Situation.SELF_SIGNED else authority._intermediate
        alternatives: list[x509.GeneralName]
        if situation is Situation.WRONG_HOST:
            alternatives = [x509.DNSName(WRONG_NAME)]
        else:
            alternatives = _alternatives(names, addresses)
        leaf = _certify(
            str(alternatives[0].value),
            _new_key(key),
            issuer=issuer,
            alternatives=alternatives,
            lifetime=_lifetime(situation),
        )
        chain = _pem(leaf.certificate)
        if issuer is not None:
            chain += authority.intermediate_pem
        return Leaf(situation, key, chain, _key_pem(leaf.key))


@lru_cache(maxsize=2)
def _stranger(key: KeyType) -> Authority:
    return Authority.create(key, name="untrusted")


def _lifetime(situation: Situation) -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    match situation:
        case Situation.EXPIRED:
            return now - _YEAR, now - _DAY
        case Situation.NOT_YET_VALID:
            return now + 50 * _YEAR, now + 51 * _YEAR
        case _:
            return now - _DAY, now + _LONG


def _alternatives(names: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    found: dict[str, x509.GeneralName] = {}
    for name in (*HOST_NAMES, platform.node(), *names):
        if name:
            found.setdefault(name, x509.DNSName(name))
    for address in (*ADDRESSES, *addresses):
        found.setdefault(address, x509.IPAddress(ip_address(address)))
    return list(found.values())


def _new_key(key: KeyType) -> _PrivateKey:
    match key:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _certify(
    common_name: str,
    key: _PrivateKey,
    *,
    issuer: _Issuer | None,
    path_length: int | None = None,
    alternatives: Sequence[x509.GeneralName] = (),
    lifetime: tuple[datetime, datetime] | None = None,
) -> _Issuer:
    """A certificate for ``key``; without ``issuer`` it is signed with ``key`` itself.  With ``path_length`` it may
    sign others (RFC 5280 4.2.1.9), without it is a server's."""
    is_authority = path_length is not None
    begins, ends = lifetime or _lifetime(Situation.VALID)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signing_key = issuer.key if issuer else key
    public_key = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True)
        .add_extension(_key_usage(is_authority=is_authority, rsa_key=isinstance(key, rsa.RSAPrivateKey)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return _Issuer(builder.sign(signing_key, hashes.SHA256()), key)


def _key_usage(*, is_authority: bool, rsa_key: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        # TLS 1.2's RSA key exchange; of no use with an elliptic curve.
        key_encipherment=rsa_key and not is_authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, content: bytes, mode: int) -> None:
    # Never for a moment readable by others, not even where an older file was.
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:
        stream.write(content)
