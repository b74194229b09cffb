"""How the suite speaks each protocol: one dialect a service.

Owns: the positive protocol act by which a client knows that it is served, what a refusal looks like, how TLS is asked
for, and the stages at which a session can be left idle.  Shares no parser with the reference server, on purpose: a
mistake made once must not hide itself.
"""

from __future__ import annotations

from conformance.dialects.dialect import Dialect, NotServed, Stage
from conformance.dialects.http import HTTP
from conformance.dialects.imap import IMAP
from conformance.dialects.ldap import LDAP
from conformance.dialects.pop3 import POP3
from conformance.dialects.smtp import SMTP
from reference_server.settings import Service

DIALECTS: dict[Service, Dialect] = {
    Service.SMTP: SMTP(),
    Service.POP3: POP3(),
    Service.IMAP: IMAP(),
    Service.WEBMAIL: HTTP(Service.WEBMAIL),
    Service.LDAP: LDAP(),
    Service.ADMIN: HTTP(Service.ADMIN),
}

__all__ = ["DIALECTS", "Dialect", "NotServed", "Stage"]
