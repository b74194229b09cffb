"""SMTP commands, one dialogue a rule."""

from __future__ import annotations

from reference_server.protocols.smtp import SmtpSession
from reference_server.session import Policy
from tests.dialogue import Conversation, play
from tests.memory_store import MemoryStore

POLICY = Policy("mail.example.test", offers_tls=True)


def smtp(script: str, policy: Policy = POLICY) -> list[Conversation]:
    return play(lambda: SmtpSession(policy, MemoryStore()), script)


def test_a_message_is_taken() -> None:
    smtp(
        """
        S: 220 mail.example.test ESMTP *
        C: EHLO client.example.org
        S: 250-mail.example.test
        S: 250-STARTTLS
        S: 250-AUTH PLAIN LOGIN
        S*: 250-*
        S: 250 *
        C: MAIL FROM:<someone@example.org> SIZE=100 BODY=8BITMIME
        S: 250 2.1.0 *
        C: RCPT TO:<alice@example.test>
        S: 250 2.1.5 *
        C: DATA
        S: 354 *
        C: Subject: hello
        C:
        C: ..dot
        C: .
        S: 250 2.0.0 *
        C: QUIT
        S: 221 2.0.0 *
        A: Close
        """
    )
