"""Rules are found by who as well as by what: the index proposes whatever a look at every rule would find."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.core import judging
from mcp_macaroon_middleware.core.binding import PlanSettings
from mcp_macaroon_middleware.core.crowd import Crowd, _Index
from mcp_macaroon_middleware.core.plan import compile_plan
from mcp_macaroon_middleware.core.principals import applies
from mcp_macaroon_middleware.host.discovery import DiscoveryOptions, discover
from mcp_macaroon_middleware.model import Component, Kind, Phase, Principal, RequestContext, Selector
from mcp_macaroon_middleware.rules import parse_selector, rule_from_mapping

NAMES = ("ann", "bob", "cli", "ops", "read", "1", "true")
TEXTS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)
SCALARS = st.one_of(st.sampled_from((*NAMES, "read ops", "", 1, 1.0, 2.5, True, None)), st.just({"a": "ops"}))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
CLAIM_NAMES = ("groups", "realm.roles", "scope", "scp")
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "groups": VALUES,
        "realm.roles": VALUES,
        "realm": st.one_of(VALUES, st.fixed_dictionaries({}, optional={"roles": VALUES})),
        "scope": VALUES,
        "scp": VALUES,
    },
)
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "subject": TEXTS,
        "client": TEXTS,
        "issuer": st.one_of(TEXTS, st.just(["any"])),
        "tenant": TEXTS,
        "scope": TEXTS,
        "claim": st.one_of(
            st.dictionaries(st.sampled_from(CLAIM_NAMES), TEXTS, min_size=1, max_size=2),
            st.just([{"path": ["realm", "roles"], "is": "ops"}]),
        ),
    },
).filter(bool)
ROLES: Mapping[str, Selector] = {
    "r1": parse_selector({"subject": ["ann", "bob"]}),
    "r2": parse_selector({"claim": {"groups": "ops"}}),
    "r3": parse_selector({"issuer": "any"}),
    "r4": parse_selector({"scope": "read", "tenant": "1"}),
}
ROLE = st.lists(st.sampled_from((*ROLES, "gone")), min_size=1, max_size=2, unique=True)
SELECTORS = st.one_of(PLAIN, st.builds(lambda more, role: {**more, "role": role}, st.one_of(st.just({}), PLAIN), ROLE))
CALLERS = st.builds(
    lambda kind, issuer, subject, tenant, client, claims: RequestContext(
        principal=Principal(kind=kind, namespace=issuer, subject=subject, tenant=tenant), client=client, claims=claims
    ),
    st.sampled_from(("user", "client", "local", "anonymous")),
    st.sampled_from(("", "ann", "1")),
    st.sampled_from(("", *NAMES)),
    st.sampled_from((None, "1", "ops")),
    st.sampled_from((None, "cli", "ann")),
    CLAIMS,
)
REGISTRY = discover(DiscoveryOptions(allow=())).registry
TOOL = Component(kind=Kind.TOOL, name="t")


def crowd(rules: list[dict[str, Any]]) -> Crowd[Any]:
    bound, problems = compile_plan(
        [rule_from_mapping({"before": "t", "policy": "tool_access", **rule}) for rule in rules],
        REGISTRY,
        PlanSettings(roles={**ROLES, "gone": parse_selector({"subject": "x"})}),
        {},
        "r",
    )
    assert not [problem for problem in problems if problem.severity == "error"]
    return bound.book.lookup(Phase.BEFORE, TOOL).free


@pytest.mark.threat("R16")
@settings(max_examples=60, deadline=None)
@given(
    rules=st.lists(
        st.builds(
            lambda action, named: {"action": action, **named},
            st.sampled_from(("allow", "deny")),
            st.fixed_dictionaries({}, optional={"for": SELECTORS, "except": SELECTORS}).filter(bool),
        ),
        min_size=1,
        max_size=6,
    ),
    callers=st.lists(CALLERS, min_size=1, max_size=3),
)
def test_the_index_finds_what_a_look_at_every_rule_finds(
    rules: list[dict[str, Any]], callers: list[RequestContext]
) -> None:
    matches = crowd(rules)
    index = _Index(matches, ROLES)
    for request in callers:
        scanned = [m for m in matches if counts(m, request)]
        found = [matches[number] for number in index.candidates(request) if counts(matches[number], request)]
        assert found == scanned


def counts(match: Any, request: RequestContext) -> bool:
    spoken = applies(match.check.rule, request, ROLES)
    return bool(spoken) or (spoken is None and not match.check.grants_only)


NAMED: dict[str, Any] = {
    "subject": lambda who: {"subject": who},
    "client": lambda who: {"client": who},
    "claim": lambda who: {"claim": {"login": who}},
    "nested claim": lambda who: {"claim": {"a.login": who}},
    "scope": lambda who: {"scope": who},
    "tenant": lambda who: {"tenant": who},
    "role": lambda who: {"role": who},
    "subject of an issuer": lambda who: {"subject": who, "issuer": "1"},
}


@pytest.mark.threat("R16")
@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("action", ["allow", "deny"])
def test_ten_thousand_rules_that_name_one_each_cost_what_twenty_cost(named: str, action: str) -> None:
    """reports-policy B11: one rule a person was linear."""

    def calls(number: int) -> int:
        people = [f"u{index}" for index in range(number)]
        roles = {who: Selector(subject=(who,)) for who in people}
        rules = [rule_from_mapping(dict(BASE, action=action, **{"for": NAMED[named](who)})) for who in people]
        plan, problems = compile_plan(rules, REGISTRY, PlanSettings(roles=roles), {}, "r")
        assert not problems
        matches = plan.book.lookup(Phase.BEFORE, TOOL)
        request = RequestContext(
            principal=Principal(kind="user", namespace="1", subject="u3", tenant="u3"),
            client="u3",
            claims={"login": "u3", "a": {"login": "u3"}, "scope": "u3 x"},
        )
        judge = judging.Judge(None, NOW)  # type: ignore[arg-type]
        for each in (matches.free, matches.open, matches.hiding):
            assert len(judge.applying(plan, each, request)) == 1  # makes the index, too
        return counted(lambda: judge.applying(plan, matches.open, request))

    assert calls(20) == calls(10_000)


BASE = {"before": "t", "policy": "tool_access"}


class _Clock:
    def now(self) -> Any:
        raise AssertionError("no rule here ends")


NOW: Any = _Clock()
NOW.now = lambda: None


def counted(work: Any) -> int:
    """How many calls `work` makes, of Python's functions and of C's."""
    seen = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen
