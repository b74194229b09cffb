"""POP3 through the standard library's poplib.

Owns: one session that upgrades where the channel asks for it, signs in, looks at the maildrop and leaves.
"""

from __future__ import annotations

import poplib
import ssl

from conformance.dialects.dialect import Credentials
from conformance.wire import PATIENCE


def use_poplib(host: str, port: int, channel: str, context: ssl.SSLContext, credentials: Credentials) -> None:
    """Raises what poplib raises: ``poplib.error_proto`` or OSError."""
    client: poplib.POP3
    if channel == "implicit":
        client = poplib.POP3_SSL(host, port, timeout=PATIENCE, context=context)
    else:
        client = poplib.POP3(host, port, timeout=PATIENCE)
    try:
        if channel == "explicit":
            client.stls(context=context)
        client.user(credentials.login)
        client.pass_(credentials.password)
        client.stat()
        client.quit()
    finally:
        client.close()
