"""What Remote Admin does to the settings, whoever asked for it: a person with a form, or a program.

Owns: the way from one service's table to a change of the whole file, what Remote Admin will not do to itself, and where
it is to be found afterwards.  Knows no page and no request.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

from reference_server.address_range import IPAddress
from reference_server.admission import Ranges
from reference_server.control import Control, ReadOnly
from reference_server.settings import ServerSettings, Service, ServiceSettings, SettingsError
from reference_server.settings_problems import Problem
from reference_server.web.admin_certificates import BadCertificate, added, stored
from reference_server.web.admin_form import changed

#: From a settings document to another one.
Change: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]

#: Seconds that Remote Admin leaves a client to say something: less would end everybody, the one who said so included.
LEAST_TIME: Final = 1.0


class NotTakenOn(Exception):
    """Settings that the server could not run with; ``str()`` says why, a reason a line."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Where Remote Admin is now, having been elsewhere; no ``links``: it is switched off."""

    links: tuple[str, ...]


class Changes:
    """Changes to a running server and its file, each by the same path as a reload."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def fill_in(self, service: Service, table: Mapping[str, Any], address: IPAddress) -> None:
        """Have the keys of ``table`` say what they say there; what was left as it was is not written.

        ``address`` is whose change it is.  Raises :class:`SettingsError`, :class:`NotTakenOn`.
        """
        self._service(lambda document: changed(document, self._control.settings, service, table), service, address)

    def replace(self, service: Service, table: Mapping[str, Any], address: IPAddress) -> None:
        """Have ``table`` be all that is said of the service; what is absent or null is inherited.  Raises the same."""

        def change(document: dict[str, Any]) -> Mapping[str, Any]:
            written = document.get("services", {}).get(service.value, {})
            absent = dict.fromkeys(key for key in written if key not in table)
            return changed(document, self._control.settings, service, {**table, **absent})

        self._service(change, service, address)

    def add_certificate(self, name: str, chain: str, key: str) -> None:
        """Store a certificate (PEM) where the settings file names it.  Raises the same, and BadCertificate."""
        try:
            home = stored(self._control.folder, name, chain, key)
        except ReadOnly as error:
            raise NotTakenOn(f"Nothing can be changed: {error}.") from None
        try:
            self._document(lambda document: added(document, name, home))
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def _document(self, change: Change, check: Callable[[ServerSettings], None] | None = None) -> None:
        """Change the file as a whole.  Raises the same, and whatever ``change`` and ``check`` raise."""
        from reference_server.server import StartError

        try:
            self._control.apply(change, *([check] if check is not None else []))
        except StartError as error:
            raise NotTakenOn(str(error)) from None
        except ReadOnly as error:
            raise NotTakenOn(f"Nothing can be changed: {error}.") from None
        except TimeoutError:
            raise NotTakenOn("The server is too busy to take on other settings just now.") from None
        except BadCertificate:
            raise
        except (OSError, ValueError) as error:
            raise NotTakenOn(f"The settings file cannot be changed: {error}.") from None

    def _service(self, change: Change, service: Service, address: IPAddress) -> None:
        def check(wanted: ServerSettings) -> None:
            if service is not Service.ADMIN:
                return
            # What was so before is no reason to refuse another change.
            known = list(_locked_out(self._control.settings.services.get(service), address))
            if problems := [each for each in _locked_out(wanted.services.get(service), address) if each not in known]:
                raise SettingsError(problems)

        self._document(change, check)


def _locked_out(table: ServiceSettings | None, address: IPAddress) -> Iterator[Problem]:
    """What would keep whoever asked for these settings of Remote Admin from ever changing them again.

    To switch it off is another matter: that is what somebody who does so wants.
    """
    if table is None or not table.enabled:
        return
    where = f"services.{Service.ADMIN.value}"
    if address in Ranges(table.deny):
        yield Problem(f"{where}.deny", f"would lock you out, who are at {address}")
    if table.allow and address not in Ranges(table.allow):
        yield Problem(f"{where}.allow", f"would lock you out: {address}, where you are, is not among these")
    if table.idle_timeout is not None and table.idle_timeout < LEAST_TIME:
        yield Problem(f"{where}.idle_timeout", f"would end every connection to Remote Admin; {LEAST_TIME:g} at least")
    for key in ("ports", "implicit_tls_ports"):
        if 0 in getattr(table, key):
            yield Problem(f"{where}.{key}", "would put Remote Admin where nobody finds it: 0 is any free port")
    if table.require_tls_for_login and not table.implicit_tls_ports:
        # Nobody's browser asks for TLS where HTTP has begun in clear (RFC 2817).
        yield Problem(f"{where}.require_tls_for_login", "would lock browsers out; add an implicit TLS port")


def moved(before: ServiceSettings | None, after: ServiceSettings | None, host: str) -> Moved | None:
    """Where Remote Admin has gone, or None when it is still wherever it was.

    ``host`` is what it was called in the request that moved it, as in ``mail.example.test:9000`` or ``[::1]:9000``.
    """
    if before is None or not before.enabled:
        return None
    if after is None or not after.enabled:
        return Moved(())
    kept = set(before.bind) <= set(after.bind) or "*" in after.bind
    if kept and all(set(getattr(before, key)) <= set(getattr(after, key)) for key in ("ports", "implicit_tls_ports")):
        return None
    names = [_name_in(host)] if kept or set(before.bind) & set(after.bind) else [_in_url(bind) for bind in after.bind]
    return Moved(
        tuple(
            f"{scheme}://{name}:{port}/"
            for scheme, ports in (("https", after.implicit_tls_ports), ("http", after.ports))
            for port in ports
            for name in names
        )
    )


def _name_in(host: str) -> str:
    """The host without a port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _in_url(bind: str) -> str:
    """An address or host name as it stands in a URL (RFC 3986 3.2.2)."""
    try:
        address = ip_address(bind.partition("%")[0])
    except ValueError:
        return bind
    return f"[{address}]" if address.version == 6 else str(address)
