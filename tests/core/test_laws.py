"""The laws as properties: L1 over random rules, tokens, caveats, requests and results."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import ALICE, lab
from laws import AUDIENCE, KEYS, components, documents, flat, token_of

from mcp_macaroon_middleware.errors import TokenInvalid
from mcp_macaroon_middleware.fields import redact
from mcp_macaroon_middleware.model import Charge, Component, Kind, RequestContext, Result, Verdict
from mcp_macaroon_middleware.plugin import Check, EnforcerType, NoParams
from mcp_macaroon_middleware.tokens import mint, verify

others = st.sampled_from(
    ["prompt=*", "prompt=read_mail", "prompt=write", "resource=*", r"resource=mail\://*", r"resource=mail\://1"]
)
targets = others | st.sampled_from(["*", "tool=*", "read_*", "*_mail", "read_mail", "wipe", "mail/*", "nothing"])
fields = st.sampled_from(
    ["id", "body", "sender.name", "sender", "items", "items.key", "**.key", "*", r"a\.b", "absent"]
)
access = st.builds(
    "bf:{}:tool_access:{}".format,
    targets,
    st.sampled_from(["allow", "deny", "elicit", "only:read_*", "only:read_mail:wipe", "only:*"])
    | st.sampled_from(["only:prompt=*", r"only:resource=mail\://all", r"only:resource=mail\://*:tool=read_*"]),
)
access_caveat = access.filter(lambda text: not text.endswith(":allow"))
shown = st.builds("af:{}:field_access:{}:{}".format, targets, st.sampled_from(["deny", "only", "elicit"]), fields)
limits = st.builds("bf:{}:rate_limit:allow:{}/minute".format, targets, st.integers(1, 3))
rules = st.lists(st.one_of(access, access, shown, limits), max_size=6)
caveats = st.lists(
    st.one_of(
        access_caveat, shown, limits, st.sampled_from(["nonsense", "bf:*:unknown:deny", "bf:*:tool_access:allow"])
    ),
    max_size=4,
)


async def shown_to(
    policy: list[str],
    texts: list[str] | None,
    component: Component,
    document: Any,
    default: str = "deny",
    vouched: list[str] | None = None,
) -> set[Any] | None:
    """What a caller with these caveats, or without a token, sees on a first call: None for a refusal."""
    room = lab(policy, default=default)
    request = RequestContext(principal=ALICE, component=component)
    token = token_of(texts, vouched) if texts is not None else None
    decision = await room.engine.decide(request, token=token)
    if not decision.allowed:
        return None
    outcome = await room.engine.finish(decision, Result.of(document), lambda r: redact(document, r)[0])
    return None if outcome.refusal is not None else flat(outcome.applied)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules, caveats, caveats.filter(bool), components, documents, st.sampled_from(["allow", "deny"]))
def test_L1_adding_a_caveat_never_turns_a_refusal_into_a_pass_and_never_shows_more(
    policy: list[str], held: list[str], more: list[str], component: Component, document: Any, default: str
) -> None:
    before = asyncio.run(shown_to(policy, held, component, document, default))
    after = asyncio.run(shown_to(policy, held + more, component, document, default))
    if before is None:
        assert after is None
    elif after is not None:
        assert after <= before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules, caveats, caveats, caveats.filter(bool), components, documents)
@pytest.mark.threat("B03", "B09")
def test_L1_a_discharge_never_allows_or_shows_more_and_its_caveats_narrow_like_the_tokens(
    policy: list[str], held: list[str], vouched: list[str], more: list[str], component: Component, document: Any
) -> None:
    alone = asyncio.run(shown_to(policy, held, component, document))
    before = asyncio.run(shown_to(policy, held, component, document, vouched=vouched))
    after = asyncio.run(shown_to(policy, held, component, document, vouched=vouched + more))
    narrowed = asyncio.run(shown_to(policy, held + more, component, document, vouched=vouched))
    for wide, narrow in ((alone, before), (before, after), (before, narrowed)):
        assert narrow is None or (wide is not None and narrow <= wide)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules, caveats, components, documents)
def test_L1_a_token_never_sees_more_than_its_principal_without_one(
    policy: list[str], held: list[str], component: Component, document: Any
) -> None:
    bare = asyncio.run(shown_to(policy, None, component, document))
    held_view = asyncio.run(shown_to(policy, held, component, document))
    assert held_view is None or (bare is not None and held_view <= bare)


@pytest.mark.threat("A15", "B01")
@pytest.mark.parametrize(
    "caveat",
    [
        "nonsense",
        "bf:*:unknown_policy:deny",
        "bf:*:tool_access:allow",
        "bf:*:tool_access:deny:time<20990101T000000Z",
        "af:*:field_access:allow:id",
        "af:*:tool_access:deny",
        "bf:*:tool_access:dney",
        "bf:t:rate_limit:allow:0/minute",
        "future:2:something",
    ],
)
async def test_L1_a_caveat_that_cannot_be_understood_or_cannot_refuse_prohibits_everything(caveat: str) -> None:
    room = lab(["bf:*:tool_access:allow"])
    request = RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name="t", names=("t",)))
    decision = await room.engine.decide(request, token=token_of([caveat]))
    assert not decision.allowed
    assert not await room.engine.reachable(request, token=token_of([caveat]))


@pytest.mark.threat("B01")
async def test_L1_a_holder_cannot_add_an_approval_or_a_wider_rule() -> None:
    policy = ["bf:read_*:tool_access:allow", "bf:wipe:tool_access:elicit", "af:read_mail:field_access:deny:body"]
    room = lab(policy)
    for text in ("bf:wipe:tool_access:only:wipe", "af:read_mail:field_access:only:body"):
        component = Component(kind=Kind.TOOL, name="wipe", names=("wipe",))
        request = RequestContext(principal=ALICE, component=component)
        assert not (await room.engine.decide(request, token=token_of([text]))).allowed


@pytest.mark.threat("Q03")
async def test_L7_a_refusal_by_a_token_does_not_say_which_caveat() -> None:
    room = lab(["bf:*:tool_access:allow"])
    request = RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name="t", names=("t",)))
    decision = await room.engine.decide(request, token=token_of(["bf:*:tool_access:only:secret_name"]))
    assert "secret_name" not in repr(decision.refusal)
    assert decision.refusal is not None
    assert decision.refusal.policy is None


async def test_a_tokens_counters_are_its_own() -> None:
    room = lab(["bf:t:tool_access:allow", "bf:t:rate_limit:allow:4/minute"])
    request = RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name="t", names=("t",)))
    token = token_of(["bf:t:rate_limit:allow:2/minute"])
    with_token = [(await room.engine.decide(request, token=token)).allowed for _ in range(3)]
    without = [(await room.engine.decide(request)).allowed for _ in range(3)]
    assert with_token == [True, True, False]
    assert without == [True, True, False]


async def test_a_token_never_charges_the_operators_counter() -> None:
    def shares(_: Check[NoParams]) -> Verdict:
        return Verdict.allow(charges=[Charge(key=("one",), limit=2, window=60)])

    shared = EnforcerType(name="shares", check=shares, attenuates=True, reads_arguments=False)
    room = lab(["bf:t:tool_access:allow", "bf:t:shares:allow"], shared)
    request = RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name="t", names=("t",)))
    token = token_of(["bf:t:shares:allow"])
    assert [(await room.engine.decide(request, token=token)).allowed for _ in range(3)] == [True, True, False]


def test_an_expired_token_does_not_verify() -> None:
    token = mint(KEYS, subject="alice", audience=AUDIENCE, expires=timedelta(seconds=-60))
    with pytest.raises(TokenInvalid):
        verify(KEYS, token, audience=AUDIENCE)
