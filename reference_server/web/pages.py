"""Pages from templates, and what every page is sent with.

Owns: the templates, the style sheet, and the headers that keep a browser from doing what no page of ours wants.
Knows no account and no mail.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from reference_server.protocols.http import Request, Response

#: No script at all, nothing from elsewhere, not within another's frame; a message's HTML is framed by ourselves.
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
SAFE: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Pages:
    """The templates of one interface.  ``always`` is known on every page."""

    def __init__(self, **always: Any) -> None:
        self._templates = Environment(
            loader=PackageLoader("reference_server.web"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(always)
        style = files("reference_server.web").joinpath("static/style.css").read_bytes()
        self._style = style
        self.style_path = f"/style-{hashlib.sha256(style).hexdigest()[:12]}.css"
        self._templates.globals["style_path"] = self.style_path

    def page(self, template: str, status: int = 200, **details: Any) -> Response:
        """A page; nobody keeps a copy, since most have something private on them."""
        html = self._templates.get_template(template).render(**details)
        headers = (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", POLICY),
            ("Cache-Control", "no-store"),
            *SAFE,
        )
        return Response(status, headers, html.encode())

    def style(self, request: Request) -> Response | None:
        """The style sheet, if that is what was asked for; its name changes with it, so it may be kept for ever."""
        if request.path != self.style_path:
            return None
        headers = (
            ("Content-Type", "text/css; charset=utf-8"),
            ("Cache-Control", "public, max-age=31536000, immutable"),
            *SAFE,
        )
        return Response(200, headers, self._style)


def redirect(path: str, *cookies: str) -> Response:
    """Somewhere else, to be fetched with GET (RFC 9110 15.4.4)."""
    return Response(303, (("Location", path), ("Cache-Control", "no-store"), *(("Set-Cookie", c) for c in cookies)))
