"""Real clients, as ordinary users have them: what the wire promised must be what they get.

Owns: one short session a service with the client library that people use (smtplib, poplib, imapclient,
http.client, ldap3), on every channel.  They hide resets, closure alerts and pipelining, so they confirm and never
judge alone.
"""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
from collections.abc import Callable
from http.client import HTTPException

from conformance.clients.http import use_http_client
from conformance.clients.imap import use_imapclient
from conformance.clients.ldap import Refused, use_ldap3
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
    Service.WEBMAIL: ("http.client", use_http_client),
    Service.LDAP: ("ldap3", use_ldap3),
    Service.ADMIN: ("http.client", use_http_client),
}

#: What these clients raise when a server does not do what they need.
CLIENT_ERRORS = (
    OSError,
    EOFError,
    smtplib.SMTPException,
    poplib.error_proto,
    imaplib.IMAP4.error,
    HTTPException,
    Refused,
)
