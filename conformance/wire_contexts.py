"""TLS settings of the suite's clients.

Owns: what a client verifies, and what it is pinned to.  Knows no connection.
"""

from __future__ import annotations

import ssl


def client_context(
    authority: str | None, *, minimum: ssl.TLSVersion | None = None, maximum: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A client's TLS settings: verifies against ``authority`` (a PEM file), or nothing at all when it is None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Python 3.11.2, which is Debian 12's, would take an end without close_notify for one with it.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cafile=authority)
    if minimum is not None:
        context.minimum_version = minimum
    if maximum is not None:
        context.maximum_version = maximum
    return context


def trusting_nobody() -> ssl.SSLContext:
    """A client that ends every handshake with an alert, because it knows no authority at all."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
