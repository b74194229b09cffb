"""Real clients, as ordinary users have them: what the wire promised must be what they get.

Owns: one short session a service with the client library that people use (smtplib, poplib, imapclient), on every
channel.  They hide resets, closure alerts and pipelining, so they confirm and never judge alone.
"""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
from collections.abc import Callable

from conformance.clients.imap import use_imapclient
from conformance.clients.pop3 import use_poplib
from conformance.clients.smtp import use_smtplib
from conformance.dialects.dialect import Credentials
from reference_server.settings import Service

#: A client is called with host, port, channel (``plain``, ``explicit``, ``implicit``), TLS settings and an account.
Client = Callable[[str, int, str, ssl.SSLContext, Credentials], None]

CLIENTS: dict[Service, tuple[str, Client]] = {
    Service.SMTP: ("smtplib", use_smtplib),
    Service.POP3: ("poplib", use_poplib),
    Service.IMAP: ("imapclient", use_imapclient),
}

#: What these clients raise when a server does not do what they need.
CLIENT_ERRORS = (OSError, EOFError, smtplib.SMTPException, poplib.error_proto, imaplib.IMAP4.error)
