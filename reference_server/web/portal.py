"""A web interface that people sign in to: what webmail and remote administration have in common.

Owns: signing in and out, who may see which page, the token that every change needs (CWE-352), and that no password
travels in clear where logins need TLS.  Knows nothing of what there is to see behind the door.

Nothing here believes a header about where a client is: addresses come from the connection.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from reference_server.accounts import Account
from reference_server.protocols.http import Request, Response
from reference_server.web.pages import SAFE, Pages, redirect
from reference_server.web.routing import BadForm, Form, Route, Router, cookies_of, form_of
from reference_server.web.visits import Visit, Visits

log = logging.getLogger(__name__)

_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request with everything that was found out about it.  Whoever answers it has ``account``, unless it is open."""

    request: Request
    visit: Visit
    form: Form
    places: Mapping[str, str]

    @property
    def account(self) -> Account:
        """Who is asking."""
        assert self.visit.account is not None
        return self.visit.account


class Portal:
    """See :class:`reference_server.protocols.http.Application`.

    ``start`` is where one is after signing in; ``still_here`` says of somebody who did so whether the account exists.
    ``api`` is the beginning of paths that programs use: they show name and password with every request (RFC 7617)
    instead of signing in.
    """

    def __init__(
        self,
        pages: Pages,
        routes: Iterable[Route[Call]],
        *,
        cookie: str,
        start: str,
        authenticate: Callable[[str, str], Account | None],
        may_enter: Callable[[Account], bool],
        still_here: Callable[[Account], bool],
        now: Callable[[], float],
        api: str | None = None,
    ) -> None:
        self.pages = pages
        self.visits = Visits(now)
        self._cookie = cookie
        self._start = start
        self._authenticate = authenticate
        self._may_enter = may_enter
        self._still_here = still_here
        self._api = api
        self._router: Router[Call] = Router(
            [
                Route("GET", "/login", self._ask, open=True),
                Route("POST", "/login", self._sign_in, open=True),
                Route("POST", "/logout", self._sign_out),
                *routes,
            ]
        )

    def answer(self, request: Request) -> Response:
        style = self.pages.style(request)
        if style is not None:
            return style
        if request.method == "OPTIONS":
            return Response(204, (("Allow", "GET, HEAD, POST, OPTIONS"),))
        found = self._router.find(request.method, request.target)
        if isinstance(found, frozenset):
            return self._lost(request, found)
        route, places = found
        if self._api is not None and request.path.startswith(self._api):
            return self._for_program(request, route, places)
        visit = self._visit(request)
        if not route.open and (visit is None or visit.account is None):
            return redirect("/login")
        cookies: list[str] = []
        if not request.may_log_in:
            # RFC 9110 15.5.4: the page is there, but not like this.  Nothing is tried, and nobody is remembered.
            return self.pages.page("needs_tls.html", 403, visit=Visit("", "", None, 0.0))
        if visit is None:
            visit = self.visits.begin()
            cookies.append(self._baked(request, visit))
        try:
            call = Call(request, visit, form_of(request), places)
        except BadForm as error:
            return self.pages.page("message.html", 400, title="Not understood", text=str(error), visit=visit)
        if request.method in _CHANGES and not self._is_ours(call):
            text = "This page was open for too long, or the request came from another site. Please try again."
            return self._with(self.pages.page("message.html", 403, title="Not done", text=text, visit=visit), cookies)
        return self._with(route.handler(call), cookies)

    def _visit(self, request: Request) -> Visit | None:
        """Who is asking.  A cookie that travels in clear is as good as stolen where logins need TLS (RFC 6265 8.3)."""
        if not request.may_log_in:
            return None
        visit = self.visits.find(cookies_of(request).get(self._cookie, ""))
        if visit is not None and visit.account is not None and not self._still_here(visit.account):
            self.visits.end(visit)
            return None
        return visit

    def _is_ours(self, call: Call) -> bool:
        """Whether the request comes from a page of ours that this very browser was shown."""
        return hmac.compare_digest(call.form.text("token").encode(), call.visit.token.encode())

    def _with(self, response: Response, cookies: Iterable[str]) -> Response:
        added = tuple(("Set-Cookie", cookie) for cookie in cookies)
        named = any(name == "Set-Cookie" for name, _ in response.headers)
        return replace(response, headers=response.headers + added) if added and not named else response

    def _lost(self, request: Request, methods: frozenset[str]) -> Response:
        if self._api is not None and request.path.startswith(self._api):
            return problem(405 if methods else 404, "There is nothing here.", *_allow(methods))
        visit = self._visit(request) or Visit("", "", None, 0.0)
        if methods:
            page = self.pages.page("message.html", 405, title="Not so", text="That cannot be done here.", visit=visit)
            return replace(page, headers=(*page.headers, *_allow(methods)))
        return self.pages.page("message.html", 404, title="Nothing here", text="There is no such page.", visit=visit)

    # ---- signing in and out

    def _ask(self, call: Call) -> Response:
        if call.visit.account is not None:
            return redirect(self._start)
        return self._login_page(call, 200, "")

    def _login_page(self, call: Call, status: int, trouble: str) -> Response:
        return self.pages.page("login.html", status, visit=call.visit, trouble=trouble, name=call.form.text("name"))

    def _sign_in(self, call: Call) -> Response:
        account = self._authenticate(call.form.text("name"), call.form.text("password"))
        if account is None or not self._may_enter(account):
            # The same answer for whoever does not exist, has another password, or may not come in here.
            page = self._login_page(call, 403, "Name or password is wrong.")
            return replace(page, login_failed=True)
        visit = self.visits.sign_in(call.visit, account)
        return redirect(self._start, self._baked(call.request, visit))

    def _sign_out(self, call: Call) -> Response:
        self.visits.end(call.visit)
        return redirect("/login", f"{self._cookie}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")

    def _baked(self, request: Request, visit: Visit) -> str:
        secure = "; Secure" if request.secure else ""
        return f"{self._cookie}={visit.key}; Path=/; HttpOnly; SameSite=Strict{secure}"

    # ---- programs

    def _for_program(self, request: Request, route: Route[Call], places: Mapping[str, str]) -> Response:
        if not request.may_log_in:
            return problem(403, "Logins need TLS here.")
        credentials = _basic(request.headers.get("authorization", ""))
        account = None if credentials is None else self._authenticate(*credentials)
        if account is None or not self._may_enter(account):
            refused = problem(401, "Name or password is wrong.", ("WWW-Authenticate", 'Basic realm="listenspec"'))
            return replace(refused, login_failed=credentials is not None)
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if request.method in _CHANGES and kind != "application/json":
            # What a form of another site could send with a browser's stored password never has this type.
            return problem(415, "A change is described in application/json.")
        return route.handler(Call(request, Visit("", "", account, 0.0), Form(), places))


def problem(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """What a program hears that asked for something it cannot have."""
    fixed = (("Content-Type", "application/json"), ("Cache-Control", "no-store"), *SAFE)
    return Response(status, (*fixed, *headers), json.dumps({"errors": [{"where": "", "what": text}]}).encode() + b"\n")


def _allow(methods: frozenset[str]) -> tuple[tuple[str, str], ...]:
    return (("Allow", ", ".join(sorted(methods))),) if methods else ()


def _basic(field: str) -> tuple[str, str] | None:
    """Name and password (RFC 7617 2)."""
    scheme, _, text = field.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None
