"""Certificates in Remote Admin: which there are, until when, and how another one is added.

Owns: reading what a certificate says of itself, and where an added one is put.  Knows no page and no server.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from reference_server import durable
from reference_server.settings import ServerSettings
from reference_server.tls import CertificateError, server_context

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
#: Below the folder of the settings file.
FOLDER: Final = "certificates"


class BadCertificate(ValueError):
    """A certificate that cannot be added; ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is shown of one.  ``trouble`` instead of the rest where it cannot be read."""

    name: str
    subject: str = ""
    hosts: tuple[str, ...] = ()
    expires: datetime | None = None
    trouble: str = ""

    def days_left(self, today: datetime) -> int | None:
        """Whole days until it expires, negative afterwards."""
        return None if self.expires is None else (self.expires - today).days


def listed(settings: ServerSettings) -> list[Certificate]:
    """All that the settings name."""
    return [_read(name, files.chain) for name, files in settings.certificates.items()]


def _read(name: str, chain: Path) -> Certificate:
    try:
        leaf = x509.load_pem_x509_certificate(chain.read_bytes())
    except (OSError, ValueError) as error:
        return Certificate(name, trouble=f"cannot be read: {error}")
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = map(str, alternatives.get_values_for_type(x509.IPAddress))
        hosts = (*alternatives.get_values_for_type(x509.DNSName), *addresses)
    except x509.ExtensionNotFound:
        hosts = ()
    expires = leaf.not_valid_after_utc
    return Certificate(name, str(names[0].value) if names else leaf.subject.rfc4514_string(), hosts, expires)


def stored(folder: Path, name: str, chain: str, key: str) -> Path:
    """Put a certificate into a folder of its own below ``folder``: that one.  Raises :class:`BadCertificate`."""
    if not _NAME.fullmatch(name):
        raise BadCertificate("a name has small letters, digits, - and _, and begins with a letter or digit")
    for what, text in (("certificate", chain), ("key", key)):
        if "-----BEGIN" not in text:
            raise BadCertificate(f"the {what} is not in PEM form, which begins with -----BEGIN")
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "certificate", Path(place) / "key"
        for file, text in zip(files, (chain, key), strict=True):
            file.write_text(text)
        try:
            server_context(*files)
        except CertificateError as error:
            raise BadCertificate(str(error).replace(f"{place}/", "")) from None
    try:
        home = _own_folder(folder / FOLDER, name)
        for file, text in ((home / "chain.pem", chain), (home / "key.pem", key)):
            file.touch(mode=0o600)
            durable.replace(file, text.replace("\r\n", "\n").encode())
    except OSError as error:
        raise BadCertificate(f"it cannot be stored in {folder / FOLDER}: {error.strerror}") from None
    return home


def added(document: Mapping[str, Any], name: str, home: Path) -> dict[str, Any]:
    """The document with one more certificate, the one in ``home``.  Raises :class:`BadCertificate`."""
    if name in document.get("certificates", {}):
        raise BadCertificate(f"there is a certificate called {name} already")
    wanted = copy.deepcopy(dict(document))
    entry = {"chain": f"{FOLDER}/{home.name}/chain.pem", "key": f"{FOLDER}/{home.name}/key.pem"}
    wanted.setdefault("certificates", {})[name] = entry
    return wanted


def _own_folder(where: Path, name: str) -> Path:
    """A folder that nobody has had: one of that name may hold the files of a certificate that is in use."""
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in itertools.count(1):
        home = where / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
            return home
    raise AssertionError("numbers do not end")
