"""Remote Admin: every service's settings in the same form, who is connected, and the certificates.

Owns: what each page and each path of the programs' interface shows and does.  Knows no octets of HTTP and no template
language; settings are changed through :mod:`reference_server.control`, by the same path as a reload.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

from reference_server.control import Control, Guest, ReadOnly
from reference_server.mailstore import MailStore
from reference_server.protocols.http import Request, Response
from reference_server.settings import Service, SettingsError
from reference_server.web.admin_certificates import BadCertificate, added, listed
from reference_server.web.admin_form import Fields, changed, filled_in, shown, table_of, troubles_by_field
from reference_server.web.pages import SAFE, Pages, redirect
from reference_server.web.portal import Call, Portal, problem
from reference_server.web.routing import Route

NAMES: Final[Mapping[Service, str]] = {
    Service.SMTP: "SMTP",
    Service.POP3: "POP3",
    Service.IMAP: "IMAP",
    Service.WEBMAIL: "WebMail",
    Service.LDAP: "LDAP",
    Service.ADMIN: "Remote Admin",
}


class NotTakenOn(Exception):
    """Settings that the server could not run with; ``str()`` says why."""


class Admin:
    """See :class:`reference_server.protocols.http.Application`."""

    def __init__(self, store: MailStore, control: Control, now: Callable[[], float]) -> None:
        self._control = control
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
                Route("GET", "/api/services", self._told_all),
                Route("GET", "/api/services/{service}", self._told),
                Route("PUT", "/api/services/{service}", self._changed_by_program),
                Route("GET", "/api/connections", self._told_connections),
                Route("DELETE", "/api/connections/{service}/{address}/{port:int}", self._cut_by_program),
                Route("GET", "/api/schema", self._schema),
            ],
            cookie="listenspec_admin",
            start="/",
            authenticate=store.authenticate,
            may_enter=lambda account: account.admin,
            still_here=lambda account: store.named(account.name) == account,
            now=now,
            api="/api/",
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
        service = _named(call)
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
        service = _named(call)
        if service is None:
            return self._nowhere(call)
        fields = filled_in(call.form)
        try:
            self._apply(service, table_of(fields))
        except SettingsError as error:
            return self._form(call, service, replace(fields, troubles=troubles_by_field(error, service)), 422)
        except NotTakenOn as error:
            return self._form(call, service, replace(fields, troubles={"": str(error).split("\n")}), 422)
        call.visit.notice = f"{NAMES[service]}: the new settings are in force."
        return redirect(f"/services/{service.value}")

    def _connections(self, call: Call) -> Response:
        return self._page(call, "connections.html", guests=self._control.guests(), here="connections")

    def _cut(self, call: Call) -> Response:
        found = _guest_named(call.form.text("service"), call.form.text("address"), call.form.text("port"))
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
            self._apply_document(lambda document: added(document, self._control.folder, name, chain, key))
        except (BadCertificate, NotTakenOn, SettingsError) as error:
            return self._certificates(call, str(error), 422)
        call.visit.notice = f"The certificate {name} can be selected now."
        return redirect("/certificates")

    # ---- the same for programs

    def _told_all(self, _: Call) -> Response:
        settings, counts = self._control.settings, self._control.counts()
        return _json(
            {
                service.value: {**table.model_dump(mode="json"), "connections": counts.get(service, 0)}
                for service, table in settings.services.items()
            }
        )

    def _told(self, call: Call) -> Response:
        service = _named(call)
        table = self._control.settings.services.get(service) if service is not None else None
        return problem(404, "There is no such service.") if table is None else _json(table.model_dump(mode="json"))

    def _changed_by_program(self, call: Call) -> Response:
        service = _named(call)
        if service is None:
            return problem(404, "There is no such service.")
        try:
            table = json.loads(call.request.body)
            if not isinstance(table, dict):
                raise ValueError("no object")
        except ValueError:
            return problem(400, "The settings of a service are a JSON object.")
        try:
            self._apply(service, table, whole=True)
        except SettingsError as error:
            return _json({"errors": [{"where": each.where, "what": each.what} for each in error.problems]}, 422)
        except NotTakenOn as error:
            return _json({"errors": [{"where": "", "what": line} for line in str(error).split("\n")]}, 409)
        return self._told(call)

    def _told_connections(self, _: Call) -> Response:
        return _json([_told_guest(guest) for guest in self._control.guests()])

    def _cut_by_program(self, call: Call) -> Response:
        found = _guest_named(call.places["service"], call.places["address"], call.places["port"])
        if found is None or not self._control.cut(*found):
            return problem(404, "There is no such connection.")
        return Response(204, (("Cache-Control", "no-store"),))

    def _schema(self, _: Call) -> Response:
        from reference_server.settings import json_schema

        return _json(json_schema("settings")["$defs"]["service"])

    # ---- changing

    def _apply(self, service: Service, table: Mapping[str, Any], *, whole: bool = False) -> None:
        """Raises :class:`SettingsError`, :class:`NotTakenOn`.  ``whole``: the table is all that is to be written."""

        def change(document: dict[str, Any]) -> Mapping[str, Any]:
            if whole:
                return {**document, "services": {**document.get("services", {}), service.value: dict(table)}}
            return changed(document, self._control.settings, service, table)

        self._apply_document(change)

    def _apply_document(self, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        from reference_server.server import StartError

        try:
            self._control.apply(change)
        except StartError as error:
            raise NotTakenOn(str(error)) from None
        except ReadOnly as error:
            raise NotTakenOn(f"Nothing can be changed: {error}.") from None
        except (OSError, ValueError) as error:
            if isinstance(error, (SettingsError, BadCertificate)):
                raise
            raise NotTakenOn(f"The settings file cannot be changed: {error}.") from None

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


def _named(call: Call) -> Service | None:
    try:
        return Service(call.places["service"])
    except ValueError:
        return None


def _guest_named(service: str, address: str, port: str) -> tuple[Service, Any, int] | None:
    try:
        return Service(service), ip_address(address), int(port)
    except ValueError:
        return None


def _told_guest(guest: Guest) -> dict[str, Any]:
    return {
        "service": guest.service.value,
        "address": str(guest.address),
        "port": guest.port,
        "local_port": guest.local_port,
        "channel": guest.channel.value,
        "age": round(guest.age, 3),
        "idle": None if guest.idle is None else round(guest.idle, 3),
    }


def _json(document: Any, status: int = 200) -> Response:
    fixed = (("Content-Type", "application/json"), ("Cache-Control", "no-store"), *SAFE)
    return Response(status, fixed, json.dumps(document, indent=2).encode() + b"\n")


