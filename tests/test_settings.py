"""A configuration is understood whole, or refused with everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from certs.__main__ import main as make_certificates
from conformance import contract
from conformance.report import schema as report_schema
from reference_server import passwords
from reference_server.settings import (
    AccountSettings,
    CertificateSettings,
    ServerSettings,
    Service,
    ServiceSettings,
    SettingsError,
    json_schema,
    load,
    parse,
)
from reference_server.settings_model import SettingsDocument

ROOT = Path(__file__).parent.parent
EVERYTHING = ROOT / "fixtures" / "settings" / "everything.toml"

Document = dict[str, Any]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    (folder / EVERYTHING.name).write_bytes(EVERYTHING.read_bytes())
    assert make_certificates([str(folder / "certificates")]) == 0
    return folder / EVERYTHING.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that documents here name."""
    for name in ("chain.pem", "key.pem", "a.eml"):
        (tmp_path / name).write_text("")
    return tmp_path


MAIN = {"main": {"chain": "chain.pem", "key": "key.pem"}}


def complaints(document: Document, folder: Path) -> dict[str, str]:
    """What is wrong with a document, by its path."""
    with pytest.raises(SettingsError) as caught:
        parse(document, folder)
    return {problem.where: problem.what for problem in caught.value.problems}


# --- What is left out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "ports", "idle_timeout"),
    [
        (Service.SMTP, (25, 587), 300),
        (Service.POP3, (110,), 600),
        (Service.IMAP, (143,), 1800),
        (Service.WEBMAIL, (80,), 300),
        (Service.LDAP, (389,), 300),
        (Service.ADMIN, (9000,), 300),
    ],
)
def test_a_service_that_is_only_named_gets_what_is_customary(
    service: Service, ports: tuple[int, ...], idle_timeout: float, folder: Path
) -> None:
    settings = parse({"services": {service.value: {}}}, folder)
    assert list(settings.enabled) == [service]
    chosen = settings.services[service]
    assert chosen.ports == ports
    assert chosen.idle_timeout == idle_timeout
    assert chosen.bind == ("*",)
    assert chosen.max_connections == 50
    assert chosen.max_connections_per_ip == 0
    assert not chosen.offers_tls
    assert not chosen.require_tls_for_login
    assert chosen.allow == chosen.deny == ()
    assert settings.min_cipher_bits == 256


def test_a_service_that_is_not_named_is_off(folder: Path) -> None:
    assert list(parse({"services": {"imap": {}, "pop3": {"enabled": False}}}, folder).enabled) == [Service.IMAP]


def test_in_a_scenario_an_absent_key_means_off(folder: Path) -> None:
    settings = parse({"format": 1, "services": {"imap": {"ports": [0]}}}, folder)
    imap = settings.services[Service.IMAP]
    assert imap.max_connections == 0
    assert imap.idle_timeout is None
    assert imap.enabled


def test_a_service_inherits_the_defaults_and_its_own_word_wins(folder: Path) -> None:
    settings = parse(
        {
            "defaults": {"bind": ["127.0.0.2"], "max_connections": 7, "deny": ["10.0.0.0/8"]},
            "services": {"imap": {"bind": ["127.0.0.3"], "deny": []}, "pop3": {}},
        },
        folder,
    )
    imap, pop3 = settings.services[Service.IMAP], settings.services[Service.POP3]
    assert (imap.bind, imap.max_connections, imap.deny) == (("127.0.0.3",), 7, ())
    assert (pop3.bind, pop3.max_connections) == (("127.0.0.2",), 7)
    assert ip_address("10.1.1.1") in pop3.deny[0]
    assert pop3.ports == (110,)


def test_an_account_without_an_address_has_one_at_the_servers_name(folder: Path) -> None:
    settings = parse(
        {
            "hostname": "mail.example.test",
            "accounts": [{"name": "bob", "password": "x"}, {"name": "eve@example.test", "password": "x"}],
            "services": {"imap": {}},
        },
        folder,
    )
    assert [account.address for account in settings.accounts] == ["bob@mail.example.test", "eve@example.test"]


# --- Files --------------------------------------------------------------------------------------------------------


def test_every_key_of_a_whole_file_is_understood(everything: Path) -> None:
    settings = load(everything)
    assert settings.hostname == "mail.example.test"
    assert settings.data == everything.parent / "mail"
    assert settings.certificates["main"].chain.is_file()
    assert [account.name for account in settings.accounts] == ["alice", "bob", "hole"]
    secret = settings.accounts[0].password_hash
    assert secret is not None
    assert passwords.matches("correct horse", secret.get_secret_value())
    imap = settings.services[Service.IMAP]
    assert imap.bind == ("localhost",)
    assert imap.idle_timeout == 1800.5
    assert [str(written) for written in imap.allow] == [
        "192.168.0.0/16",
        "10.0.0.5",
        "172.16.0.1-172.16.0.99",
        "2001:db8::/32",
    ]
    assert Service.ADMIN not in settings.enabled
    assert settings.services[Service.LDAP].explicit_tls
    assert settings.warnings == ()


def test_toml_and_json_mean_the_same_whatever_the_file_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[services.imap]\nports = [1143]\n")
    (tmp_path / "b.json").write_text('{"services": {"imap": {"ports": [1143]}}}')
    (tmp_path / "c.conf").write_text("[services.imap]\nports = [1143]\n")
    (tmp_path / "d.conf").write_text('\n {"services": {"imap": {"ports": [1143]}}}')
    first, *others = (load(tmp_path / name) for name in ("a.toml", "b.json", "c.conf", "d.conf"))
    assert others == [first, first, first]


def test_paths_count_from_the_folder_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    document = {
        "format": 1,
        "data": "../mail",
        "certificates": {"main": {"chain": "../chain.pem", "key": str(folder / "key.pem")}},
        "accounts": [{"name": "a", "password": "b", "inbox": ["../a.eml"]}],
        "services": {"imap": {"ports": [0]}},
    }
    (folder / "deep" / "scenario.json").write_text(json.dumps(document))
    monkeypatch.chdir("/")
    settings = load(folder / "deep" / "scenario.json")
    assert settings.data.resolve() == folder / "mail"
    assert settings.certificates["main"].key == folder / "key.pem"
    assert settings.accounts[0].inbox[0].resolve() == folder / "a.eml"


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.toml", b"[services.imap]\nports = [143\nbind = 3", "line 3, column", "is not TOML: "),
        ("a.toml", b"a = 1\na = 2\n", "line 2, column", "Cannot overwrite"),
        ("a.toml", b"x = ", "end of document", "Invalid value"),
        ("a.json", b'{"services": \n {,}}', "line 2, column", "not JSON"),
        ("a.json", b"[]", "", "not a JSON object"),
        ("a.json", b'{"format": 1, "format": 1}', "format", "twice"),
        ("a.json", b'{"clock_rate": NaN}', "", "no number NaN"),
        ("a.json", b"[" * 100_000, "", "nested too deeply"),
        ("a.toml", b"# caf\xe9", "byte 5", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    name: str, content: bytes, where: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / name)
    [problem] = caught.value.problems
    assert where in problem.where
    assert what in problem.what
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")


# --- Everything at once -------------------------------------------------------------------------------------------


def test_every_mistake_is_reported_at_once_each_with_its_path(folder: Path) -> None:
    told = complaints(
        {
            "hostnam": "x",
            "certificates": {"main": {"chain": "nowhere.pem"}},
            "accounts": [{"name": "alice", "password": "x"}, {"name": "Alice"}],
            "services": {
                "smtp": {"explicit_tls": "yes", "ports": 25, "certificate": "mian"},
                "imap": {"ports": [143, "x", 70000], "idle_timeout": 0, "allow": ["10.0.0.9-10.0.0.1"]},
                "pop3": {"ports": [143]},
                "imaps": {},
            },
        },
        folder,
    )
    assert set(told) == {
        "hostnam",
        "certificates.main.chain",
        "certificates.main.key",
        "accounts[1]",
        "accounts[1].name",
        "services.smtp.explicit_tls",
        "services.smtp.ports",
        "services.smtp.certificate",
        "services.imap.ports[0]",
        "services.imap.ports[1]",
        "services.imap.ports[2]",
        "services.imap.idle_timeout",
        "services.imap.allow[0]",
        "services.imaps",
    }


def test_the_error_text_names_the_file_and_lists_every_problem(tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text("[services.imap]\nport = [143]\nidle_timeout = -1\n")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "mail.toml")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'mail.toml'}: 2 problems",
        "  services.imap.idle_timeout: must be more than 0, not -1",
        "  services.imap.port: there is no such key; did you mean ports?",
    ]


@pytest.mark.parametrize(
    ("service", "key", "value", "reason"),
    [
        ("imap", "port", [143], "did you mean ports"),
        ("imap", "starttls", True, "did you mean explicit_tls"),
        ("imap", "zzz", 1, "known here: enabled, bind, ports"),
        ("imap", "enabled", "no", 'must be true or false, not "no"'),
        ("imap", "enabled", 1, "must be true or false, not 1"),
        ("imap", "ports", 143, "must be a list in square brackets, not 143"),
        ("imap", "ports", [], "no port to listen on"),
        ("imap", "ports", [True], "must be a whole number, not true"),
        ("imap", "ports", [143.0], "must be a whole number, not 143.0"),
        ("imap", "ports", [-1], "at least 0"),
        ("imap", "ports", [65536], "at most 65535"),
        ("imap", "max_connections", -1, "at least 0"),
        ("imap", "max_connections", "many", "whole number"),
        ("imap", "idle_timeout", 0, "more than 0"),
        ("imap", "idle_timeout", float("inf"), "must be a number"),
        ("imap", "idle_timeout", "30m", "must be a number"),
        ("imap", "bind", "*", "must be a list"),
        ("imap", "bind", [], "names no address"),
        ("imap", "bind", ["127.1"], "not an IP address"),
        ("imap", "bind", ["010.0.0.1"], "not an IP address"),
        ("imap", "bind", ["[::1]"], "without brackets"),
        ("imap", "bind", ["localhost:143"], "ports are set by"),
        ("imap", "bind", ["10.0.0.0/8"], "is a network"),
        ("imap", "bind", ["no such host"], "neither an address nor a host name"),
        ("imap", "bind", ["2001:db8::1%eth0"], "only link-local"),
        ("imap", "bind", ["127.0.0.1", "*"], "is covered by"),
        ("imap", "bind", ["127.0.0.1", "::ffff:127.0.0.1"], "is covered by"),
        ("imap", "allow", "10.0.0.1", "must be a list"),
        ("imap", "allow", [10], "text in quotes"),
        ("imap", "deny", ["10.0.0.5/8"], "10.0.0.0/8"),
        ("imap", "certificate", "main", "there is no certificate"),
        ("imap", "explicit_tls", True, "no certificate is set up"),
        ("imap", "implicit_tls_ports", [993], "no certificate is set up"),
        ("ldap", "explicit_tls", True, "LDAP offers no TLS here"),
        ("ldap", "implicit_tls_ports", [636], "ldap_tls = true"),
    ],
)
def test_a_bad_value_is_refused_with_its_reason(
    service: str, key: str, value: object, reason: str, folder: Path
) -> None:
    told = complaints({"services": {service: {key: value}}}, folder)
    assert len(told) == 1
    [(where, what)] = told.items()
    assert where.startswith(f"services.{service}.")
    assert reason in what


@pytest.mark.parametrize(
    ("document", "where", "reason"),
    [
        ({}, "services", "nothing would listen"),
        ({"imap": {}, "services": {"pop3": {}}}, "imap", "[services.imap]"),
        ({"ports": [1], "services": {"pop3": {}}}, "ports", "[services.NAME] or [defaults]"),
        ({"services": {"imap4": {}}}, "services.imap4", "did you mean imap?"),
        ({"services": []}, "services", "must be a table"),
        ({"warnings": [], "services": {"pop3": {}}}, "warnings", "no such key"),
        ({"hostname": "two words", "services": {"pop3": {}}}, "hostname", "not a host name"),
        ({"hostname": "a\r\nb", "services": {"pop3": {}}}, "hostname", "not a host name"),
        ({"min_cipher_bits": 512, "services": {"pop3": {}}}, "min_cipher_bits", "at most 256"),
        ({"format": 2, "services": {"pop3": {"ports": [0]}}}, "format", "at most 1"),
        ({"clock_rate": 60, "services": {"pop3": {}}}, "clock_rate", "scenarios only"),
        ({"wall_clock": "ahead", "services": {"pop3": {}}}, "wall_clock", "scenarios only"),
        ({"data": "chain.pem", "services": {"pop3": {}}}, "data", "not a folder"),
        ({"data": "", "services": {"pop3": {}}}, "data", "must name a file or folder"),
    ],
)
def test_a_bad_document_is_refused_with_its_reason(document: Document, where: str, reason: str, folder: Path) -> None:
    told = complaints(document, folder)
    assert reason in told[where]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("account", "where", "reason"),
    [
        ({}, ".name", "is missing"),
        ({"name": "a/b", "password": "x"}, ".name", "no slashes"),
        ({"name": "..", "password": "x"}, ".name", "begin with a dot"),
        ({"name": "a"}, "", "needs password"),
        ({"name": "a", "password": ""}, ".password", "must not be empty"),
        ({"name": "a", "password": "x", "password_hash": passwords.hashed("x")}, "", "both"),
        ({"name": "a", "password_hash": "md5"}, ".password_hash", "python -m reference_server.passwords"),
        ({"name": "a", "password": "x", "address": "a"}, ".address", "not a mail address"),
        ({"name": "ALICE", "password": "x"}, ".name", "accounts[0] already"),
        ({"name": "b", "password": "x", "address": "Alice@Example.Test"}, ".address", "accounts[0] already"),
        ({"name": "b", "password": "x", "inbox": ["a.eml"]}, ".inbox", "scenarios only"),
    ],
)
def test_a_bad_account_is_refused_with_its_reason(account: Document, where: str, reason: str, folder: Path) -> None:
    alice = {"name": "alice", "password": "x", "address": "alice@example.test"}
    told = complaints({"accounts": [alice, account], "services": {"imap": {}}}, folder)
    assert reason in told[f"accounts[1]{where}"]


def test_an_inbox_file_that_is_not_there_is_named(folder: Path) -> None:
    account = {"name": "alice", "password": "x", "inbox": ["a.eml", "b.eml"]}
    told = complaints({"format": 1, "accounts": [account], "services": {"imap": {"ports": [0]}}}, folder)
    assert list(told) == ["accounts[0].inbox[1]"]


# --- Listeners that collide ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["*"], ["*"]),
        (["*"], ["127.0.0.1"]),
        (["::1"], ["*"]),
        (["0.0.0.0"], ["127.0.0.1"]),
        (["::"], ["::1"]),
        (["localhost"], ["Localhost."]),
        (["127.0.0.1"], ["::ffff:127.0.0.1"]),
        (["127.0.0.1", "127.0.0.2"], ["127.0.0.3", "127.0.0.2"]),
    ],
)
def test_two_services_cannot_have_one_port_on_one_address(one: list[str], other: list[str], folder: Path) -> None:
    told = complaints(
        {"services": {"pop3": {"bind": one, "ports": [110]}, "imap": {"bind": other, "ports": [143, 110]}}}, folder
    )
    assert list(told) == ["services.imap.ports[1]"]
    assert "services.pop3.ports[0]" in told["services.imap.ports[1]"]


@pytest.mark.parametrize(
    ("one", "other"),
    [(["127.0.0.1"], ["127.0.0.2"]), (["0.0.0.0"], ["::"]), (["127.0.0.1"], ["::1"]), (["0.0.0.0"], ["::1"])],
)
def test_two_services_may_have_one_port_on_different_addresses(one: list[str], other: list[str], folder: Path) -> None:
    document = {"services": {"pop3": {"bind": one, "ports": [110]}, "imap": {"bind": other, "ports": [110]}}}
    assert len(parse(document, folder).enabled) == 2


def test_a_port_is_listed_once_over_both_kinds(folder: Path) -> None:
    told = complaints(
        {"certificates": MAIN, "services": {"imap": {"ports": [143, 993], "implicit_tls_ports": [993]}}}, folder
    )
    assert list(told) == ["services.imap.implicit_tls_ports[0]"]


def test_a_collision_with_a_customary_port_says_that_nobody_wrote_it(folder: Path) -> None:
    told = complaints({"services": {"smtp": {"ports": [143]}, "imap": {}}}, folder)
    assert "(customary)" in told["services.imap.ports"]


def test_a_service_that_is_off_takes_no_port(folder: Path) -> None:
    parse({"services": {"pop3": {"ports": [143], "enabled": False}, "imap": {}}}, folder)


def test_any_free_port_can_be_asked_for_many_times(folder: Path) -> None:
    parse({"services": {"pop3": {"ports": [0, 0]}, "imap": {"ports": [0]}}}, folder)


# --- Certificates -------------------------------------------------------------------------------------------------


def test_the_only_certificate_need_not_be_named(folder: Path) -> None:
    settings = parse({"certificates": MAIN, "services": {"imap": {"explicit_tls": True}, "pop3": {}}}, folder)
    assert settings.services[Service.POP3].certificate is None
    assert settings.services[Service.IMAP].certificate == "main"


def test_one_of_several_certificates_must_be_chosen_where_tls_is_on(folder: Path) -> None:
    two = {**MAIN, "spare": MAIN["main"]}
    told = complaints({"certificates": two, "services": {"imap": {"explicit_tls": True}, "pop3": {}}}, folder)
    assert told == {"services.imap.certificate": "TLS is on and there are several certificates; choose main or spare"}


def test_a_misspelt_certificate_is_recognised(folder: Path) -> None:
    told = complaints({"certificates": MAIN, "services": {"imap": {"certificate": "mian"}}}, folder)
    assert "did you mean main?" in told["services.imap.certificate"]


def test_ldap_has_tls_where_the_extension_is_switched_on(folder: Path) -> None:
    document = {"ldap_tls": True, "certificates": MAIN, "services": {"ldap": {"explicit_tls": True}}}
    assert parse(document, folder).services[Service.LDAP].offers_tls


def test_tls_that_ldap_would_inherit_is_refused_as_well(folder: Path) -> None:
    document = {"certificates": MAIN, "defaults": {"explicit_tls": True}, "services": {"ldap": {}, "imap": {}}}
    assert "inherited from [defaults]" in complaints(document, folder)["services.ldap.explicit_tls"]


# --- Warnings and secrets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["allow", "deny"])
def test_restricting_smtp_is_legal_and_warned_of(key: str, folder: Path) -> None:
    settings = parse({"services": {"smtp": {key: ["10.0.0.0/8"]}}}, folder)
    assert [warning.where for warning in settings.warnings] == [f"services.smtp.{key}"]


def test_logins_that_nobody_can_make_are_warned_of(folder: Path) -> None:
    settings = parse({"services": {"imap": {"require_tls_for_login": True}}}, folder)
    assert [warning.where for warning in settings.warnings] == ["services.imap.require_tls_for_login"]


def test_a_password_shows_nowhere(folder: Path) -> None:
    settings = parse({"accounts": [{"name": "a", "password": "hunter2"}], "services": {"imap": {}}}, folder)
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(SettingsError) as caught:
        parse({"accounts": [{"name": "a", "password": ["hunter2"], "password_hash": "hunter2"}]}, folder)
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_settings_cannot_be_changed(folder: Path) -> None:
    settings = parse({"services": {"imap": {}}}, folder)
    with pytest.raises(ValueError, match="frozen"):
        settings.hostname = "other"


# --- Whatever is thrown at it -------------------------------------------------------------------------------------

_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["services", "defaults", "imap", "smtp", "ports", "bind", "name", "accounts", "certificates", "key", "allow"]
)
_DOCUMENTS: st.SearchStrategy[Document] = st.dictionaries(
    _KEYS | st.text(max_size=4),
    st.recursive(_VALUES, lambda inner: st.dictionaries(_KEYS, inner, max_size=4) | st.lists(inner, max_size=3)),
    max_size=5,
)


@given(_DOCUMENTS)
def test_any_document_is_settings_or_an_error_with_reasons(document: Document) -> None:
    try:
        settings = parse(document, Path("/nonexistent"))
    except SettingsError as error:
        assert error.problems
        assert all(problem.what for problem in error.problems)
    else:
        assert isinstance(settings, ServerSettings)


# --- JSON Schema --------------------------------------------------------------------------------------------------

_SCHEMAS: dict[str, Callable[[], Document]] = {
    "settings": lambda: json_schema("settings"),
    "scenario": lambda: contract.json_schema("scenario"),
    "describe": lambda: contract.json_schema("describe"),
    "events": lambda: contract.json_schema("events"),
    "report": report_schema.json_schema,
}


@pytest.mark.parametrize("name", _SCHEMAS)
def test_published_schemas_are_those_of_the_code(name: str) -> None:
    schema = _SCHEMAS[name]()
    jsonschema.Draft202012Validator.check_schema(schema)
    published = ROOT / "docs" / "schemas" / f"{name}.json"
    assert json.loads(published.read_text()) == schema, f"run: listenspec schema {name} > {published}"


def test_schema_accepts_what_the_server_accepts(everything: Path) -> None:
    import tomllib

    jsonschema.validate(tomllib.loads(everything.read_text()), json_schema("settings"))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"services": {"imaps": {}}},
        {"services": {"imap": {"port": [143]}}},
        {"services": {"imap": {"ports": ["143"]}}},
        {"services": {"imap": {"idle_timeout": 0}}},
        {"services": {"imap": {"idle_timeout": None}}},
        {"services": {"imap": {}}, "accounts": [{"name": "a", "password": "b", "password_hash": "c"}]},
    ],
)
def test_schema_refuses_what_the_server_refuses(document: Document) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema("settings"))


# --- Documentation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [SettingsDocument, ServiceSettings, AccountSettings, CertificateSettings])
def test_every_key_is_documented(model: type[BaseModel]) -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text()
    tables = {"certificates", "accounts", "defaults", "services"}
    missing = [key for key in model.model_fields if key not in tables and f"\n| `{key}` |" not in documented]
    assert missing == []
