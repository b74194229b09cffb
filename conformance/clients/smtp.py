"""SMTP through the standard library's smtplib.

Owns: one session that says EHLO, upgrades where the channel asks for it, signs in where that is offered, and leaves.
"""

from __future__ import annotations

import smtplib
import ssl

from conformance.dialects.dialect import Credentials
from conformance.scenarios import CLIENT
from conformance.wire import PATIENCE


def use_smtplib(host: str, port: int, channel: str, context: ssl.SSLContext, credentials: Credentials) -> None:
    """Raises what smtplib raises: ``smtplib.SMTPException`` or OSError."""
    source = None if ":" in host else (CLIENT, 0)
    client = (
        smtplib.SMTP_SSL(host, port, timeout=PATIENCE, context=context, source_address=source)
        if channel == "implicit"
        else smtplib.SMTP(host, port, timeout=PATIENCE, source_address=source)
    )
    try:
        if channel == "explicit":
            client.starttls(context=context)
        client.ehlo_or_helo_if_needed()
        if client.has_extn("auth"):
            client.login(credentials.login, credentials.password)
        client.noop()
        client.quit()
    finally:
        client.close()
