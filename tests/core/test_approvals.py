"""Each fact of an approval alone: one that is for anything else covers nothing, and one for this call is taken once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lab import RING

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvals import Approvals, Standing
from mcp_macaroon_middleware.core.asks import Ask, Call
from mcp_macaroon_middleware.core.legs import Asked, Leg
from mcp_macaroon_middleware.model import Assurance, Grant, Phase

ALICE = '["alice"]'
CALL = Call(caller=ALICE, component="send", definition="d1", arguments="to bob")
ASK = Ask(
    rule="r1",
    text="Show email?",
    code="approval_required",
    fields=("email",),
    approver="mcp",
    scopes=("once", "period"),
    expiry=300,
    secret=(),
    same_values=False,
    four_eyes=False,
    source="af:send:field_access:elicit:email",
)


def approvals(store: MemoryStore) -> Approvals:
    return Approvals(keys=RING, store=store, audience="mail", event=lambda *_: None)


async def standing(made: Approvals, *hand: Grant, phase: Phase = Phase.AFTER, ask: Ask = ASK) -> Standing:
    """How a question stands, by the grants in hand and the store."""
    return made.stand(await made.find(CALL, phase, [ask]), [ask], hand, lambda *_: True)


async def stands(made: Approvals, grant: Grant) -> bool:
    """Whether a grant in hand answers the question."""
    return not (await standing(made, grant)).open


async def fresh(made: Approvals, **changes: Any) -> Grant:
    now = (await made.find(CALL, Phase.AFTER, [ASK])).since  # the epoch has begun
    return replace(
        Grant(
            id="one",
            key_id=RING.current,
            audience="mail",
            caller=ALICE,
            phase=Phase.AFTER,
            component="send",
            definition="d1",
            rule="r1",
            arguments="to bob",
            field="email",
            approver="mcp",
            assurance=Assurance.CLIENT,
            uses="once",
            issued_at=now,
            expires=now + 300,
        ),
        **changes,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"caller": '["bob"]'},
        {"phase": Phase.BEFORE},
        {"component": "wipe"},
        {"definition": "d2"},
        {"rule": "r2"},
        {"arguments": "to eve"},
        {"field": "phone"},
        {"field": ""},
        {"expires": 1.0},
        {"issued_at": 1.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.threat("C01", "C06", "C07", "C08", "C10", "C12", "D07", "D09")
async def test_an_approval_that_differs_in_one_fact_answers_nothing(changes: dict[str, Any]) -> None:
    made = approvals(MemoryStore())
    assert await stands(made, await fresh(made))
    assert not await stands(made, await fresh(made, **changes))


@pytest.mark.threat("C08")
async def test_an_answer_for_this_call_names_its_arguments_and_one_for_a_period_only_where_they_count() -> None:
    made = approvals(MemoryStore())
    asked = Asked(rule="r1", fields=("email",), text="", same_values=False, four_eyes=False)
    leg = Leg(id="l", call=CALL, phase=Phase.AFTER, approver="mcp", asked=(asked,), seconds=(300.0,))
    for same, choice, arguments in (
        (False, "once", "to bob"),
        (True, "once", "to bob"),
        (False, "period", None),
        (True, "period", "to bob"),
    ):
        this = replace(leg, asked=(replace(asked, same_values=same),))
        (grant,) = await made.issue(this, [choice], Assurance.CLIENT)
        assert grant.arguments == arguments
        assert grant.uses == choice


@pytest.mark.threat("D08")
async def test_a_stored_approval_for_one_call_is_taken_by_one_of_two_servers() -> None:
    store = MemoryStore()
    here, there = approvals(store), approvals(store)
    asked = Asked(rule="r1", fields=("email",), text="", same_values=False, four_eyes=False)
    leg = Leg(id="l", call=CALL, phase=Phase.AFTER, approver="mcp", asked=(asked,), seconds=(300.0,))
    await standing(here)
    leg = replace(leg, taken_at=await store.now())
    await here.issue(leg, ["once"], Assurance.CLIENT, store_once=True)
    found = [await standing(made) for made in (here, there)]
    assert [len(each.once) for each in found] == [1, 1]
    assert await here.spend(found[0].once)
    assert not await there.spend(found[1].once)
    assert not await here.spend(found[0].once)
