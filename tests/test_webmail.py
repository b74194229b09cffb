"""WebMail as people use it, without a browser's help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from reference_server.mailstore import MailStore
from reference_server.web.webmail import Webmail
from tests.browsing import Browser
from tests.stores import account, known

LETTER = (
    b"From: Bob <bob@example.test>\r\nTo: alice@example.test\r\nSubject: %s\r\n"
    b"Message-ID: <1@example.test>\r\n\r\n%s\r\n"
)
NICE = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.test>\r\nTo: alice@example.test\r\nSubject: Both\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p onclick='x()'>Dear <b>A</b><script>alert(1)</script>"
    b"<img src='http://evil.test/x'><a href='javascript:x()'>y</a></p>\r\n"
    b'--b\r\nContent-Type: text/html; name="../evil.html"\r\nContent-Disposition: attachment\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nPHNjcmlwdD4=\r\n--b--\r\n"
)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> MailStore:
    store = MailStore(tmp_path / "mail", [account(name, password=f"{name}'s") for name in ("alice", "bob")])
    store.deliver([known(store, "alice")], LETTER % (b"Lunch", b"At noon? See https://example.test/menu."))
    return store


@pytest.fixture
def webmail(store: MailStore, clock: Clock) -> Webmail:
    return Webmail(store, "mail.example.test", clock)


@pytest.fixture
def browser(webmail: Webmail) -> Iterator[Browser]:
    browser = Browser(webmail)
    yield browser
    assert browser.response.status < 500


@pytest.fixture
def alice(browser: Browser) -> Browser:
    return browser.sign_in("alice", "alice's")


def inbox(store: MailStore, name: str) -> list[bytes]:
    mailbox = store.mailbox(known(store, name), "INBOX")
    return [mailbox.read(message.uid) for message in mailbox.messages()]


# -- at the door -------------------------------------------------------------------------------------------------------


def test_nobody_sees_mail_without_signing_in(browser: Browser) -> None:
    for path in ("/", "/mail/INBOX", "/mail/INBOX/1", "/mail/INBOX/1/source", "/write"):
        assert "Sign in" in browser.get(path).text
        assert browser.path == "/login"


def test_signing_in_and_out(browser: Browser) -> None:
    before = dict(browser.get("/login").cookies)
    assert "Lunch" in browser.sign_in("alice", "alice's").text
    assert browser.cookies != before  # what was known before is worth nothing now
    kept = dict(browser.cookies)
    browser.submit("/logout")
    assert browser.path == "/login"
    browser.cookies = kept
    assert "Sign in" in browser.get("/mail/INBOX").text


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", "alice's"), ("", ""), ("alice", "")])
def test_a_wrong_name_and_a_wrong_password_look_the_same(browser: Browser, name: str, password: str) -> None:
    browser.sign_in(name, password)
    assert browser.response.status == 403
    assert browser.response.login_failed
    assert "Name or password is wrong." in browser.text


def test_cookies_cannot_be_read_by_scripts_nor_sent_by_others(webmail: Webmail) -> None:
    for secure in (False, True):
        browser = Browser(webmail, secure=secure)
        browser.ask("GET", "/login")
        cookie = browser.header("Set-Cookie")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ("Secure" in cookie) is secure


def test_where_logins_need_tls_there_is_no_form_in_clear(webmail: Webmail) -> None:
    browser = Browser(webmail)
    browser.get("/login")
    browser.may_log_in = False
    browser.submit("/login", name="alice", password="alice's")
    assert browser.response.status == 403
    assert "https://" in browser.text
    assert 'type="password"' not in browser.page
    assert not browser.response.login_failed  # nothing was tried


def test_where_logins_need_tls_nobody_is_remembered_in_clear(webmail: Webmail) -> None:
    browser = Browser(webmail, may_log_in=False)
    for path in ("/", "/login"):
        browser.ask("GET", path)
        assert browser.header("Set-Cookie") == ""


def test_where_logins_need_tls_a_login_that_travels_in_clear_is_none(alice: Browser) -> None:
    alice.may_log_in = False  # its cookie may have been overheard
    assert alice.get("/").response.status == 403
    assert alice.path == "/login"
    alice.may_log_in = True
    assert alice.get("/").response.status == 200


def test_whoever_does_nothing_is_signed_out(alice: Browser, clock: Clock) -> None:
    clock.seconds += 1700
    assert "Lunch" in alice.get("/mail/INBOX").text
    clock.seconds += 1900
    assert "Sign in" in alice.get("/mail/INBOX").text


def test_an_account_that_is_taken_away_is_signed_out(alice: Browser, store: MailStore) -> None:
    store.configure([account("bob")])
    assert "Sign in" in alice.get("/mail/INBOX").text


@pytest.mark.parametrize("token", ["", "guessed"])
@pytest.mark.parametrize("path", ["/mail/INBOX", "/mail/INBOX/1", "/write", "/folders", "/logout"])
def test_nothing_is_changed_without_the_token(alice: Browser, store: MailStore, path: str, token: str) -> None:
    alice.get("/mail/INBOX")
    alice.submit(path, token=token, do="delete", uid="1", to="bob@example.test", text="x", name="New")
    assert alice.response.status == 403
    assert len(inbox(store, "alice")) == 1
    assert inbox(store, "bob") == []
    assert "Lunch" in alice.get("/mail/INBOX").text  # still signed in


def test_nothing_is_changed_by_looking(alice: Browser, store: MailStore) -> None:
    alice.ask("GET", "/logout")
    assert alice.response.status == 405
    assert alice.header("Allow") == "POST"
    alice.ask("GET", "/mail/INBOX/1?do=delete")
    assert len(inbox(store, "alice")) == 1


def test_every_page_keeps_scripts_and_others_out(alice: Browser) -> None:
    for path in ("/login", "/mail/INBOX", "/mail/INBOX/1", "/write", "/nowhere", "/mail/None"):
        alice.get(path)
        policy = alice.header("Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
        assert alice.header("X-Content-Type-Options") == "nosniff"
        assert alice.header("Cache-Control") == "no-store"
        assert "<script" not in alice.page


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_message_is_unread_until_it_is_read(alice: Browser) -> None:
    assert "Unread: Bob Lunch" in alice.get("/mail/INBOX").text
    assert "At noon?" in alice.get("/mail/INBOX/1").text
    assert 'href="https://example.test/menu"' in alice.page
    assert "Unread:" not in alice.get("/mail/INBOX").text
    alice.submit("/mail/INBOX", do="unread", uid="1")
    assert "Unread: Bob Lunch" in alice.text


def test_html_is_clean_and_in_a_cage(alice: Browser, store: MailStore) -> None:
    store.deliver([known(store, "alice")], NICE)
    assert "Jürgen" in alice.get("/mail/INBOX/2").text
    assert '<iframe sandbox="allow-popups"' in alice.page
    alice.get("/mail/INBOX/2/html")
    assert "Dear <b>A</b>" in alice.page
    for bad in ("script", "onclick", "evil.test", "javascript", "<img"):
        assert bad not in alice.page
    assert alice.header("Content-Security-Policy").startswith("sandbox")


def test_attachments_are_kept_and_never_shown(alice: Browser, store: MailStore) -> None:
    store.deliver([known(store, "alice")], NICE)
    alice.get("/mail/INBOX/2")
    link = re.search(r'href="([^"]+/part/\d+)"', alice.page)
    assert link
    alice.ask("GET", link[1])
    assert alice.response.body == b"<script>"
    assert alice.header("Content-Type") == "application/octet-stream"
    assert alice.header("Content-Disposition").startswith('attachment; filename="evil.html"')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe\x00",
        b"Subject: =?utf-8?b?!!!?=\r\n\r\n",
        b"Subject: =?no-such-charset?q?x?=\r\nFrom: <<>>,,\r\nDate: yesterday\r\n\r\nx",
        b"Content-Type: text/plain; charset=nonsense\r\n\r\n\xe4\xf6",
        b"Content-Type: multipart/mixed\r\n\r\nno boundary",
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: message/rfc822\r\n\r\n--a--",
        b"Content-Transfer-Encoding: base64\r\n\r\n!!!",
        b"From: " + b"a" * 5000 + b"\r\nTo: " + b"b@c, " * 500 + b"\r\n\r\n",
    ],
)
def test_whatever_mail_there_is_can_be_looked_at(alice: Browser, store: MailStore, raw: bytes) -> None:
    store.mailbox(known(store, "alice"), "INBOX").append(raw)
    for path in ("/mail/INBOX", "/mail/INBOX/2", "/mail/INBOX/2/source", "/mail/INBOX?q=x", "/write?to=INBOX/2&all=1"):
        assert alice.get(path).response.status == 200


def test_words_are_found_wherever_they_are(alice: Browser, store: MailStore) -> None:
    store.deliver([known(store, "alice")], LETTER % (b"Dinner", b"At eight."))
    assert "1 found" in alice.get("/mail/INBOX?q=EIGHT").text
    assert "Dinner" in alice.text
    assert "Lunch" not in alice.text
    assert "Nothing was found" in alice.get("/mail/INBOX?q=breakfast").text


def test_many_messages_have_several_pages(alice: Browser, store: MailStore) -> None:
    mailbox = store.mailbox(known(store, "alice"), "INBOX")
    for number in range(60):
        mailbox.append(LETTER % (b"No. %d" % number, b"x"))
    assert "page 1 of 2" in alice.get("/mail/INBOX").text
    assert "No. 59" in alice.text
    assert "Lunch" not in alice.text
    assert "Lunch" in alice.get("/mail/INBOX?page=2").text
    assert alice.get("/mail/INBOX?page=99").response.status == 200
    assert alice.get("/mail/INBOX?page=-x").response.status == 200


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_message_arrives_and_a_copy_is_kept(alice: Browser, store: MailStore) -> None:
    text = "Hallo Bob,\r\n\r\nschön.\r\n"
    alice.get("/write").submit("/write", to="Bob <bob@example.test>", subject="Grüße", text=text)
    assert "The message is sent." in alice.text
    (raw,) = inbox(store, "bob")
    message = message_from_bytes(raw)
    assert message["From"] == "alice <alice@example.test>"
    assert message["Received"].startswith("from webmail")
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == text
    assert "Grüße" in alice.get("/mail/Sent").text


def test_an_answer_goes_back_and_is_marked(alice: Browser, store: MailStore) -> None:
    alice.get("/write?to=INBOX/1")
    assert alice.value("to") == "Bob <bob@example.test>"
    assert alice.value("subject") == "Re: Lunch"
    assert "> At noon?" in alice.value("text")
    alice.submit("/write", to=alice.value("to"), subject="Re: Lunch", text="Yes.", answers="INBOX/1")
    (raw,) = inbox(store, "bob")
    assert message_from_bytes(raw)["In-Reply-To"] == "<1@example.test>"
    assert "answered" in alice.get("/mail/INBOX").text


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("", "at least one address"),
        ("carol@example.test", "Nobody here has the address carol@example.test"),
        ("bob@example.test, carol@elsewhere.test", "carol@elsewhere.test"),
    ],
)
def test_what_cannot_be_sent_is_not_lost(alice: Browser, store: MailStore, to: str, reason: str) -> None:
    alice.get("/write").submit("/write", to=to, subject="Precious", text="long text")
    assert alice.response.status == 422
    assert reason in alice.text
    assert alice.value("subject") == "Precious"
    assert alice.value("text") == "long text"
    assert inbox(store, "bob") == []


def test_no_field_brings_another_field(alice: Browser, store: MailStore) -> None:
    alice.get("/write").submit("/write", to="bob@example.test", subject="x\r\nBcc: carol@example.test", text="t")
    (raw,) = inbox(store, "bob")
    assert message_from_bytes(raw)["Bcc"] is None


# -- putting away ------------------------------------------------------------------------------------------------------


def test_deleting_takes_two_steps(alice: Browser, store: MailStore) -> None:
    alice.get("/mail/INBOX").submit("/mail/INBOX", do="delete", uid="1")
    assert "1 message moved to Trash" in alice.text
    assert inbox(store, "alice") == []
    assert "Lunch" in alice.get("/mail/Trash").text
    alice.submit("/mail/Trash/1", do="delete")
    assert "deleted for good" in alice.text


def test_folders_are_made_and_messages_moved(alice: Browser) -> None:
    alice.get("/mail/INBOX").submit("/folders", name="Work/2026")
    assert "The folder Work/2026 is there." in alice.text
    assert alice.path == "/mail/Work%2F2026"
    alice.get("/mail/INBOX").submit("/mail/INBOX", do="move", uid="1", target="Work/2026")
    assert "Lunch" in alice.get("/mail/Work%2F2026").text
    assert "At noon" in alice.get("/mail/Work%2F2026/1").text
    alice.submit("/folders", name="Work/2026")
    assert "No folder was made" in alice.text


@pytest.mark.parametrize("path", ["/mail/Nowhere", "/mail/INBOX/99", "/mail/..", "/mail/INBOX/1/part/7", "/x"])
def test_what_is_not_there_is_not_there(alice: Browser, path: str) -> None:
    assert alice.get(path).response.status == 404


def test_nobody_reads_what_is_somebody_elses(webmail: Webmail) -> None:
    bob = Browser(webmail).sign_in("bob", "bob's")
    assert "There is no mail in this folder" in bob.get("/mail/INBOX").text
    assert bob.get("/mail/INBOX/1").response.status == 404
