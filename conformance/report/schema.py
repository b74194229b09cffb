"""The JSON Schema of a report and of the lines of an event file.

Owns: the schema, for whoever reads reports with other means than ours.  The shapes themselves are those of
:mod:`conformance.report.model`; the tests hold the two against each other.
"""

from __future__ import annotations

from typing import Any, Final

from conformance.report.model import FAMILIES, FORMAT, LEVELS, SERVICES, SUITE, Conformance, Verdict

_TEXT: Final = {"type": "string"}
_SECONDS: Final = {"type": "number", "minimum": 0}
_COUNT: Final = {"type": "integer", "minimum": 0}


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of the document that ``--json`` writes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a run of listenspec found",
        **_closed(
            {
                "format": {"const": FORMAT},
                "suite": _closed({"name": {"const": SUITE}, "version": _TEXT}),
                "target": _closed({"name": _TEXT, "version": _TEXT, "driver": _TEXT}),
                "started": {**_TEXT, "format": "date-time", "description": "UTC, as in RFC 3339"},
                "duration": {**_SECONDS, "description": "seconds"},
                "verdict": {"enum": [verdict.value for verdict in Conformance]},
                "totals": _closed({verdict.value: _COUNT for verdict in Verdict}),
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
            },
            {
                "troubles": {
                    "type": "array",
                    "items": _TEXT,
                    "minItems": 1,
                    "description": "what went wrong beside the results; with them a run is never conformant",
                }
            },
        ),
        "$defs": {"result": _result(), "event": _event()},
    }


def _result() -> dict[str, Any]:
    return _closed(
        {
            "id": {
                **_TEXT,
                "pattern": f"^({'|'.join(FAMILIES)})-[0-9]{{2}}/({'|'.join(SERVICES)})/(plain|explicit|implicit|-)$",
                "description": "requirement/service/channel; stable between releases",
            },
            "requirement": {**_TEXT, "pattern": f"^({'|'.join(FAMILIES)})-[0-9]{{2}}$"},
            "level": {"enum": LEVELS},
            "service": {"enum": list(SERVICES)},
            "channel": {"enum": ["plain", "explicit", "implicit", "-"]},
            "check": {**_TEXT, "description": "file and function of the check"},
            "verdict": {"enum": [verdict.value for verdict in Verdict]},
            "duration": {**_SECONDS, "description": "seconds"},
        },
        {
            "expected": {**_TEXT, "description": "with fail: what the requirement asks for"},
            "actual": {**_TEXT, "description": "with fail: what was seen instead"},
            "reason": {**_TEXT, "description": "with every verdict but pass and fail: why it is that one"},
            "transcript": {"type": "array", "items": {"$ref": "#/$defs/event"}},
            "repro": {**_TEXT, "description": "the command that examines this one thing again"},
        },
    )


def _event() -> dict[str, Any]:
    return _closed(
        {
            "at": {"type": "number", "description": "seconds since the check began"},
            "connection": {**_COUNT, "description": "numbered from 1 within the check; 0: about none of them"},
            "from": {"enum": ["client", "server", "note"]},
            "bytes": {**_TEXT, "description": "printable text; everything else, line ends included, is escaped"},
            "tls": {"type": "boolean", "description": "whether it went through TLS"},
        }
    )


def _closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }
