"""What a driver says: the defaults, the mistakes, and the schemas that agree with the models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from conformance import drivers
from conformance.contract import (
    ContractError,
    Ready,
    Reloaded,
    Service,
    Stage,
    Timer,
    Unsupported,
    json_schema,
    read_description,
    read_event,
)
from conformance.driver_process import describe


def described(**service: Any) -> str:
    return json.dumps({"format": 1, "name": "X", "services": {"imap": {"offers": [], **service}}})


def test_whatever_is_left_out_has_the_first_value() -> None:
    imap = read_description(described()).services[Service.IMAP]
    assert (imap.limit.scope, imap.limit.surplus, imap.limit.recovery) == ("service", "reply", 2)
    assert (imap.per_ip.stage, imap.per_ip.scope, imap.per_ip.ipv6_prefix) == ("connect", "service", 128)
    assert imap.tls.versions == ("1.2", "1.3")
    assert imap.ipv6
    assert imap.restrictions.stage == "accept"
    assert all(imap.timers.of(stage) is None for stage in Stage)
    assert (imap.idle_timeout_min, imap.idle_timeout_step, imap.idle_timeout_late) == (1, 1, 0)
    assert (imap.login.by, imap.login.role, imap.login.path, imap.login.scheme) == (
        "name",
        "mx",
        "/login",
        "form",
    )


@pytest.mark.parametrize(
    ("timer", "length"),
    [
        ({"seconds": 180, "fixed": True, "reset_by": "nothing"}, 180),
        ({"seconds": None}, None),
        ({"reset_by": "nothing"}, 7),
    ],
)
def test_a_timer_has_its_own_length_or_that_of_idle_timeout(timer: dict[str, Any], length: float | None) -> None:
    imap = read_description(described(timers={"handshake": timer})).services[Service.IMAP]
    declared = imap.timers.of(Stage.HANDSHAKE)
    assert declared is not None
    assert declared.length(idle_timeout=7) == length


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"limit": {"surplus": "panic"}}, "services.imap.limit.surplus"),
        ({"timers": {"handshake": {"seconds": 1, "fixd": True}}}, "services.imap.timers.handshake.fixd: unknown key"),
        ({"timers": {"handshake": {"fixed": True}}}, "a fixed timer needs its seconds"),
        ({"timers": {"handshake": {"seconds": -1}}}, "services.imap.timers.handshake.seconds"),
        ({"max_ports": 0}, "services.imap.max_ports"),
        ({"tls": {"versions": ["1.0"]}}, "services.imap.tls.versions.0"),
    ],
)
def test_a_mistake_is_named_with_its_path(service: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        read_description(described(**service))
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ContractError) as caught:
        read_description(described(limit={"scope": "?"}, notez=[]))
    assert "services.imap.limit.scope" in str(caught.value)
    assert "services.imap.notez: unknown key" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"event": "ready"}', Ready()),
        (
            '{"event": "ready", "clock_rate": 60, "pids": [4711], "timers": {"imap": {"before_login": 3.0}}}',
            Ready(clock_rate=60, pids=(4711,), timers={Service.IMAP: {Stage.BEFORE_LOGIN: 3.0}}),
        ),
        (
            '{"event": "unsupported", "setting": "services.imap.deny", "reason": "no"}',
            Unsupported(setting="services.imap.deny", reason="no"),
        ),
        ('{"event": "reloaded"}', Reloaded()),
        ('{"event": "reloaded", "error": "bad"}', Reloaded(error="bad")),
    ],
)
def test_events(line: str, event: Ready | Unsupported | Reloaded) -> None:
    assert read_event(line) == event
    Draft202012Validator(json_schema("events")).validate(json.loads(line))


@pytest.mark.parametrize("line", ["", "ready", "[]", "{}", '{"event": "stopped"}', '{"event": "ready", "pids": [0]}'])
def test_what_is_no_event(line: str) -> None:
    with pytest.raises(ContractError):
        read_event(line)


@pytest.mark.parametrize("name", ["describe", "events", "scenario"])
def test_each_schema_is_one(name: Any) -> None:
    Draft202012Validator.check_schema(json_schema(name))


@pytest.mark.parametrize("name", drivers.NAMES)
def test_our_drivers_describe_what_the_schema_allows(name: str) -> None:
    description = describe(drivers.command(name))
    document = description.model_dump(mode="json", exclude_unset=True)
    Draft202012Validator(json_schema("describe")).validate(document)


def test_the_schema_refuses_what_the_model_refuses() -> None:
    document = json.loads(described(notez=[]))
    assert list(Draft202012Validator(json_schema("describe")).iter_errors(document))


def test_a_timer_without_anything_is_idle_timeout() -> None:
    assert Timer().length(idle_timeout=3) == 3
