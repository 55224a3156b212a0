"""A file becomes a plan, or everything that is wrong with it at once."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.config.compile import Compiled, compile_file, compile_source, revision_of
from mcp_macaroon_middleware.config.source import parse_source, source_of
from mcp_macaroon_middleware.errors import ConfigError, Diagnostic
from mcp_macaroon_middleware.host.discovery import DiscoveryOptions, discover
from mcp_macaroon_middleware.plugin import StoreType

Write = Callable[..., Path]

BUILTINS = discover(DiscoveryOptions(allow=()))

PLUGIN = """
from pydantic import model_validator

from mcp_macaroon_middleware.plugin import Check, Params, Settings, Verdict, enforcer


class Hours(Settings):
    zone: str = "UTC"
    start: int = 9


class Window(Params):
    start: int
    end: int


@enforcer("office_hours", params=Window, settings=Hours)
def office_hours(check: Check[Window]) -> Verdict:
    return Verdict.allow()
"""


def compiled(policies: str, config: str = "default: deny") -> Compiled:
    """A file with these rules and settings, compiled with the built-ins alone."""
    text = f"config: {{{config}}}\npolicies:\n{textwrap.indent(textwrap.dedent(policies), '  ')}\n"
    return compile_source(parse_source(text, file="p.yaml"), discovery=BUILTINS)


def codes(policies: str, config: str = "default: deny", severity: str = "warning") -> list[str]:
    return [d.code for d in compiled(policies, config).diagnostics if d.severity == severity]


def only_error(policies: str, config: str = "default: deny") -> Diagnostic:
    (error,) = compiled(policies, config).errors
    return error


def underlined(fault: Diagnostic) -> str:
    return fault.source_line[fault.column - 1 : fault.column - 1 + fault.length]


def test_a_right_file_becomes_a_plan() -> None:
    found = compiled("- bf:read_*:tool_access:allow\n- af:read_*:field_access:deny:body")
    assert found.diagnostics == ()
    assert found.plan is not None
    assert found.plan.revision == found.revision
    assert [rule.text for rule in found.plan.rules] == [
        "bf:read_*:tool_access:allow",
        "af:read_*:field_access:deny:body",
    ]


@pytest.mark.threat("L03")
@pytest.mark.parametrize(
    ("rule", "code", "wrong", "hint"),
    [
        ("bf:a:tool_acces:deny", "unknown_policy", "tool_acces", "tool_access"),
        ("bf:a:nothing_like_it_at_all:deny", "unknown_policy", "nothing_like_it_at_all", "plugin"),
        ("af:a:tool_access:deny", "wrong_phase", "af", ""),
        ("bf:a:field_access:deny:x", "wrong_phase", "bf", ""),
        ("bf:a:rate_limit:deny:1/minute", "wrong_action", "deny", "allow"),
        ("bf:a:rate_limit:allow:often", "bad_params", "often", ""),
        ("bf:method=a/b:tool_access:allow", "never_matches", "bf:method=a/b:tool_access:allow", "methods"),
    ],
)
def test_a_rule_that_cannot_be_bound_is_an_error_at_the_wrong_part(rule: str, code: str, wrong: str, hint: str) -> None:
    error = only_error(f"- {rule}")
    assert (error.code, underlined(error)) == (code, wrong)
    assert hint in error.hint + error.message
    assert compiled(f"- {rule}").plan is None


@pytest.mark.parametrize(
    ("policy", "distribution"),
    [
        ("working_hours", "mcp-macaroon-schedule"),
        ("time_window", "mcp-macaroon-schedule"),
        ("argument_allowlist", "mcp-macaroon-arguments"),
        ("path_allowlist", "mcp-macaroon-arguments"),
        ("path_whitelist", "mcp-macaroon-arguments"),
        ("repo_whitelist", "mcp-macaroon-arguments"),
    ],
)
def test_a_policy_of_a_known_distribution_that_is_absent_says_what_to_install(policy: str, distribution: str) -> None:
    error = only_error(f"- bf:a:{policy}:allow:x")
    assert error.code == "unknown_policy"
    assert distribution in error.hint


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    path = write(
        """\
        config:
          default: dney
          store: no
          audit: [{sink: jsnl}]
        plugins: {allow: [],
          nobody: {}}
        policies:
          - "bf:a:tool_acess:deny"
          - "bf:a:tool_access:dney"
          - {before: a, policy: tool_access, acton: deny}
          - "bf:a:tool_access:deny"
          - {before: a, before: b, policy: tool_access, action: deny}
        """
    )
    found = compile_file(path)
    assert [(d.line, d.code) for d in found.errors] == [
        (2, "bad_value"),
        (3, "ambiguous_scalar"),
        (3, "unknown_store"),
        (4, "unknown_sink"),
        (6, "unknown_section"),
        (8, "unknown_policy"),
        (9, "rule_invalid"),
        (10, "unknown_key"),
        (12, "duplicate_key"),
    ]
    assert "'jsonl'" in found.errors[3].hint


def test_an_unknown_role_is_an_error_and_a_known_one_is_not() -> None:
    rule = "- {before: a, policy: tool_access, action: allow, for: {role: ops}}"
    assert only_error(rule).code == "unknown_role"
    assert compiled(rule, "default: deny, roles: {ops: {claim: {groups: sre}}}").errors == ()


def test_a_broken_role_is_told_once_and_not_again_by_every_rule() -> None:
    rule = "- {before: a, policy: tool_access, action: allow, for: {role: ops}}"
    assert codes(rule, "default: deny, roles: {ops: {clam: x}}", "error") == ["unknown_key"]


# --- advice -----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("L09")
@pytest.mark.parametrize(
    "policies",
    [
        "- bf:a:tool_access:allow\n- bf:a:tool_access:deny",
        "- bf:get_user:tool_access:allow\n- bf:get_*:tool_access:deny",
        "- bf:get_u*:tool_access:allow\n- bf:get_*:tool_access:deny",
        "- bf:get_u*:tool_access:elicit\n- bf:*:tool_access:deny",
        "- af:a:field_access:allow:x\n- af:a:field_access:deny:x",
        "- {before: {prompt: p}, policy: tool_access, action: allow}\n- bf:prompt=*:tool_access:deny",
    ],
)
def test_a_rule_that_a_deny_makes_idle_is_reported(policies: str) -> None:
    found = compiled(policies)
    (warning,) = [d for d in found.warnings if d.code == "contradiction"]
    assert warning.line == 3
    assert "line 4" in warning.message
    assert "deny wins" in warning.message
    assert found.plan is not None


@pytest.mark.threat("L09")
@pytest.mark.parametrize(
    "policies",
    [
        "- bf:get_*:tool_access:allow\n- bf:get_user:tool_access:deny",
        "- bf:a:tool_access:allow\n- {before: a, policy: tool_access, action: deny, for: {subject: bob}}",
        "- af:a:field_access:allow:x\n- af:a:field_access:deny:y",
        "- bf:prompt=a:tool_access:allow\n- bf:a:tool_access:deny",
        "- bf:a:tool_access:allow\n- bf:a:tool_access:deny:time<20300101T000000Z",
    ],
)
def test_rules_that_differ_in_what_they_speak_of_do_not_contradict(policies: str) -> None:
    assert "contradiction" not in codes(policies)


@pytest.mark.threat("L10")
@pytest.mark.parametrize("rule", ["bf:*:tool_access:allow", "bf:tool=*:tool_access:allow"])
def test_allowing_everything_is_warned_of(rule: str) -> None:
    assert codes(f"- '{rule}'") == ["allows_everything"]


@pytest.mark.threat("L10")
@pytest.mark.parametrize(
    "rule",
    [
        "bf:a*:tool_access:allow",
        "{before: '*', policy: tool_access, action: allow, for: {subject: alice}}",
        "{before: '*', policy: rate_limit, action: allow, params: [1/minute]}",
    ],
)
def test_allowing_some_things_or_some_people_is_not_warned_of(rule: str) -> None:
    assert "allows_everything" not in codes(f"- {rule}")


@pytest.mark.parametrize(
    ("policies", "code"),
    [
        ("- bf:a:tool_access:allow:time<20200101T000000Z", "rule_ended"),
        ("- {before: a, policy: tool_access, action: allow, expiry: 60}", "never_asks"),
        ("- bf:${NAME}:tool_access:allow", "not_a_reference"),
        ("- bf:a:tool_access:deny", "nothing_allowed"),
        ("- bf:a:tool_access:allow\n- bf:a:tool_access:allow", "duplicate_rule"),
    ],
)
def test_what_an_author_may_not_have_meant_is_a_warning(policies: str, code: str) -> None:
    found = compiled(policies)
    assert code in [d.code for d in found.warnings]
    assert found.plan is not None


@pytest.mark.threat("L04")
def test_a_rule_that_can_never_match_is_an_error() -> None:
    assert only_error("- bf:method=logging/setLevel:tool_access:allow").code == "never_matches"
    assert compiled("- bf:method=logging/setLevel:tool_access:allow", "methods: [logging/setLevel]").errors == ()
    nobody = "- {before: a, policy: tool_access, action: allow, for: {subject: x}, except: {subject: x}}"
    assert only_error(nobody).code == "never_matches"


PARTS = StoreType(scheme="parts", open=lambda *_: MemoryStore(), partitioned=True)


@pytest.mark.parametrize(
    ("policies", "refused"),
    [
        (["bf:a:rate_limit:allow:1/minute", "bf:b:allow_attempts:allow:3"], 0),
        ([{"per": "server"}, {"per": ["tenant", "component"]}], 0),
        ([{"per": "principal"}, {"per": "server"}, {"per": "tenant"}], 2),
    ],
)
def test_limits_that_no_cluster_could_charge_at_once_are_told_at_the_start(policies: Any, refused: int) -> None:
    rules = [
        each
        if isinstance(each, str)
        else {"before": "*", "policy": "rate_limit", "action": "allow", "params": {"limits": "5/minute", **each}}
        for each in policies
    ]
    for store, expected in (("parts://here", refused), ("memory", 0)):
        file = {"config": {"secret_key": "k" * 40, "audience": "x", "store": store}, "policies": rules}
        found = compile_file(file, application=[PARTS])
        assert [d.code for d in found.errors] == ["limits_apart"] * expected


def test_10000_rules_compile_in_linear_time() -> None:
    rules = "\n".join(f"- bf:tool_{n}:tool_access:{'deny' if n % 2 else 'allow'}" for n in range(10_000))
    found = compiled(rules)
    assert found.plan is not None
    assert len(found.rules) == 10_000


# --- plugins ----------------------------------------------------------------------------------------------------------


def with_plugin(write: Write, plugins: str = "", rule: str = "bf:a:office_hours:allow:9:17") -> Compiled:
    write(PLUGIN, "office.py")
    path = write(
        f"config: {{default: deny}}\nplugins:\n  files: [office.py]\n{textwrap.indent(plugins, '  ')}\n  allow: []\n"
        f"policies:\n  - bf:a:tool_access:allow\n  - {rule}\n"
    )
    return compile_file(path)


def test_a_plugins_own_section_is_validated_by_its_model(write: Write) -> None:
    found = with_plugin(write, "office: {zone: Europe/Berlin}")
    assert found.errors == ()
    assert found.sections.named["office"].zone == "Europe/Berlin"
    assert found.sections.enforcers["office_hours"].start == 9
    assert found.plan is not None
    assert found.plan.book.checks[1].settings.zone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("section", "code", "hint"),
    [
        ("office: {zon: x}", "unknown_key", "'zone'"),
        ("office: {start: nine}", "bad_value", ""),
        ("office: [1]", "unknown_key", ""),
        ("ofice: {}", "unknown_section", "'office'"),
        ("office: {zone: '${ABSENT_VARIABLE}'}", "reference_missing", "ABSENT_VARIABLE"),
    ],
)
def test_a_wrong_section_is_an_error_at_its_place(write: Write, section: str, code: str, hint: str) -> None:
    (error,) = with_plugin(write, section).errors
    assert (error.code, error.line) == (code, 4)
    assert hint in error.hint + error.message


def test_a_section_takes_secrets_by_reference_and_never_shows_them(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZONE_SECRET", "hunter2")
    found = with_plugin(write, "office: {zone: '${ZONE_SECRET}', strat: 1}")
    assert "office" not in found.sections.named
    assert "hunter2" not in "".join(d.render() for d in found.diagnostics)
    assert with_plugin(write, "office: {zone: '${ZONE_SECRET}'}").sections.named["office"].zone == "hunter2"


def test_params_of_a_plugins_policy_are_checked_when_the_file_is_read(write: Write) -> None:
    (error,) = with_plugin(write, rule="bf:a:office_hours:allow:nine:17").errors
    assert (error.code, underlined(error)) == ("bad_params", "nine")


@pytest.mark.threat("M07", "FI18")
@pytest.mark.parametrize("body", ["raise RuntimeError('no')", "import a_module_that_is_not_there", "def broken(:"])
def test_a_plugin_that_cannot_be_imported_is_an_error_and_its_policies_are_not_blamed(write: Write, body: str) -> None:
    write(body, "office.py")
    path = write(
        "config: {default: deny}\nplugins: {allow: [], files: [office.py]}\npolicies: ['bf:a:office_hours:allow']"
    )
    found = compile_file(path)
    assert found.plan is None
    assert [d.code for d in found.errors] == ["plugin_failed"]
    assert "office" in found.errors[0].message


@pytest.mark.threat("M06")
def test_where_the_plugins_section_is_wrong_nothing_but_the_built_ins_is_loaded(write: Write) -> None:
    write("raise SystemExit('imported')", "office.py")
    found = compile_file(write("plugins: {alow: [], files: [office.py]}\npolicies: []"))
    assert [d.code for d in found.errors] == ["unknown_key"]
    assert {plugin.name for plugin in found.discovery.plugins if plugin.status == "loaded"} <= {
        "builtin",
        "application",
    }


# --- the seed document ------------------------------------------------------------------------------------------------

QUICK_START = """
config:
  secret_key: "your-secret-key-here"
  elicit_expiry: 3600 # Elicited permissions are valid for 1 hour

policies:
  # Allow access to 'read_emails' but deny access to 'admin_tool'
  - "bf:read_emails:tool_access:allow"
  - "bf:admin_tool:tool_access:deny"

  # After 'read_emails' is called, deny access to the 'body' field
  - "af:read_emails:field_access:deny:body"

  # For the 'read_emails' function, prompt the user for permission to access 'attachments'
  - "af:read_emails:field_access:elicit:attachments"
"""


def test_the_documented_quick_start_compiles_but_for_its_key() -> None:
    found = compile_source(parse_source(QUICK_START), discovery=BUILTINS)
    assert found.errors == ()
    assert [d.code for d in found.warnings] == ["default_missing"]


# --- revision ---------------------------------------------------------------------------------------------------------


def test_files_of_equal_content_have_one_revision() -> None:
    first = parse_source("policies: []\nconfig: {default: deny, audience: 'x'}")
    second = parse_source("# a comment\nconfig:\n  audience: x\n  default: deny\npolicies: []\n")
    third = source_of({"config": {"default": "deny", "audience": "x"}, "policies": []})
    assert revision_of(first.data) == revision_of(second.data) == revision_of(third.data)
    assert revision_of(first.data) != revision_of(parse_source("policies: []").data)


def test_L7_a_revision_is_made_without_secrets() -> None:
    def revision(key: str, password: str) -> str:
        return revision_of({"config": {"secret_key": key, "store": f"redis://:{password}@h/0"}, "policies": []})

    assert revision("a" * 40, "b") == revision("c" * 40, "d")


# --- any text at all --------------------------------------------------------------------------------------------------

LEAVES = st.sampled_from(
    [
        "bf:a:tool_access:deny",
        "af:*:field_access:only:a",
        "x",
        "${A}",
        "{",
        "*",
        "10",
        "no",
        "''",
        "memory",
        "log",
        "{}",
    ]
) | st.text(max_size=12)
WORDS = (
    "config plugins policies default roles identity audit store methods keys secret_key before after policy action",
    "params for except claim sink files allow",
)
KEYS = st.sampled_from(" ".join(WORDS).split()) | st.text(max_size=6)
TREES = st.recursive(
    LEAVES | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=3000, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_L2_no_mapping_makes_the_compiler_raise_anything_but_config_error(data: dict[str, object]) -> None:
    try:
        found = compile_source(source_of(data), discovery=BUILTINS)
    except ConfigError:
        return
    assert (found.plan is None) == any(d.severity == "error" for d in found.diagnostics)


@settings(max_examples=150, deadline=3000, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LEAVES | st.text(alphabet="bf:a\\*time<tool_access:deny ", max_size=40), max_size=5))
def test_L2_no_rule_text_makes_the_compiler_raise(texts: list[str]) -> None:
    found = compile_source(source_of({"policies": texts}), discovery=BUILTINS)
    assert len(found.rules) <= len(texts)


VALID = (
    "config:\n  default: deny\n  audience: mail\n  roles: {ops: {claim: {groups: sre}}}\n"
    "  audit: [{sink: log, required: true}]\nplugins: {field_access: {unstructured: withhold}}\npolicies:\n"
    "  - 'bf:a:tool_access:allow'\n  - {after: a, policy: field_access, action: only, params: [id], for: {role: ops}}\n"
)


@settings(max_examples=250, deadline=3000, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, len(VALID)),
    st.integers(0, 12),
    st.text(alphabet="abz:-[]{}&*!|>'\"%@#?, \n\t01\\\\", max_size=4),
)
def test_L2_no_slip_of_an_editor_makes_the_loader_raise_anything_but_config_error(
    at: int, cut: int, typed: str
) -> None:
    assert compile_source(parse_source(VALID), discovery=BUILTINS).errors == ()
    try:
        found = compile_source(parse_source(VALID[:at] + typed + VALID[at + cut :], file="p.yaml"), discovery=BUILTINS)
    except ConfigError as error:
        rendered = str(error)
    else:
        rendered = "".join(d.render() for d in found.diagnostics)
        assert (found.plan is None) == any(d.severity == "error" for d in found.diagnostics)
    assert rendered is not None
