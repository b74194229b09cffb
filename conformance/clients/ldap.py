"""LDAP through ldap3.

Owns: one session that upgrades where the channel asks for it, reads the root DSE, binds and leaves.
"""

from __future__ import annotations

import ssl
import warnings
from typing import Any

from conformance.dialects.dialect import Credentials
from conformance.dialects.ldap import distinguished_name
from conformance.scenarios import CLIENT
from conformance.wire import PATIENCE


class Refused(Exception):
    """The server's answer was not success; ``str()`` is what ldap3 says of it."""


def use_ldap3(host: str, port: int, channel: str, context: ssl.SSLContext, credentials: Credentials) -> None:
    """Raises :class:`Refused`, or OSError for whatever ldap3 says of the connection."""
    with warnings.catch_warnings():
        # It asks pyasn1 for names that have others now.
        warnings.simplefilter("ignore", DeprecationWarning)
        import ldap3
        from ldap3.core.exceptions import LDAPException
    implicit = channel == "implicit"
    tls = _tls(ldap3.Tls, context, host)
    server = ldap3.Server(host, port, use_ssl=implicit, tls=tls, get_info=ldap3.NONE, connect_timeout=PATIENCE)
    source = None if ":" in host else CLIENT
    client = ldap3.Connection(server, receive_timeout=int(PATIENCE), source_address=source, auto_referrals=False)
    try:
        client.open()
        try:
            if channel == "explicit":
                _require(client.start_tls(), client)
            _require(client.search("", "(objectClass=*)", ldap3.BASE, attributes=["supportedLDAPVersion"]), client)
            client.user, client.password = distinguished_name(credentials).decode(), credentials.password
            client.authentication = ldap3.SIMPLE
            _require(client.bind(), client)
        finally:
            client.unbind()
    except LDAPException as error:
        raise ConnectionError(f"ldap3: {error}") from error


def _tls(base: Any, context: ssl.SSLContext, host: str) -> Any:
    """With the settings that all clients of a run share, instead of those that ldap3 would make."""

    class Given(base):  # type: ignore[misc]  # ldap3 has no types
        def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
            connection.socket = context.wrap_socket(
                connection.socket, do_handshake_on_connect=do_handshake, server_hostname=host
            )

    return Given()


def _require(done: bool, client: Any) -> None:
    if not done:
        raise Refused(f"ldap3: {client.result}")
