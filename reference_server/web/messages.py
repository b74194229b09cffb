"""Messages for people: what a list shows of them, what can be read of them, and how an answer begins.

Owns: reading whatever mail there is, however broken, without ever failing; the cleaning of HTML; quoting; writing a new
message.  Knows no mailbox, no page and no session.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesHeaderParser, BytesParser
from email.utils import formataddr, formatdate, getaddresses, make_msgid, parsedate_to_datetime
from typing import Final

import nh3

from reference_server.web.routing import Upload

#: Text of a message that is shown at most (characters); the rest can be downloaded.
MOST_TEXT: Final = 200_000
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SUBJECT_PREFIX: Final = re.compile(r"\s*re\s*:\s*", re.IGNORECASE)
_LINK: Final = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]}]")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list shows."""

    sender: str
    to: str
    subject: str
    date: datetime | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is to be downloaded; ``number`` finds it again."""

    number: int
    name: str
    type: str
    size: int


@dataclass(frozen=True, slots=True)
class View:
    """What can be read of a message.  ``html`` is clean but still foreign: for a frame that can do nothing."""

    sender: str
    to: str
    copies: str
    subject: str
    date: datetime | None
    text: str
    html: str | None
    attachments: tuple[Attachment, ...]
    reply_to: str
    message_id: str
    references: str


def summary(raw: bytes) -> Summary:
    """The head of a message for a list."""
    message = BytesHeaderParser(policy=policy.compat32).parsebytes(raw)
    senders = _people(message, "from")
    shown = ", ".join(name or address for name, address in senders) or "(nobody)"
    to = ", ".join(name or address for name, address in _people(message, "to"))
    return Summary(shown, to, _field(message, "subject") or "(no subject)", _date(message))


def view(raw: bytes) -> View:
    """Everything that is shown of a message."""
    message = BytesParser(policy=policy.compat32).parsebytes(raw)
    texts: list[str] = []
    html: list[str] = []
    attachments: list[Attachment] = []
    for number, part in enumerate(_leaves(message)):
        kind = part.get_content_type()
        named = _file_name(part)
        attached = "attachment" in str(part.get("content-disposition", "")).lower() or named is not None
        if kind == "text/plain" and not attached:
            texts.append(_text_of(part))
        elif kind == "text/html" and not attached:
            html.append(_text_of(part))
        else:
            octets = content_of(part)
            attachments.append(Attachment(number, named or f"part-{number}", kind, len(octets)))
    text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", "\n".join(texts).replace("\r\n", "\n"))
    if not text and html:
        text = as_text("\n".join(html))
    return View(
        _addresses(message, "from"),
        _addresses(message, "to"),
        _addresses(message, "cc"),
        _field(message, "subject") or "(no subject)",
        _date(message),
        text[:MOST_TEXT],
        clean("\n".join(html)) if html else None,
        tuple(attachments),
        _addresses(message, "reply-to") or _addresses(message, "from"),
        _field(message, "message-id"),
        _field(message, "references"),
    )


def attachment(raw: bytes, number: int) -> tuple[Attachment, bytes] | None:
    """A part to be downloaded, by the number that :func:`view` gave it."""
    message = BytesParser(policy=policy.compat32).parsebytes(raw)
    for at, part in enumerate(_leaves(message)):
        if at == number:
            octets, name = content_of(part), _file_name(part) or f"part-{number}"
            return Attachment(number, name, part.get_content_type(), len(octets)), octets
    return None


def mentions(raw: bytes, words: Sequence[str]) -> bool:
    """Whether all words are somewhere in what is shown, without regard to case."""
    seen = view(raw)
    text = f"{seen.sender} {seen.to} {seen.copies} {seen.subject} {seen.text}".casefold()
    return all(word.casefold() in text for word in words)


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """A line of text as pieces to be shown: ``("text", ...)`` and ``("link", ...)``."""
    at = 0
    for link in _LINK.finditer(text):
        if link.start() > at:
            yield "text", text[at : link.start()]
        yield "link", link.group()
        at = link.end()
    if at < len(text):
        yield "text", text[at:]


def clean(html: str) -> str:
    """HTML without anything that acts, asks or fetches: no script, style, form, frame, nor picture from elsewhere."""
    return nh3.clean(
        html,
        tags=nh3.ALLOWED_TAGS - {"img", "map", "area"},
        clean_content_tags={"script", "style", "title", "head"},
        attributes={"a": {"href", "title"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


def as_text(html: str) -> str:
    """What is left of HTML when only its words are kept."""
    broken = re.sub(r"(?i)<(?:br|/p|/div|/tr|/li|/h[1-6])\b[^>]*>", "\n", html)
    plain = nh3.clean(broken, tags=set(), clean_content_tags={"script", "style", "title", "head"})
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&nbsp;", " "), ("&amp;", "&")):
        plain = plain.replace(entity, character)
    return re.sub(r"\n\s*\n\s*\n+", "\n\n", plain).strip()


def answer_subject(subject: str) -> str:
    """``Re:`` once, however often it was answered before."""
    plain = subject
    while (prefix := _SUBJECT_PREFIX.match(plain)) is not None:
        plain = plain[prefix.end() :]
    return f"Re: {plain}"


def quoted(seen: View) -> str:
    """How an answer begins."""
    when = seen.date.strftime("on %d %B %Y at %H:%M") if seen.date else "earlier"
    lines = "\n".join(f"> {line}" if line else ">" for line in seen.text.rstrip().split("\n"))
    return f"\n\n{seen.sender} wrote {when}:\n{lines}\n"


def addresses_in(text: str) -> list[str]:
    """The bare addresses of a field that people write addresses into."""
    found = [address.strip() for _, address in getaddresses([text.replace("\n", ",").replace(";", ",")])]
    return list(dict.fromkeys(address for address in found if address))


def written(
    sender: tuple[str, str],
    *,
    to: str,
    copies: str,
    subject: str,
    text: str,
    uploads: Sequence[Upload] = (),
    answers: str = "",
    references: str = "",
) -> bytes:
    """A new message, with CRLF line ends.  Raises ``ValueError`` for what cannot stand in a head."""
    message = EmailMessage(policy=policy.SMTP)
    try:
        message["From"] = formataddr(sender)
        if to:
            message["To"] = ", ".join(addresses_in(to))
        if copies:
            message["Cc"] = ", ".join(addresses_in(copies))
        message["Subject"] = " ".join(subject.split())
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = make_msgid(domain=sender[1].rpartition("@")[2] or None)
        if answers:
            message["In-Reply-To"] = answers
            message["References"] = f"{references} {answers}".strip()
    except (MessageError, ValueError, IndexError) as error:
        raise ValueError("an address or the subject cannot be sent like this") from error
    message.set_content(text.replace("\r\n", "\n"), cte="quoted-printable" if not text.isascii() else None)
    for upload in uploads:
        kind, _, sub = upload.type.partition("/")
        message.add_attachment(
            upload.content, maintype=kind or "application", subtype=sub or "octet-stream", filename=upload.name
        )
    return message.as_bytes()


# -- reading what there is ---------------------------------------------------------------------------------------------


def _leaves(message: Message) -> Iterator[Message]:
    for part in message.walk():
        if not part.is_multipart():
            yield part


def content_of(part: Message) -> bytes:
    """A part's octets, its transfer encoding taken off."""
    octets = part.get_payload(decode=True)
    return octets if isinstance(octets, bytes) else b""


def _text_of(part: Message) -> str:
    octets = content_of(part)
    charset = str(part.get_param("charset", "utf-8") or "utf-8")
    try:
        return octets.decode(charset)
    except (LookupError, UnicodeDecodeError, ValueError):
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return octets.decode("latin-1")


def _field(message: Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    try:
        text = str(make_header(decode_header(value)))
    except (LookupError, UnicodeError, ValueError, MessageError):
        text = str(value)
    return " ".join(_CONTROLS.sub(" ", text.encode("utf-8", "replace").decode()).split())


def _people(message: Message, name: str) -> list[tuple[str, str]]:
    return [(each, address) for each, address in getaddresses([_field(message, name)]) if each or address]


def _addresses(message: Message, name: str) -> str:
    return ", ".join(
        formataddr((each, address)) if each.isascii() else f"{each} <{address}>"
        for each, address in _people(message, name)
    )


def _date(message: Message) -> datetime | None:
    try:
        return parsedate_to_datetime(str(message.get("date", "")))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _file_name(part: Message) -> str | None:
    try:
        name = part.get_filename()
    except (LookupError, UnicodeError, ValueError, TypeError):
        return None
    if not name:
        return None
    with contextlib.suppress(LookupError, UnicodeError, ValueError, MessageError):
        name = str(make_header(decode_header(name)))
    return _CONTROLS.sub("", re.split(r"[\\/]", name)[-1]) or None
