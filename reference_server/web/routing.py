"""From a request to the function that answers it, and what a form has brought along.

Owns: paths with places to be filled in, forms (urlencoded and multipart), cookies.  Knows no page, no account and no
session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.cookies import CookieError, SimpleCookie
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qs, unquote

from reference_server.protocols.http import Request, Response

C = TypeVar("C")

_PLACE: Final = re.compile(r"\{(\w+)(?::(int|path))?\}")
_PATTERNS: Final = {None: r"[^/]+", "int": r"[0-9]{1,18}", "path": r".+"}
#: Fields of one form: more than any page of ours has.
MAX_FIELDS: Final = 2000


@dataclass(frozen=True, slots=True)
class Route(Generic[C]):
    """One way in.  ``path`` as ``/mail/{folder}/{uid:int}``; ``open`` to those who have not signed in."""

    method: str
    path: str
    handler: Callable[[C], Response]
    open: bool = False


class Router(Generic[C]):
    """All ways in, in the order in which they are tried."""

    def __init__(self, routes: Iterable[Route[C]]) -> None:
        self._routes = [(_compiled(route.path), route) for route in routes]

    def find(self, method: str, target: str) -> tuple[Route[C], dict[str, str]] | frozenset[str]:
        """The route and what fills its places; or the methods that the path has, none if there is no such path.

        ``target`` as it came over the wire: an escaped slash is part of a name.
        """
        methods: set[str] = set()
        wanted = "GET" if method == "HEAD" else method
        for pattern, route in self._routes:
            found = pattern.fullmatch(target)
            if found is not None:
                if route.method == wanted:
                    return route, {name: unquote(value) for name, value in found.groupdict().items()}
                methods.add(route.method)
        return frozenset(methods)


def _compiled(path: str) -> re.Pattern[str]:
    pattern, at = "", 0
    for place in _PLACE.finditer(path):
        pattern += re.escape(path[at : place.start()]) + f"(?P<{place[1]}>{_PATTERNS[place[2]]})"
        at = place.end()
    return re.compile(pattern + re.escape(path[at:]), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with a form."""

    name: str
    type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form; a name may come several times."""

    values: Mapping[str, list[str]] = field(default_factory=dict)
    uploads: Mapping[str, list[Upload]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """The first value of that name."""
        return self.values.get(name, [default])[0]

    def texts(self, name: str) -> list[str]:
        """All values of that name."""
        return self.values.get(name, [])


class BadForm(ValueError):
    """The content of a request is no form."""


def form_of(request: Request) -> Form:
    """What the request's content says.  Raises :class:`BadForm`."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    match kind.strip().lower():
        case "application/x-www-form-urlencoded":
            try:
                text = request.body.decode()
                return Form(parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
            except ValueError:
                raise BadForm("the form cannot be read") from None
        case "multipart/form-data":
            return _multipart(request)
        case _:
            return Form()


def _multipart(request: Request) -> Form:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode("latin-1", "replace")
    whole = BytesParser(policy=HTTP).parsebytes(head + request.body)
    if not whole.is_multipart():
        raise BadForm("the form cannot be read")
    values: dict[str, list[str]] = {}
    uploads: dict[str, list[Upload]] = {}
    for count, part in enumerate(whole.iter_parts()):
        name = part.get_param("name", header="content-disposition")
        if count >= MAX_FIELDS or not isinstance(name, str):
            raise BadForm("the form cannot be read")
        content = part.get_payload(decode=True)
        octets = content if isinstance(content, bytes) else b""
        file = part.get_filename()
        if file is None:
            values.setdefault(name, []).append(octets.decode(errors="replace"))
        elif file or octets:
            uploads.setdefault(name, []).append(Upload(_base_name(file), part.get_content_type(), octets))
    return Form(values, uploads)


def _base_name(file: str) -> str:
    """The last part of what may be a path on the client's machine."""
    return re.split(r"[\\/]", unquote(file))[-1] or "file"


def cookies_of(request: Request) -> dict[str, str]:
    """The request's cookies; nothing where they cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(request.headers.get("cookie", "")).items()}
    except CookieError:
        return {}
