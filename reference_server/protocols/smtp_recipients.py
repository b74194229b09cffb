"""Whose mail it is that a client wants to hand in, and what it hears when it is nobody's here.

Owns: what Postmaster means, which domains are ours, and the refusal to relay.  Knows no session.
"""

from __future__ import annotations

from reference_server.mailstore import Account, MailStore
from reference_server.protocols.smtp_grammar import Path


def recipient(store: MailStore, hostname: str, path: Path) -> Account | None:
    """The account that mail to ``path`` goes to, if it is one of ours."""
    if path.domain:
        return store.recipient(path.address)
    # RFC 5321 4.5.1: a Postmaster without a domain is the one of this host.
    return store.recipient(f"postmaster@{hostname}") or store.recipient("postmaster")


def no_recipient(store: MailStore, hostname: str, path: Path, *, logged_in: bool) -> bytes:
    """The reply to RCPT when :func:`recipient` found nobody."""
    if _is_ours(store, hostname, path.domain):
        return b"550 5.1.1 there is no such mailbox here\r\n"
    if logged_in:
        return b"550 5.7.1 this server does not relay, not even for those who are logged in\r\n"
    return b"550 5.7.1 this server does not relay to other domains\r\n"


def _is_ours(store: MailStore, hostname: str, domain: str) -> bool:
    # RFC 5321 4.5.1: every domain that has mail here has a postmaster here.
    return (
        not domain
        or domain.lower() == hostname.lower()
        or store.recipient(f"postmaster@{domain}") is not None
    )
