"""Remote Admin: every service's settings in the same form, who is connected, and the certificates.

Owns: what each page shows and does.  Knows no octets of HTTP and no template language; how settings are changed is
:mod:`~reference_server.web.admin_changes`, what programs find :mod:`~reference_server.web.admin_api`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from reference_server.control import Control, ReadOnly
from reference_server.mailstore import MailStore
from reference_server.protocols.http import Request, Response
from reference_server.settings import Service, SettingsError
from reference_server.web.admin_api import PREFIX, Api, guest_named, service_named
from reference_server.web.admin_certificates import BadCertificate, listed
from reference_server.web.admin_changes import Changes, NotTakenOn, moved
from reference_server.web.admin_form import Fields, filled_in, shown, table_of, troubles_by_field
from reference_server.web.pages import Pages, redirect
from reference_server.web.portal import Call, Portal
from reference_server.web.routing import Route

NAMES: Final[Mapping[Service, str]] = {
    Service.SMTP: "SMTP",
    Service.POP3: "POP3",
    Service.IMAP: "IMAP",
    Service.WEBMAIL: "WebMail",
    Service.LDAP: "LDAP",
    Service.ADMIN: "Remote Admin",
}


class Admin:
    """See :class:`reference_server.protocols.http.Application`."""

    def __init__(self, store: MailStore, control: Control, now: Callable[[], float]) -> None:
        self._control = control
        self._changes = Changes(control)
        self._pages = Pages(interface="Remote Admin", services=NAMES)
        self.portal = Portal(
            self._pages,
            [
                Route("GET", "/", self._overview),
                Route("GET", "/services/{service}", self._service),
                Route("POST", "/services/{service}", self._change),
                Route("GET", "/connections", self._connections),
                Route("POST", "/connections", self._cut),
                Route("GET", "/certificates", self._certificates),
                Route("POST", "/certificates", self._add_certificate),
                *Api(control, self._changes).routes(),
            ],
            cookie="listenspec_admin",
            start="/",
            authenticate=store.authenticate,
            may_enter=lambda account: account.admin,
            still_here=lambda account: store.named(account.name) == account,
            now=now,
            api=PREFIX,
        )

    def answer(self, request: Request) -> Response:
        return self.portal.answer(request)

    # ---- pages

    def _overview(self, call: Call) -> Response:
        settings, counts = self._control.settings, self._control.counts()
        lines = []
        for service, name in NAMES.items():
            table = settings.services.get(service)
            lines.append((service, name, table if table and table.enabled else None, counts.get(service, 0)))
        expiries = {each.name: each for each in listed(settings)}
        return self._page(call, "overview.html", lines=lines, expiries=expiries, warnings=settings.warnings)

    def _service(self, call: Call) -> Response:
        service = service_named(call)
        if service is None:
            return self._nowhere(call)
        return self._form(call, service, shown(self._document(), self._control.settings, service))

    def _form(self, call: Call, service: Service, fields: Fields, status: int = 200) -> Response:
        settings = self._control.settings
        prefix = f"services.{service.value}."
        cautions: dict[str, list[str]] = {}
        for warning in settings.warnings:
            if warning.where.startswith(prefix):
                cautions.setdefault(warning.where.removeprefix(prefix), []).append(warning.what)
        page = self._page(
            call, "service.html", service=service, name=NAMES[service], fields=fields, cautions=cautions,
            certificates=list(settings.certificates), here=service,
            tls_possible=service is not Service.LDAP or settings.ldap_tls,
        )  # fmt: skip
        return replace(page, status=status)

    def _change(self, call: Call) -> Response:
        service = service_named(call)
        if service is None:
            return self._nowhere(call)
        fields = filled_in(call.form)
        before = self._control.settings.services.get(Service.ADMIN)
        try:
            self._changes.fill_in(service, table_of(fields), call.request.address)
        except SettingsError as error:
            return self._form(call, service, replace(fields, troubles=troubles_by_field(error, service)), 422)
        except NotTakenOn as error:
            return self._form(call, service, replace(fields, troubles={"": str(error).split("\n")}), 422)
        gone = moved(before, self._control.settings.services.get(Service.ADMIN), call.request.host)
        if gone is not None:
            # Where a redirect would lead, nobody may be listening any more.
            return self._pages.page("moved.html", links=gone.links, file=self._control.file, visit=call.visit)
        call.visit.notice = f"{NAMES[service]}: the new settings are in force."
        return redirect(f"/services/{service.value}")

    def _connections(self, call: Call) -> Response:
        return self._page(call, "connections.html", guests=self._control.guests(), here="connections")

    def _cut(self, call: Call) -> Response:
        found = guest_named(call.form.text("service"), call.form.text("address"), call.form.text("port"))
        was_there = found is not None and self._control.cut(*found)
        call.visit.notice = "The connection is cut." if was_there else "That connection had ended already."
        return redirect("/connections")

    def _certificates(self, call: Call, trouble: str = "", status: int = 200) -> Response:
        settings = self._control.settings
        used = {
            name: [NAMES[service] for service, table in settings.services.items() if table.certificate == name]
            for name in settings.certificates
        }
        page = self._page(
            call, "certificates.html", certificates=listed(settings), used=used, trouble=trouble, here="certificates",
            name=call.form.text("name"), today=datetime.now(UTC),
        )  # fmt: skip
        return replace(page, status=status)

    def _add_certificate(self, call: Call) -> Response:
        form = call.form
        uploads = {name: files[0].content.decode("ascii", "replace") for name, files in form.uploads.items() if files}
        chain, key = (uploads.get(name) or form.text(name) for name in ("chain", "key"))
        name = form.text("name").strip()
        try:
            self._changes.add_certificate(name, chain, key)
        except (BadCertificate, NotTakenOn, SettingsError) as error:
            return self._certificates(call, str(error), 422)
        call.visit.notice = f"The certificate {name} can be selected now."
        return redirect("/certificates")

    def _document(self) -> dict[str, Any]:
        try:
            return self._control.document()
        except (ReadOnly, OSError, ValueError):
            return {}

    def _page(self, call: Call, template: str, **details: Any) -> Response:
        notice, call.visit.notice = call.visit.notice, ""
        return self._pages.page(template, visit=call.visit, notice=notice, **{"here": "overview", **details})

    def _nowhere(self, call: Call) -> Response:
        text = "There is no such service."
        return self._pages.page("message.html", 404, title="No service", text=text, visit=call.visit)
