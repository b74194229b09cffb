"""HTTP through the standard library's http.client.

Owns: one connection that is upgraded where the channel asks for it, on which a page is fetched twice.
"""

from __future__ import annotations

import http.client
import ssl

from conformance.dialects.dialect import Credentials
from conformance.scenarios import CLIENT
from conformance.wire import PATIENCE


def use_http_client(host: str, port: int, channel: str, context: ssl.SSLContext, credentials: Credentials) -> None:
    """Raises what http.client raises: ``http.client.HTTPException`` or OSError."""
    source = None if ":" in host else (CLIENT, 0)
    connection = (
        http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context, source_address=source)
        if channel == "implicit"
        else http.client.HTTPConnection(host, port, timeout=PATIENCE, source_address=source)
    )
    try:
        if channel == "explicit":
            _upgrade(connection, host, context)
        for _ in range(2):
            connection.request("GET", credentials.how.path)
            response = connection.getresponse()
            response.read()
            if response.status in (408, 421, 429, 503):
                raise http.client.HTTPException(f"{response.status} {response.reason}")
    finally:
        connection.close()


def _upgrade(connection: http.client.HTTPConnection, host: str, context: ssl.SSLContext) -> None:
    """RFC 2817 3: which http.client does not know; the request is answered under TLS."""
    connection.request("OPTIONS", "*", headers={"Upgrade": "TLS/1.2", "Connection": "Upgrade"})
    response = connection.getresponse()
    response.read()
    if response.status != http.client.SWITCHING_PROTOCOLS:
        raise http.client.HTTPException(f"no TLS: {response.status} {response.reason}")
    connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    answer = http.client.HTTPResponse(connection.sock, method="OPTIONS")
    answer.begin()
    answer.read()
