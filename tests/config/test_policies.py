"""`policies:` becomes rules, and every fault points at the character that is wrong."""

from __future__ import annotations

import pytest

from mcp_macaroon_middleware.config.policies import PlacedRule, parts_of, problem_diagnostic, read_rules
from mcp_macaroon_middleware.config.source import parse_source, source_of
from mcp_macaroon_middleware.core.binding import RuleProblem
from mcp_macaroon_middleware.errors import Diagnostic
from mcp_macaroon_middleware.model import Action, Kind, Phase


def read(text: str) -> tuple[list[PlacedRule], list[Diagnostic]]:
    return read_rules(parse_source(text, file="p.yaml"))


def underlined(fault: Diagnostic) -> str:
    """The characters over the caret."""
    return fault.source_line[fault.column - 1 : fault.column - 1 + fault.length]


def test_both_forms_are_read_in_order_with_their_places() -> None:
    placed, problems = read(
        'policies:\n  - "bf:a:tool_access:deny"\n  - {after: get_*, policy: field_access, action: only, params: [id]}\n'
    )
    assert problems == []
    first, second = (p.rule for p in placed)
    assert (first.phase, first.action, first.place.file, first.place.line, first.place.column) == (
        Phase.BEFORE,
        Action.DENY,
        "p.yaml",
        2,
        5,
    )
    assert (second.phase, second.target.kind, second.place.line) == (Phase.AFTER, Kind.TOOL, 3)


@pytest.mark.threat("L03")
@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize(
    ("rule", "wrong", "hint"),
    [
        ("bg:a:tool_access:deny", "bg", "bf"),
        ("bf:a:tool_access:dney", "dney", "deny"),
        ("bf:a:tool access:deny", "tool access", ""),
        ("bf:a:x:deny:time<2030", "time<2030", "time<"),
        ("bf:a::deny", ":", ""),
        ("bf:a:x", "", "tool_access"),
    ],
)
def test_a_fault_in_a_rule_points_into_the_rule(quote: str, rule: str, wrong: str, hint: str) -> None:
    _, (fault,) = read(f"policies:\n  - {quote}{rule}{quote}\n")
    assert fault.line == 2
    inner = 5 + len(quote)
    if wrong:
        assert underlined(fault) == wrong
        assert fault.column == inner + (5 if wrong == ":" else rule.index(wrong))
    else:
        assert fault.column == inner + len(rule)
    assert hint in fault.hint + fault.message


@pytest.mark.parametrize("text", ["'bf:a'':x:dney'", '"bf:a\\u003ax:dney"', ">-\n    bf:a:x\n    :dney"])
def test_a_fault_in_a_scalar_with_escapes_points_at_its_start(text: str) -> None:
    _, (fault,) = read(f"policies:\n  - {text}\n")
    assert (fault.line, fault.column) == (2, 5)


@pytest.mark.threat("L03")
@pytest.mark.parametrize(
    ("rule", "wrong", "hint"),
    [
        ("{before: a, polcy: x, action: deny}", "polcy", "policy"),
        ("{before: a, policy: x, action: dney}", "dney", "deny"),
        ("{before: a, policy: x, action: deny, for: {rol: x}}", "rol", "role"),
        ("{before: a, policy: x, action: deny, for: x}", "x", ""),
        ("{before: a, policy: x, action: deny, scopes: [onc]}", "onc", "once"),
        ("{before: a, policy: x, action: deny, expiry: -1}", "-1", ""),
        ("{before: a, policy: x, action: deny, dynamic: 1}", "1", ""),
        ("{before: a, policy: 1, action: deny}", "1", ""),
        ("{before: a, after: b, policy: x, action: deny}", "a", ""),
        ("{policy: x, action: deny}", "{", "before"),
        ("{bf:a: x}", "bf:a", "quotes"),
        ("{before: a, policy: x, action: deny, expires: 2030}", "2030", ""),
    ],
)
def test_a_fault_in_the_long_form_points_at_its_key_or_value(rule: str, wrong: str, hint: str) -> None:
    _, (fault,) = read(f"policies:\n  - {rule}\n")
    assert underlined(fault) == wrong
    assert hint in fault.hint + fault.message


def test_an_unquoted_rule_with_a_colon_and_a_space_is_told_to_be_quoted() -> None:
    _, (fault,) = read("policies:\n  - bf:a: tool_access:deny\n")
    assert "needs quotes" in fault.hint


@pytest.mark.parametrize("value", ["1", "null", "[a]", "true"])
def test_what_is_no_rule_is_an_error(value: str) -> None:
    _, (fault,) = read(f"policies:\n  - {value}\n")
    assert (fault.line, fault.column) == (2, 5)


def test_one_wrong_rule_does_not_hide_another() -> None:
    placed, problems = read("policies:\n  - x\n  - bf:a:tool_access:deny\n  - bf:a:b:c\n")
    assert len(placed) == 1
    assert [fault.line for fault in problems] == [2, 4]


@pytest.mark.parametrize(
    ("problem", "wrong"),
    [
        (("unknown_policy", None), "x"),
        (("wrong_action", None), "deny"),
        (("wrong_phase", None), "bf"),
        (("bad_params", 0), "one"),
        (("bad_params", 1), "t\\:wo"),
        (("bad_params", 9), "t\\:wo"),
        (("duplicate_rule", None), "'bf:a:x:deny:one:t\\:wo'"),
    ],
)
def test_a_problem_of_binding_points_at_the_part_it_is_about(problem: tuple[str, int | None], wrong: str) -> None:
    source = parse_source("policies:\n  - 'bf:a:x:deny:one:t\\:wo'\n")
    (placed,), _ = read_rules(source)
    found = RuleProblem(rule=placed.rule, code=problem[0], message="no", param_index=problem[1])
    assert underlined(problem_diagnostic(source, placed, found)) == wrong


@pytest.mark.parametrize(
    ("problem", "wrong"),
    [
        (("unknown_policy", "no", None), "x"),
        (("wrong_action", "no", None), "deny"),
        (("wrong_phase", "no", None), "a"),
        (("unknown_role", "no", None), "{"),
        (("bad_params", "param 'two': no", None), "2"),
        (("bad_params", "no", None), "{"),
    ],
)
def test_a_problem_of_binding_a_long_form_points_at_its_value(problem: tuple[str, str, int | None], wrong: str) -> None:
    source = parse_source(
        "policies:\n  - {before: a, policy: x, action: deny, params: {one: 1, two: 2}, for: {role: r}}\n"
    )
    (placed,), _ = read_rules(source)
    found = RuleProblem(rule=placed.rule, code=problem[0], message=problem[1], param_index=problem[2])
    assert underlined(problem_diagnostic(source, placed, found)) == wrong


def test_faults_in_a_mapping_are_named_by_their_path() -> None:
    _, (fault,) = read_rules(source_of({"policies": ["bf:a:b:c"]}))
    assert fault.message.startswith("policies[0]: ")


def test_the_parts_of_a_rule_are_cut_at_unescaped_colons() -> None:
    text = r"bf:a\:b:c\\:d"
    assert [text[start:end] for start, end in parts_of(text)] == ["bf", r"a\:b", r"c\\", "d"]
