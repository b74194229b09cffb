"""Remote Admin for programs: the same as the pages, in JSON.

Owns: the paths below ``/api/``, and the shape of what is asked and answered there (:mod:`reference_server.api_schema`
says it as a schema).  Who may ask is the portal's.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from reference_server.control import Control, Guest
from reference_server.protocols.http import Response
from reference_server.settings import Service, SettingsError
from reference_server.web.admin_certificates import listed
from reference_server.web.admin_changes import Changes, NotTakenOn
from reference_server.web.pages import SAFE
from reference_server.web.portal import Call, problem
from reference_server.web.routing import Route

PREFIX = "/api/"


class Api:
    """What a program finds."""

    def __init__(self, control: Control, changes: Changes) -> None:
        self._control = control
        self._changes = changes

    def routes(self) -> list[Route[Call]]:
        """All ways in."""
        return [
            Route("GET", "/api/services", self._services),
            Route("GET", "/api/services/{service}", self._service),
            Route("PUT", "/api/services/{service}", self._change),
            Route("GET", "/api/connections", self._connections),
            Route("DELETE", "/api/connections/{service}/{address}/{port:int}", self._cut),
            Route("GET", "/api/certificates", self._certificates),
            Route("GET", "/api/schema", self._schema),
        ]

    def _services(self, _: Call) -> Response:
        settings, counts = self._control.settings, self._control.counts()
        return _json(
            {
                service.value: {**table.model_dump(mode="json"), "connections": counts.get(service, 0)}
                for service, table in settings.services.items()
            }
        )

    def _service(self, call: Call) -> Response:
        service = service_named(call)
        table = self._control.settings.services.get(service) if service is not None else None
        return problem(404, "There is no such service.") if table is None else _json(table.model_dump(mode="json"))

    def _change(self, call: Call) -> Response:
        service = service_named(call)
        if service is None:
            return problem(404, "There is no such service.")
        table = _table_in(call.request.body)
        if table is None:
            return problem(400, "The settings of a service are a JSON object.")
        try:
            self._changes.replace(service, table, call.request.address)
        except SettingsError as error:
            return _errors(422, [(each.where, each.what) for each in error.problems])
        except NotTakenOn as error:
            return _errors(409, [("", line) for line in str(error).split("\n")])
        return self._service(call)

    def _connections(self, _: Call) -> Response:
        return _json([_told(guest) for guest in self._control.guests()])

    def _cut(self, call: Call) -> Response:
        places = call.places
        found = guest_named(places["service"], places["address"], places["port"])
        if found is None or not self._control.cut(*found):
            return problem(404, "There is no such connection.")
        return Response(204, (("Cache-Control", "no-store"), *SAFE))

    def _certificates(self, _: Call) -> Response:
        return _json(
            {
                each.name: {
                    "subject": each.subject,
                    "hosts": list(each.hosts),
                    "expires": None if each.expires is None else each.expires.isoformat(),
                    "trouble": each.trouble or None,
                }
                for each in listed(self._control.settings)
            }
        )

    def _schema(self, _: Call) -> Response:
        from reference_server.settings import json_schema

        return _json(json_schema("api"))


def service_named(call: Call) -> Service | None:
    """The service that a path names, if there is one."""
    try:
        return Service(call.places["service"])
    except ValueError:
        return None


def guest_named(service: str, address: str, port: str) -> tuple[Service, Any, int] | None:
    """Whose connection is meant; None where nobody's can be."""
    try:
        return Service(service), ip_address(address), int(port)
    except ValueError:
        return None


def _table_in(body: bytes) -> dict[str, Any] | None:
    """The object in a request; None for anything else, and for text that no file could hold."""
    try:
        table = json.loads(body)
        json.dumps(table, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _told(guest: Guest) -> dict[str, Any]:
    return {
        "service": guest.service.value,
        "address": str(guest.address),
        "port": guest.port,
        "local_port": guest.local_port,
        "channel": guest.channel.value,
        "age": round(guest.age, 3),
        "idle": None if guest.idle is None else round(guest.idle, 3),
    }


def _errors(status: int, errors: list[tuple[str, str]]) -> Response:
    return _json({"errors": [{"where": where, "what": what} for where, what in errors]}, status)


def _json(document: Any, status: int = 200) -> Response:
    fixed = (("Content-Type", "application/json"), ("Cache-Control", "no-store"), *SAFE)
    return Response(status, fixed, json.dumps(document, indent=2).encode() + b"\n")
