"""What a driver says: the description of an implementation, and the events of a run.

Owns: the models of both documents with their defaults, the reading of them with one clear error for each
mistake, and the JSON Schemas of what passes between the suite and a driver.  Deliberately knows nothing of
processes (``driver_process`` starts drivers), of checks, and of how any server is configured.

A key that is left out takes the first value that the contract lists for it; an unknown key is the driver's
mistake and is refused, since a misspelt ``"fixd"`` would otherwise be judged as something nobody declared.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reference_server import settings
from reference_server.settings import Service

__all__ = [
    "ContractError",
    "DeclaredDefaults",
    "DeclaredLimit",
    "DeclaredLogin",
    "DeclaredPerIp",
    "DeclaredRestrictions",
    "DeclaredService",
    "DeclaredTimers",
    "DeclaredTls",
    "Description",
    "Event",
    "Offer",
    "Ready",
    "Reloaded",
    "Service",
    "Stage",
    "Timer",
    "Unsupported",
    "explain",
    "json_schema",
    "read_description",
    "read_event",
]


class Stage(enum.StrEnum):
    """The stages of a session that may have a timer of their own; the values are the contract's keys."""

    BEFORE_LOGIN = "before_login"
    HANDSHAKE = "handshake"
    AFTER_LOGIN = "after_login"
    IMAP_IDLE = "imap_idle"
    TRICKLE = "trickle"


Offer: TypeAlias = Literal[
    "bind",
    "ports",
    "max_connections",
    "max_connections_per_ip",
    "idle_timeout",
    "explicit_tls",
    "implicit_tls",
    "certificate",
    "require_tls_for_login",
    "restrictions",
    "reload",
    "seed_inbox",
    "wall_clock",
]

Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LongerThanNothing: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastOne: TypeAlias = Annotated[int, Field(ge=1)]


class ContractError(ValueError):
    """A document that does not follow the contract; the message names each key and what is wrong with it."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DeclaredLimit(_Document):
    """How ``max_connections`` works."""

    scope: Literal["service", "channel", "listener"] = "service"
    """What is counted together; ``channel``: implicit ports apart from the others."""
    surplus: Literal["reply", "close", "queue", "evict_oldest_unauthenticated"] = "reply"
    """What becomes of the connection that is one too many."""
    recovery: Seconds = 2
    """Seconds until a freed slot is usable."""


class DeclaredPerIp(_Document):
    """How ``max_connections_per_ip`` works."""

    stage: Literal["connect", "login"] = "connect"
    scope: Literal["service", "server", "listener"] = "service"
    ipv6_prefix: int = Field(default=128, ge=1, le=128)
    """Addresses that share this many leading bits count as one client."""


class DeclaredTls(_Document):
    """The protocol versions that a handshake may agree on."""

    versions: tuple[Literal["1.2", "1.3"], ...] = ("1.2", "1.3")


class DeclaredRestrictions(_Document):
    """When a denied client notices."""

    stage: Literal["accept", "greeting", "login", "transaction"] = "accept"


class Timer(_Document):
    """A timer that is not simply ``idle_timeout``.

    ``seconds`` are those of the server's own clock; null means that it never fires.  With ``seconds`` left
    out the timer is the configured ``idle_timeout``, and only ``reset_by`` is what makes it differ; a length
    that depends on other settings is told when the server is ready.
    """

    seconds: LongerThanNothing | None = None
    fixed: bool = False
    """Nobody can configure it."""
    reset_by: Literal["bytes", "commands", "nothing"] = "bytes"

    @model_validator(mode="after")
    def _fixed_to_something(self) -> Timer:
        if self.fixed and "seconds" not in self.model_fields_set:
            raise ValueError("a fixed timer needs its seconds")
        return self

    @property
    def follows_idle_timeout(self) -> bool:
        """Whether the length depends on the configured ``idle_timeout``."""
        return "seconds" not in self.model_fields_set

    def length(self, idle_timeout: float) -> float | None:
        """Seconds of the server's own clock until it fires when ``idle_timeout`` is set; None: never."""
        return idle_timeout if self.follows_idle_timeout else self.seconds


class DeclaredTimers(_Document):
    """The timers that differ from ``idle_timeout``; None where a stage simply follows it."""

    before_login: Timer | None = None
    handshake: Timer | None = None
    after_login: Timer | None = None
    imap_idle: Timer | None = None
    trickle: Timer | None = None
    """The longest time for one request that is never finished."""

    def of(self, stage: Stage) -> Timer | None:
        """The timer of one stage by its name."""
        timers: dict[Stage, Timer | None] = {
            Stage.BEFORE_LOGIN: self.before_login,
            Stage.HANDSHAKE: self.handshake,
            Stage.AFTER_LOGIN: self.after_login,
            Stage.IMAP_IDLE: self.imap_idle,
            Stage.TRICKLE: self.trickle,
        }
        return timers[stage]


class DeclaredDefaults(_Document):
    """What the server does when nobody configures it."""

    idle_timeout: Seconds | None = None
    """None: not known."""


class DeclaredLogin(_Document):
    """How a client logs in."""

    by: Literal["name", "address"] = "name"
    role: Literal["mx", "submission"] = "mx"
    """SMTP: a submission service asks for a login before it takes mail."""
    path: str = "/login"
    scheme: Literal["form", "basic"] = "form"
    base_dn: str | None = None
    user_dn: str | None = None
    """LDAP: the name to bind with; ``{name}`` stands for the account's name."""


class DeclaredService(_Document):
    """What one service of an implementation has, and in which way."""

    offers: frozenset[Offer]
    """Required, even where it is empty: nothing is ever assumed to be offered."""
    limit: DeclaredLimit = DeclaredLimit()
    per_ip: DeclaredPerIp = DeclaredPerIp()
    tls: DeclaredTls = DeclaredTls()
    ipv6: bool = True
    restrictions: DeclaredRestrictions = DeclaredRestrictions()
    timers: DeclaredTimers = DeclaredTimers()
    idle_timeout_min: LongerThanNothing = 1
    """The shortest ``idle_timeout`` that can be configured, seconds of its own clock."""
    idle_timeout_step: LongerThanNothing = 1
    """Its granularity, seconds of its own clock."""
    idle_timeout_late: Seconds = 0
    """How late it may fire beyond the usual tolerance, seconds."""
    max_ports: AtLeastOne | None = None
    max_implicit_tls_ports: AtLeastOne | None = None
    defaults: DeclaredDefaults = DeclaredDefaults()
    login: DeclaredLogin = DeclaredLogin()
    notes: tuple[str, ...] = ()


class Description(_Document):
    """What ``DRIVER describe`` prints."""

    format: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    version: str = ""
    services: dict[Service, DeclaredService]
    clock_rate_max: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1
    """The server's clock can be run up to this much faster than ours."""


class Ready(_Document):
    """Every listener of the scenario accepts."""

    event: Literal["ready"] = "ready"
    clock_rate: LongerThanNothing = 1
    pids: tuple[AtLeastOne, ...] = ()
    """The processes to watch."""
    timers: dict[Service, dict[Stage, Seconds | None]] = {}
    """What came out, in seconds of our clock; null: never fires."""


class Unsupported(_Document):
    """The driver cannot do what is asked, or its server is not installed."""

    event: Literal["unsupported"] = "unsupported"
    setting: str
    """The path of the setting in the scenario, ``services.imap.deny``; may be empty."""
    reason: str


class Reloaded(_Document):
    """The scenario was read again after SIGHUP."""

    event: Literal["reloaded"] = "reloaded"
    error: str | None = None
    """Why it was refused; the old settings are still in force then."""


Event: TypeAlias = Ready | Unsupported | Reloaded


class Events(BaseModel):
    """One line of a run; exists for its JSON Schema and for reading."""

    model_config = ConfigDict(frozen=True)
    event: Annotated[Event, Field(discriminator="event")]


def read_description(text: str) -> Description:
    """Read what ``describe`` printed.

    Raises ContractError when it is no JSON object, or does not follow the contract.
    """
    document = _json_object(text)
    try:
        return Description.model_validate(document)
    except ValidationError as error:
        raise ContractError(explain(error)) from None


def read_event(line: str) -> Event:
    """Read one line of a run; raises ContractError as `read_description` does."""
    document = _json_object(line)
    if "event" not in document:
        raise ContractError('the object has no "event"')
    try:
        return Events.model_validate({"event": document}).event
    except ValidationError as error:
        raise ContractError(explain(error, skip=2)) from None


def explain(error: ValidationError, skip: int = 0) -> str:
    """All mistakes of a document on one line, each with its path; ``skip`` leading path parts are ours."""
    mistakes = []
    for mistake in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in mistake["loc"][skip:] if part != "[key]")
        message = "unknown key" if mistake["type"] == "extra_forbidden" else mistake["msg"]
        mistakes.append(f"{path}: {message}" if path else message)
    return "; ".join(mistakes)


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ContractError("it is not a JSON object")
    return document


def json_schema(name: Literal["describe", "events", "scenario"]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one document that passes between the suite and a driver.

    ``describe``: what a driver prints then.  ``events``: one line that it prints during a run.
    ``scenario``: what it is handed.
    """
    match name:
        case "describe":
            schema = Description.model_json_schema()
            title = "What a listenspec driver prints when it is asked to describe its server"
        case "events":
            whole = Events.model_json_schema()
            schema = {"$defs": whole["$defs"], **whole["properties"]["event"]}
            title = "One line that a listenspec driver prints during a run"
        case "scenario":
            return settings.json_schema("scenario")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
