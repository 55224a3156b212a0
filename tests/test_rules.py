"""The rule language: what is read, what is refused and where the error points."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError
from mcp_macaroon_middleware.model import Action, Component, Kind, Phase, Rule, Selector, Target
from mcp_macaroon_middleware.rules import (
    format_rule,
    glob_matches,
    normal_uri,
    parse_rule,
    parse_selector,
    parse_target,
    rule_from_mapping,
    rule_to_mapping,
    target_matches,
)

texts = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp"), blacklist_characters=""), min_size=1, max_size=20
) | st.sampled_from(["time<", "\\time<x", "a:b", "\\", "\\\\", "a\\.b", "\\:", "*", "C:\\x", "time<20300101T000000Z"])
names = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0, tzinfo=UTC))


@st.composite
def rules(draw: Any) -> Rule:
    target = draw(
        st.just(Target(kind=None, pattern="*"))
        | texts.filter(lambda t: t != "*" and "=" not in t).map(lambda t: Target(kind=Kind.TOOL, pattern=t))
        | st.builds(Target, kind=st.sampled_from([Kind.PROMPT, Kind.TOOL, Kind.METHOD]), pattern=texts)
    )
    return Rule(
        phase=draw(st.sampled_from(list(Phase))),
        target=target,
        policy=draw(names),
        action=draw(st.sampled_from(list(Action))),
        params=tuple(draw(st.lists(texts, max_size=4))),
        expires=draw(st.none() | instants),
    )


@given(rules())
@example(
    Rule(phase=Phase.BEFORE, target=Target(kind=Kind.TOOL, pattern="*"), policy="p", action=Action.DENY, params=("\\",))
)
def test_a_formatted_rule_reads_back_as_the_same_rule(rule: Rule) -> None:
    again = parse_rule(format_rule(rule))
    assert (again.phase, again.target, again.policy, again.action) == (
        rule.phase,
        rule.target,
        rule.policy,
        rule.action,
    )
    assert (again.params, again.expires) == (rule.params, rule.expires)
    assert format_rule(again) == again.text == format_rule(rule)


@given(rules())
def test_the_long_form_reads_back_as_the_same_rule(rule: Rule) -> None:
    again = rule_from_mapping(rule_to_mapping(rule))
    assert rule_to_mapping(again) == rule_to_mapping(rule)
    assert again.text == format_rule(rule)


@given(st.text(max_size=200))
def test_any_text_is_a_rule_or_a_rule_error_that_points_into_it(text: str) -> None:
    error: RuleError | None = None
    try:
        parse_rule(text)
    except RuleError as raised:
        error = raised
    assert error is None or (0 <= error.offset <= len(text) and str(error))


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("bf:write_file:path_allowlist:allow:docs/*:*.md", ("docs/*", "*.md")),
        (r"bf:t:p:allow:C\:\\x", ("C:\\x",)),
        (r"af:t:field_access:deny:a\.b", (r"a\.b",)),
        (r"bf:t:p:allow:\time<2999", ("time<2999",)),
        (r"bf:t:p:allow:xtime<2999", ("xtime<2999",)),
    ],
)
@pytest.mark.threat("E03")
def test_params_keep_colons_backslashes_and_time_look_alikes(text: str, params: tuple[str, ...]) -> None:
    rule = parse_rule(text)
    assert rule.params == params
    assert rule.expires is None


@pytest.mark.parametrize(
    ("text", "offset", "says"),
    [
        ("bff:x:y:deny", 0, "did you mean 'bf'"),
        ("bf:x:y:dney", 7, "did you mean 'deny'"),
        ("bf:x:y", 6, "action is missing"),
        ("bf::y:deny", 3, "empty part"),
        ("bf:x:y:deny:", 12, "empty part"),
        ("bf:x:y:deny:time<2030", 12, "not an instant"),
        ("bf:x:y:deny:time<20301301T000000Z", 12, "not an instant"),
        ("bf:x:y:deny:time<20300101T000000Z:more", 12, "must be the last part"),
        ("bf:x:y:deny:a\nb", 13, "control character"),
        ("bf:x:y:deny:a\u2028b", 13, "control character"),
        ("bf:x:y z:deny", 5, "cannot be a policy name"),
        ("bf:x:y:deny:a\\", 13, "lone backslash"),
        ("bf:tool=:y:deny", 3, "needs a name"),
    ],
)
def test_a_wrong_rule_says_where_and_what(text: str, offset: int, says: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(text)
    assert caught.value.offset == offset
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_rule_in_a_token_may_not_end_by_itself() -> None:
    with pytest.raises(RuleError, match="token"):
        parse_rule("bf:x:y:deny:time<20300101T000000Z", in_token=True)


@pytest.mark.threat("E01")
@given(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=100))
def test_a_name_written_into_a_rule_stays_one_part(name: str) -> None:
    target = Target(kind=Kind.PROMPT, pattern=name)
    rule = Rule(phase=Phase.BEFORE, target=target, policy="tool_access", action=Action.DENY, params=(name,))
    again = parse_rule(format_rule(rule))
    assert again.target == target
    assert again.params == (name,)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("*", Target(kind=None, pattern="*")),
        ("get_*", Target(kind=Kind.TOOL, pattern="get_*")),
        ("tool=*", Target(kind=Kind.TOOL, pattern="*")),
        ("prompt=hello", Target(kind=Kind.PROMPT, pattern="hello")),
        ("resource=DB://Users/%31", Target(kind=Kind.RESOURCE, pattern="db://Users/1")),
        ("child/delete", Target(kind=Kind.TOOL, pattern="child/delete")),
        ("method=tasks/get", Target(kind=Kind.METHOD, pattern="tasks/get")),
    ],
)
def test_targets_name_a_kind(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("spelling", "normal"),
    [
        ("DB://users/row/1", "db://users/row/1"),
        ("db://USERS/row/1#f", "db://USERS/row/1#f"),
        ("db://users/row/%31", "db://users/row/1"),
        ("db://users/%2e%2e/x", "db://users/../x"),
        ("file://{path*}", "file://{path*}"),
        ("no-scheme", "no-scheme"),
    ],
)
@pytest.mark.threat("I01")
def test_one_resource_has_one_spelling(spelling: str, normal: str) -> None:
    assert normal_uri(spelling) == normal


def test_a_restricting_rule_matches_every_name_and_a_granting_one_the_public_name() -> None:
    tool = Component(kind=Kind.TOOL, name="ns_wipe", names=("ns_wipe", "wipe", "child/wipe"))
    wipe, public = parse_target("wipe"), parse_target("ns_*")
    assert target_matches(wipe, tool)
    assert target_matches(parse_target("child/wipe"), tool)
    assert not target_matches(wipe, tool, granting=True)
    assert target_matches(public, tool, granting=True)
    assert not target_matches(parse_target("prompt=wipe"), tool)


@given(st.lists(st.sampled_from(["a", "b", "*"]), max_size=8).map("".join), st.text("ab", max_size=10))
def test_globs_match_as_the_reference_does(pattern: str, text: str) -> None:
    import re

    reference = re.fullmatch(".*".join(re.escape(piece) for piece in pattern.split("*")), text, re.DOTALL) is not None
    assert glob_matches(pattern, text) == reference


@pytest.mark.threat("E09", "P08")
def test_a_pattern_of_many_stars_is_matched_without_backtracking() -> None:
    assert not glob_matches("*a" * 500 + "*b", "a" * 100_000)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"before": "x", "policy": "p", "action": "deny", "foor": {}}, "did you mean 'for'"),
        ({"policy": "p", "action": "deny"}, "before: or after:"),
        ({"before": "x", "after": "x", "policy": "p", "action": "deny"}, "before: or after:"),
        ({"before": "x", "action": "deny"}, "needs policy"),
        ({"before": {"tol": "x"}, "policy": "p", "action": "deny"}, "takes a name or glob"),
        ({"before": "x", "policy": "p", "action": "deny", "for": {"role": []}}, "at least one"),
        ({"before": "x", "policy": "p", "action": "deny", "for": {"rolle": "a"}}, "did you mean 'role'"),
        ({"before": "x", "policy": "p", "action": "deny", "scopes": ["ever"]}, "unknown scope"),
        ({"before": "x", "policy": "p", "action": "deny", "expiry": -1}, "whole number"),
        ({"before": "x", "policy": "p", "action": "deny", "expiry": True}, "whole number"),
        ({"before": "x", "policy": "p", "action": "deny", "dynamic": "yes"}, "dynamic is true"),
        ({"before": "x", "policy": "p", "action": "deny", "dynamic": False}, "cannot be kept yet"),
        ({"before": "x", "policy": "p", "action": "deny", "expires": "2030"}, "not an instant"),
    ],
)
def test_a_wrong_long_form_says_what(mapping: dict[str, Any], says: str) -> None:
    with pytest.raises(RuleError) as caught:
        rule_from_mapping(mapping)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_selector_reads_texts_and_lists() -> None:
    selector = parse_selector({"role": "ops", "claim": {"department": ["finance", "law"], "level": 3}})
    assert selector == Selector(role=("ops",), claim=(("department", ("finance", "law")), ("level", ("3",))))
