"""JSON Schemas of a configuration, for editors and for implementers in any language.

Owns: what is said in a schema beyond the model's own: the defaults of each service, and what a scenario must
have.  Deliberately knows nothing of reading documents; a schema cannot say what must hold between keys.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from reference_server.settings_model import (
    CUSTOMARY_IMPLICIT_TLS_PORTS,
    AccountSettings,
    CertificateSettings,
    Service,
    ServiceSettings,
    SettingsDocument,
    defaults_of,
)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: Literal["settings", "scenario"]) -> dict[str, Any]:
    """The schema of the document ``name``, a JSON object."""
    schema = SettingsDocument.model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    definitions: dict[str, Any] = schema["$defs"]
    for model in (AccountSettings, CertificateSettings, ServiceSettings):
        _describe(definitions[model.__name__]["properties"], model)
    _describe(properties, SettingsDocument)
    service = definitions.pop("ServiceSettings")
    _without_null(properties, definitions, service["properties"])
    definitions["AccountSettings"]["allOf"] = [
        {"not": {"required": ["password", "password_hash"]}},
    ]
    properties["format"] = {"const": 1, "description": "The version of the format; makes it a scenario."}
    if name == "scenario":
        title = "A scenario that listenspec hands to a driver"
        definitions["service"] = {**service, "title": "A service", "description": "An absent key means off."}
        services = {each.value: {"$ref": "#/$defs/service"} for each in Service}
        schema["required"] = ["format", "data", "services"]
    else:
        title = "Settings of a listenspec mail server"
        for key in ("format", "clock_rate", "wall_clock"):
            del properties[key]
        del definitions["AccountSettings"]["properties"]["inbox"]
        services = {}
        definitions["service"] = {
            **service,
            "title": "Defaults",
            "description": "What every service inherits.",
            "properties": {key: _without(value, "default") for key, value in service["properties"].items()},
        }
        for each in Service:
            definitions[each.value] = _with_defaults(service, each)
            services[each.value] = {"$ref": f"#/$defs/{each.value}"}
        schema["required"] = ["services"]
    definitions.pop("Service", None)
    properties["defaults"] = {"$ref": "#/$defs/service", "description": properties["defaults"]["description"]}
    properties["services"] = {
        "type": "object",
        "description": properties["services"]["description"],
        "properties": services,
        "additionalProperties": False,
        "minProperties": 1,
    }
    return {"$schema": _DIALECT, **schema, "title": title, "description": title + "."}


def _describe(properties: dict[str, Any], model: type[BaseModel]) -> None:
    """Enter what the model's source says below each key."""
    for key, words in _descriptions(model):
        properties[key] = dict(sorted({**properties[key], "description": words}.items()))


def _descriptions(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    for key, below in zip(body.body, body.body[1:], strict=False):
        match key, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                yield name, inspect.cleandoc(words)


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}


def _without_null(*tables: dict[str, Any]) -> None:
    """TOML has no null: what the model may leave out is simply left out."""
    for table in tables:
        for name, value in table.items():
            for key, part in value.get("properties", {}).items():
                value["properties"][key] = _not_null(part)
            table[name] = _not_null(value)


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {**_without(schema, "anyOf", "default"), **choices[0]}


def _with_defaults(service: dict[str, Any], which: Service) -> dict[str, Any]:
    defaults = ServiceSettings.model_dump(defaults_of(which), mode="json", exclude_none=True)
    properties = {
        key: {**value, **({"default": defaults[key]} if key in defaults else {})}
        for key, value in service["properties"].items()
    }
    customary = list(CUSTOMARY_IMPLICIT_TLS_PORTS[which])
    if customary:
        properties["implicit_tls_ports"] = {**properties["implicit_tls_ports"], "examples": [customary]}
    return {**service, "title": which.value, "description": f"How {which} listens.", "properties": properties}
