"""IMAP through imapclient.

Owns: one session that upgrades where the channel asks for it, signs in, opens INBOX and leaves.
"""

from __future__ import annotations

import contextlib
import ssl

from imapclient import IMAPClient

from conformance.dialects.dialect import Credentials
from conformance.wire import PATIENCE


def use_imapclient(host: str, port: int, channel: str, context: ssl.SSLContext, credentials: Credentials) -> None:
    """Raises what imapclient raises: ``imaplib.IMAP4.error`` or OSError."""
    implicit = channel == "implicit"
    client = IMAPClient(
        host, port, ssl=implicit, ssl_context=context if implicit else None, timeout=PATIENCE, use_uid=True
    )
    try:
        if channel == "explicit":
            client.starttls(context)
        client.login(credentials.login, credentials.password)
        client.select_folder("INBOX", readonly=True)
        client.noop()
        client.logout()
    finally:
        with contextlib.suppress(OSError):
            client.shutdown()
