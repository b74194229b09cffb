"""The JSON Schema of Remote Admin's interface for programs.

Owns: what the answers look like, and what a change may say.  The settings of a service are those of a settings file
(:mod:`reference_server.settings_schema`); ``docs/remote-admin.md`` says which path answers with what.
"""

from __future__ import annotations

from typing import Any, Final

from reference_server.session import Channel
from reference_server.settings_model import Service
from reference_server.settings_schema import json_schema as settings_schema

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_PORT: Final = {"type": "integer", "minimum": 0, "maximum": 65535}
_SERVICE: Final = {"enum": [service.value for service in Service]}


def json_schema() -> dict[str, Any]:
    """Definitions for every answer and for the one request that has content."""
    whole = settings_schema("settings")
    written = whole["$defs"]["service"]
    keys: dict[str, Any] = written["properties"]
    told = {key: _nullable(value) if key in ("certificate", "idle_timeout") else value for key, value in keys.items()}
    return {
        "$schema": whole["$schema"],
        "title": "Remote Admin for programs",
        "description": "What each path under /api/ answers with. The document as a whole is any of the answers.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in _ANSWERS],
        "$defs": {
            "change": {
                **written,
                "title": "Settings to be written",
                "description": "All that is to be written of a service; what is absent or null is inherited.",
                "properties": {key: _nullable(value) for key, value in keys.items()},
            },
            "service": {
                "title": "The settings of a service",
                "description": "As they are in force, what is inherited among them.",
                "type": "object",
                "properties": told,
                "required": list(told),
                "additionalProperties": False,
            },
            "services": {
                "title": "All services that are set up",
                "type": "object",
                "propertyNames": _SERVICE,
                "additionalProperties": {
                    "type": "object",
                    "properties": {
                        **told,
                        "connections": {**_COUNT, "description": "How many clients are connected just now."},
                    },
                    "required": [*told, "connections"],
                    "additionalProperties": False,
                },
            },
            "connections": {
                "title": "Everybody who is connected, whoever came first first",
                "type": "array",
                "items": _object(
                    service=_SERVICE,
                    address={**_TEXT, "description": "The client's address."},
                    port={**_PORT, "description": "The client's port."},
                    local_port={**_PORT, "description": "The server's port."},
                    channel={"enum": [channel.value for channel in Channel]},
                    age={"type": "number", "minimum": 0, "description": "Seconds since it was let in."},
                    idle={
                        "type": ["number", "null"],
                        "minimum": 0,
                        "description": "Seconds since it was heard; null while the server is at work for it.",
                    },
                ),
            },
            "certificates": {
                "title": "The certificates that are set up",
                "type": "object",
                "additionalProperties": _object(
                    subject=_TEXT,
                    hosts={"type": "array", "items": _TEXT},
                    expires={"type": ["string", "null"], "format": "date-time"},
                    trouble={"type": ["string", "null"], "description": "Why it cannot be read, where it cannot."},
                ),
            },
            "errors": {
                "title": "Why something was not done",
                **_object(
                    errors={
                        "type": "array",
                        "minItems": 1,
                        "items": _object(
                            where={**_TEXT, "description": "The path of a key (services.imap.ports[1]), or empty."},
                            what={**_TEXT, "minLength": 1},
                        ),
                    },
                ),
            },
        },
    }


_ANSWERS: Final = ("service", "services", "connections", "certificates", "errors")


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has just these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema["type"]
    return {**schema, "type": [kind, "null"]}
