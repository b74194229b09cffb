"""What stands behind an SMTP verb: paths, parameters, the name a client gives itself (RFC 5321 4.1).

Owns: the syntax, and the reply that says which part of it is wrong.  Knows no session and no account.
Whatever is accepted here is ASCII without control characters, so it may stand in a trace header as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

_ATOM: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED: Final = rb'"(?:[ !#-\[\]-~]|\\[ -~])*"'
# RFC 5321 4.1.2 has no underscore in a domain; the names of real machines do.
_LABEL: Final = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_DOMAIN: Final = _LABEL + rb"(?:\." + _LABEL + rb")*"
_LITERAL: Final = rb"\[[!-Z^-~]+\]"
_ROUTE: Final = rb"@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:"
_PATH: Final = (
    rb"<(?:" + _ROUTE + rb")?"
    rb"((?:" + _ATOM + rb"(?:\." + _ATOM + rb")*|" + _QUOTED + rb"))"
    rb"@(" + _DOMAIN + rb"|" + _LITERAL + rb")>"
)
# RFC 5321 4.1.1.2 has no space behind the colon; clients have sent one for forty years.
_REVERSE: Final = re.compile(rb"FROM: *(?:" + _PATH + rb"|<>)( .*)?", re.DOTALL | re.IGNORECASE)
_FORWARD: Final = re.compile(rb"TO: *(?:" + _PATH + rb"|<(postmaster)>)( .*)?", re.DOTALL | re.IGNORECASE)
_PARAMETERS: Final = re.compile(rb"(?: +[A-Za-z0-9][A-Za-z0-9-]*(?:=[!-<>-~]+)?)* *")
_CLIENT: Final = re.compile(_DOMAIN + rb"|" + _LITERAL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")


class BadSyntax(Exception):
    """The peer wrote what the grammar does not allow; ``reply`` is the line that says so."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply: Final = reply


@dataclass(frozen=True, slots=True)
class Path:
    """A mailbox as a client named it, without brackets and source route; the null path is empty twice.

    ``local`` is unquoted; ``domain`` is a name, an address literal with its brackets, or empty for a
    ``Postmaster`` alone.
    """

    local: str
    domain: str
    text: str

    @property
    def address(self) -> str:
        """As the mail store knows addresses."""
        return f"{self.local}@{self.domain}" if self.domain else self.local


NULL_PATH: Final = Path("", "", "")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What MAIL declares: who sends, and how many octets the text will have (0 = not said)."""

    sender: Path
    size: int


def mail_argument(rest: bytes) -> Envelope:
    """Read what follows ``MAIL ``.  Raises :class:`BadSyntax`."""
    found = _REVERSE.fullmatch(rest)
    if found is None:
        raise BadSyntax(_not_a_path(rest, b"FROM:", b"7"))
    local, domain, parameters = found.groups()
    sender = NULL_PATH if local is None else _path(local, domain, b"7")
    return Envelope(sender, _mail_parameters(parameters) if parameters else 0)


def rcpt_argument(rest: bytes) -> Path:
    """Read what follows ``RCPT ``.  Raises :class:`BadSyntax`."""
    found = _FORWARD.fullmatch(rest)
    if found is None:
        raise BadSyntax(_not_a_path(rest, b"TO:", b"3"))
    local, domain, postmaster, parameters = found.groups()
    if parameters and _PARAMETERS.fullmatch(parameters) is None:
        raise BadSyntax(b"501 5.5.4 the parameters are not written as parameters are\r\n")
    if parameters and parameters.strip():
        raise BadSyntax(b"555 5.5.4 RCPT takes no parameters here\r\n")
    if postmaster is not None:  # RFC 5321 4.1.1.3: the one mailbox that needs no domain
        return Path("postmaster", "", postmaster.decode("ascii"))
    return _path(local, domain, b"3")


def client_name(rest: bytes) -> str | None:
    """The name that a client gives itself in HELO or EHLO; None if it is none (RFC 5321 4.1.1.1)."""
    name = rest.strip(b" ")
    if len(name) > 255 or _CLIENT.fullmatch(name) is None:
        return None
    return name.decode("ascii")


def _path(local: bytes, domain: bytes, subject: bytes) -> Path:
    # RFC 5321 4.5.3.1.1 to 4.5.3.1.3: 64 octets, 255 octets, 256 for the whole path with its brackets.
    if len(local) > 64 or len(domain) > 255 or len(local) + len(domain) > 253:
        raise BadSyntax(b"501 5.1.%s the address is too long\r\n" % subject)
    host = domain.decode("ascii")
    if host[0] == "[" and not _is_address_literal(host[1:-1]):
        raise BadSyntax(b"501 5.1.%s no address stands between the brackets\r\n" % subject)
    name = local.decode("ascii")
    text = f"{name}@{host}"
    if name[0] == '"':
        name = _QUOTED_PAIR.sub(r"\1", name[1:-1])
    return Path(name, host, text)


def _is_address_literal(inside: str) -> bool:
    # RFC 5321 4.1.3: an IPv4 address bare, an IPv6 address behind its tag; no other tag was ever registered.
    try:
        if inside[:5].upper() == "IPV6:":
            IPv6Address(inside[5:])
        else:
            IPv4Address(inside)
    except AddressValueError:
        return False
    return True


def _mail_parameters(text: bytes) -> int:
    """The declared size.  BODY (RFC 6152) and AUTH (RFC 4954 5) are checked and change nothing here."""
    if _PARAMETERS.fullmatch(text) is None:
        raise BadSyntax(b"501 5.5.4 the parameters are not written as parameters are\r\n")
    size = 0
    seen = set()
    for parameter in text.split():
        keyword, _, value = parameter.partition(b"=")
        keyword = keyword.upper()
        if keyword in seen:
            raise BadSyntax(b"501 5.5.4 a parameter is given twice\r\n")
        seen.add(keyword)
        match keyword:
            case b"SIZE":
                if not value.isdigit() or len(value) > 20:  # RFC 1870 3: at most 20 digits
                    raise BadSyntax(b"501 5.5.4 SIZE wants a number\r\n")
                size = int(value)
            case b"BODY":
                if value.upper() not in (b"7BIT", b"8BITMIME"):
                    raise BadSyntax(b"501 5.5.4 BODY is 7BIT or 8BITMIME\r\n")
            case b"AUTH":
                if not value:
                    raise BadSyntax(b"501 5.5.4 AUTH wants a mailbox\r\n")
            case _:
                raise BadSyntax(b"555 5.5.4 MAIL knows SIZE, BODY and AUTH only\r\n")
    return size


def _not_a_path(rest: bytes, prefix: bytes, subject: bytes) -> bytes:
    if rest[: len(prefix)].upper() != prefix:
        return b"501 5.5.4 expected %s<address>\r\n" % prefix
    if not rest.isascii():  # RFC 6531 3.2 would be needed, and is not offered
        return b"553 5.6.7 addresses are ASCII here\r\n"
    return b"501 5.1.%s that is no address in angle brackets\r\n" % subject
