"""`config:` and `plugins:`: strict models, every fault at its place, secrets by reference and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_macaroon_middleware.config.references import Reference
from mcp_macaroon_middleware.config.settings import ConfigSettings, FileSettings, read_settings
from mcp_macaroon_middleware.config.source import parse_source, source_of
from mcp_macaroon_middleware.errors import Diagnostic
from mcp_macaroon_middleware.model import Action, Selector

FULL = """
config:
  secret_key: ${MACAROON_SECRET_KEY}
  audience: mail
  default: deny
  methods: [logging/setLevel]
  mode: enforce
  elicit_expiry: 900
  deny_expiry: 60
  hide_denied: true
  identity: {claim: sub, tenant: org_id, local: local}
  roles: {ops: {claim: {groups: sre}}, boss: {subject: [alice, bob], claim: {level: 3, on_call: true}}}
  store: memory
  approvals: {default: mcp, scopes: [once, period], max_pending: 20, timeout: 120}
  audit: [{sink: jsonl, path: audit.jsonl, required: true}, {sink: log}]
plugins:
  require: ["mcp-macaroon-schedule>=3.0.0a1"]
  schedule: {timezone: Europe/Berlin}
policies: []
"""


def read(text: str, base: Path | None = None) -> tuple[FileSettings, list[Diagnostic]]:
    source = parse_source(text, file="p.yaml", base=base)
    settings, problems = read_settings(source)
    return settings, [*source.problems, *problems]


def errors(text: str) -> list[Diagnostic]:
    return [problem for problem in read(text)[1] if problem.severity == "error"]


def warnings(text: str) -> list[str]:
    return [problem.code for problem in read(text)[1] if problem.severity == "warning"]


def test_every_setting_of_the_design_is_read() -> None:
    settings, problems = read(FULL)
    assert [p for p in problems if p.severity == "error"] == []
    config = settings.config
    assert config.secret_key == Reference("env", "MACAROON_SECRET_KEY")
    assert (config.audience, config.default_action, config.methods) == ("mail", Action.DENY, ("logging/setLevel",))
    assert config.identity.tenant == "org_id"
    assert config.selectors()["ops"] == Selector(claim=(("groups", ("sre",)),))
    assert config.selectors()["boss"] == Selector(
        subject=("alice", "bob"), claim=(("level", ("3",)), ("on_call", ("true",)))
    )
    assert [(entry.sink, entry.required) for entry in config.audit] == [("jsonl", True), ("log", False)]
    assert config.audit[0].__pydantic_extra__ == {"path": "audit.jsonl"}
    assert settings.plugins.require == ("mcp-macaroon-schedule>=3.0.0a1",)
    assert settings.sections == ("schedule",)


def test_the_same_as_a_mapping_gives_the_same() -> None:
    source = parse_source(FULL)
    assert read_settings(source_of(source.data))[0] == read_settings(source)[0]


def test_what_is_left_out_has_the_documented_default() -> None:
    config = read("policies: []")[0].config
    assert config == ConfigSettings()
    assert (config.mode, config.elicit_expiry, config.deny_expiry, config.hide_denied) == ("enforce", 900, 60, True)
    assert (config.store, config.identity.local, config.identity.anonymous) == (
        Reference("text", "memory"),
        "local",
        None,
    )
    assert [entry.sink for entry in config.audit] == ["log"]


def test_settings_of_approvals_are_read_without_a_warning() -> None:
    assert warnings(FULL) == []
    settings, _ = read(
        "config: {default: deny, approvals: {default: console, fallback: mcp, timeout: 5}}\npolicies: []"
    )
    terms = settings.config.approvals.terms()
    assert (terms.default, terms.fallback, terms.timeout, terms.scopes) == ("console", ("mcp",), 5, ("once", "period"))


def test_a_file_without_default_allows_and_says_so() -> None:
    settings, problems = read("config: {audience: x}\npolicies: []")
    assert settings.config.default_action is Action.ALLOW
    assert [(p.code, p.severity) for p in problems] == [("default_missing", "warning")]
    assert "ALLOWED" in problems[0].message


def test_shadow_mode_is_said_to_refuse_nothing() -> None:
    assert warnings("config: {default: deny, mode: shadow}\npolicies: []") == ["shadow"]


@pytest.mark.threat("L03")
@pytest.mark.parametrize(
    ("text", "code", "place", "hint"),
    [
        ("polices: []\npolicies: []", "unknown_key", (1, 1), "'policies'"),
        ("config: {defualt: deny}\npolicies: []", "unknown_key", (1, 10), "'default'"),
        ("config: {default: dney}\npolicies: []", "bad_value", (1, 19), "'deny'"),
        ("config: {mode: shaddow}\npolicies: []", "bad_value", (1, 16), "'shadow'"),
        ("config: {identity: {clam: x}}\npolicies: []", "unknown_key", (1, 21), "'claim'"),
        ("config: {roles: {a: {clain: {}}}}\npolicies: []", "unknown_key", (1, 22), "'claim'"),
        ("config: {approvals: {scopes: [onec]}}\npolicies: []", "bad_value", (1, 31), "'once'"),
        ("config: {approvals: {max_pendin: 1}}\npolicies: []", "unknown_key", (1, 22), "'max_pending'"),
        ("config: {audit: [{snk: log}]}\npolicies: []", "missing_key", (1, 18), ""),
        ("config: {elicit_expiry: '900'}\npolicies: []", "bad_value", (1, 25), ""),
        ("config: {elicit_expiry: 0}\npolicies: []", "bad_value", (1, 25), ""),
        ("config: {elicit_expiry: true}\npolicies: []", "bad_value", (1, 25), ""),
        ("config: {hide_denied: 'false'}\npolicies: []", "bad_value", (1, 23), ""),
        ("config: {audience: 12}\npolicies: []", "bad_value", (1, 20), "quotes"),
        ("config: {audience: 'a b'}\npolicies: []", "bad_value", (1, 20), ""),
        ("config: {audit: []}\npolicies: []", "bad_value", (1, 17), ""),
        ("config: {store: 12}\npolicies: []", "bad_value", (1, 17), ""),
        ("config: {roles: {a: {}}}\npolicies: []", "role_invalid", (1, 21), ""),
        ("config: {roles: {a: {role: b}}}\npolicies: []", "unknown_key", (1, 22), "subject"),
        ("config: [1]\npolicies: []", "not_a_mapping", (1, 9), ""),
        ("plugins: x\npolicies: []", "not_a_mapping", (1, 10), ""),
        ("plugins: {disable: [1]}\npolicies: []", "bad_value", (1, 21), "quotes"),
        ("config: {default: deny}", "policies_missing", (1, 1), "policies: []"),
        ("policies:", "policies_missing", (1, 1), "policies: []"),
        ("policies: bf:a:tool_access:deny", "policies_missing", (1, 1), ""),
        ("- bf:a:tool_access:deny", "not_a_mapping", (1, 1), "policies"),
    ],
)
def test_a_wrong_setting_is_an_error_at_its_place(text: str, code: str, place: tuple[int, int], hint: str) -> None:
    found = errors(text)
    first = found[0]
    assert (first.code, (first.line, first.column)) == (code, place)
    assert hint in first.hint + first.message
    assert len(found) == 1


def test_everything_wrong_is_told_at_once_and_the_rest_is_still_read() -> None:
    settings, problems = read(
        "config:\n  audience: mail\n  default: dney\n  mdoe: shadow\n  hide_denied: 1\n"
        "plugins: {files: 3, allow: [a]}\npolices: []\n"
    )
    assert [(p.line, p.code) for p in sorted(problems, key=lambda p: p.line) if p.severity == "error"] == [
        (1, "policies_missing"),
        (3, "bad_value"),
        (4, "unknown_key"),
        (5, "bad_value"),
        (6, "bad_value"),
        (7, "unknown_key"),
    ]
    assert settings.config.audience == "mail"
    assert settings.plugins.allow == ("a",)


def test_faults_of_a_mapping_are_named_by_their_path() -> None:
    _, problems = read_settings(source_of({"config": {"identity": {"clam": "x"}}, "policies": []}))
    assert "config.identity.clam: unknown key 'clam'" in [p.message for p in problems]


# --- references -------------------------------------------------------------------------------------------------------


@pytest.mark.threat("L15")
def test_what_a_variable_holds_is_a_text_and_brings_no_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_CLAIM", "{a: b}\npolicies: [x]")
    settings, problems = read("config: {default: deny, identity: {claim: '${THE_CLAIM}'}}\npolicies: []")
    assert problems == []
    assert settings.config.identity.claim == "{a: b}\npolicies: [x]"


@pytest.mark.threat("L08")
@pytest.mark.parametrize(("value", "what"), [(None, "is not set"), ("", "is empty")])
def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None, what: str) -> None:
    monkeypatch.delenv("THE_NAME", raising=False)
    if value is not None:
        monkeypatch.setenv("THE_NAME", value)
    for spelling in ("${THE_NAME}", "{env: THE_NAME}"):
        (problem,) = errors(f"config:\n  audience: {spelling}\npolicies: []")
        assert problem.code == "reference_missing"
        assert f"THE_NAME {what}" in problem.message
        assert (problem.line, problem.column) == (2, 13)


def test_a_file_reference_starts_from_the_policy_file_and_drops_the_last_newline(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("mail\n")
    settings, problems = read("config: {default: deny, audience: {file: name}}\npolicies: []", tmp_path)
    assert problems == []
    assert settings.config.audience == "mail"
    (_, missing) = read("config: {default: deny, audience: {file: absent}}\npolicies: []", tmp_path)
    assert [p.code for p in missing] == ["reference_missing"]
    assert "absent" in missing[0].message


@pytest.mark.parametrize("value", ["'${A'", "'x${A}'", "'${A}x'", "'${1}'", "{env: '1'}", "{env: [a]}", "{file: ''}"])
@pytest.mark.parametrize("key", ["audience", "secret_key"])
def test_what_looks_like_a_reference_and_is_none_is_an_error(key: str, value: str) -> None:
    (problem,) = errors(f"config:\n  {key}: {value}\npolicies: []")
    assert problem.code in ("reference_invalid", "bad_value")


def test_two_dollars_write_the_text_itself() -> None:
    settings, _ = read("config: {identity: {claim: '$${A}'}}\npolicies: []")
    assert settings.config.identity.claim == "${A}"


def test_L7_no_repr_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "hunter2hunter2")
    settings, problems = read(
        "config: {secret_key: hunter2hunter2, store: 'redis://:hunter2hunter2@h', audience: 1}\npolicies: []"
    )
    by_name, _ = read("config: {secret_key: '${THE_SECRET}'}\npolicies: []")
    shown = repr(settings) + repr(by_name) + str(settings.config) + "".join(p.render() for p in problems)
    assert "hunter2" not in shown
    assert "THE_SECRET" in repr(by_name)
