"""Who approved is a signed fact and stands in the record; two persons are two only where one authority names both."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import httpx2
import pytest
from agreeing import on
from fastmcp import Client, FastMCP
from guarded import ERAS, guarded, policy, runtime, tokens
from hypothesis import given
from hypothesis import strategies as st
from lab import ALICE, KEY, RING, Records, call, plan_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_macaroon_middleware.adapters.asgi import MacaroonASGIMiddleware
from mcp_macaroon_middleware.adapters.fastmcp import guard
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.config.compile import compile_source
from mcp_macaroon_middleware.config.source import source_of
from mcp_macaroon_middleware.core.approvers import Approvers, OpenApprover
from mcp_macaroon_middleware.core.audit import AuditLog, SinkSlot
from mcp_macaroon_middleware.core.consent import checked
from mcp_macaroon_middleware.core.persons import are_two
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.errors import ApprovalRequired
from mcp_macaroon_middleware.model import (
    ONCE,
    PERIOD,
    Answer,
    Assurance,
    Challenge,
    Choice,
    Principal,
    Reply,
    RequestContext,
)
from mcp_macaroon_middleware.model.approvals import Ending
from mcp_macaroon_middleware.plugin.contract import ApproverType

CAROL = Principal(kind="user", namespace="https://chat", subject="carol", tenant="acme")
ASKED = {"before": "*", "policy": "tool_access", "action": "elicit", "approver": "chat"}


class Chat:
    """An approver out of band whose person answers at once."""

    def __init__(self, by: Any, choice: str = ONCE) -> None:
        self.by, self.choice = by, choice

    def available(self) -> bool:
        return True

    async def ask(self, challenge: Challenge) -> Answer:
        return Answer.chosen(*[self.choice] * len(challenge.choices), by=self.by)

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        raise AssertionError("an approver out of band is sent no replies")

    async def close(self) -> None:
        """Nothing to release."""


def kind(by: Any, choice: str = ONCE, **more: Any) -> ApproverType:
    return ApproverType(
        name="chat",
        open=lambda _: Chat(by, choice),
        assurance=Assurance.PERSON,
        **more,  # type: ignore[arg-type,return-value]
    )


# --- two persons ------------------------------------------------------------------------------------------------------

words = st.sampled_from(["", " ", "a", "A", "a ", "b", "\u00e9", "e\u0301"])
people = st.builds(
    Principal,
    kind=st.sampled_from(["user", "client", "local", "anonymous"]),
    namespace=st.sampled_from(["", "x", "y", "local"]),
    subject=words,
    tenant=st.sampled_from([None, "", "t"]),
)
maps = st.dictionaries(st.sampled_from(["", "x", "y"]), st.sampled_from(["", "x", "y", "local"]), max_size=2)


@pytest.mark.threat("R22", "F07")
@given(caller=people, other=people | st.none(), same_as=maps)
def test_two_are_two_only_by_one_authority(caller: Principal, other: Principal | None, same_as: dict[str, str]) -> None:
    """plugin-author B3."""
    if not are_two(caller, other, same_as):
        return
    assert other is not None
    assert caller.subject.strip()
    assert other.subject.strip()
    assert caller.subject.strip().lower() != other.subject.strip().lower()
    one = (caller.kind, caller.namespace, caller.tenant) == (other.kind, other.namespace, other.tenant)
    assert one or same_as.get(other.namespace) == caller.namespace
    assert "anonymous" not in (caller.kind, other.kind)
    assert one or other.tenant in (None, caller.tenant)


WHO = [
    (Principal(kind="user", namespace="https://idp", subject="carol"), {}, True),
    (Principal(kind="user", namespace="https://idp", subject="alice"), {}, False),
    (Principal(kind="user", namespace="https://idp", subject="Alice"), {}, False),
    (Principal(kind="user", namespace="https://chat", subject="alice"), {}, False),
    (Principal(kind="user", namespace="https://chat", subject="carol"), {}, False),
    (Principal(kind="user", namespace="https://chat", subject="carol"), {"https://chat": "https://idp"}, True),
    (Principal(kind="user", namespace="https://chat", subject="alice"), {"https://chat": "https://idp"}, False),
    (Principal(kind="user", namespace="https://chat", subject="carol"), {"https://chat": "https://other"}, False),
    (Principal(kind="user", namespace="https://chat", subject="", tenant=None), {"https://chat": "https://idp"}, False),
    (Principal(kind="user", namespace="https://idp", subject="carol", tenant="t"), {}, False),
    (Principal(kind="client", namespace="https://idp", subject="carol"), {}, False),
    (Principal(kind="user", namespace="https://idp", subject=""), {}, False),
    (Principal(kind="user", namespace="", subject=""), {}, False),
    (None, {}, False),
]


def engine_of(by: Any, rule: Any = ASKED, choice: str = ONCE, kind_of: Any = None, **terms: Any) -> Any:
    made = kind_of or kind(by, choice)

    records = Records()
    audit = AuditLog([SinkSlot(name="list", sink=records, required=True)], digest_key=KEY)
    approvers = Approvers({"chat": OpenApprover(kind=made, approver=Chat(by, choice))})  # type: ignore[arg-type]
    plan = plan_of([rule], approvers=[made], **terms)
    engine = PolicyEngine(plan, store=MemoryStore(), audit=audit, keys=RING, approvers=approvers)
    return engine, records


async def through(engine: PolicyEngine, context: RequestContext) -> str:
    """How `enforce_policies` ends."""
    try:
        await engine.enforce_policies(None, "bf", tool_name="t", context=context)
        await engine.enforce_policies(None, "af", tool_name="t", context=context, result={})
    except Exception as error:
        return str(getattr(error, "code", type(error).__name__))
    return "allowed"


@pytest.mark.threat("R22", "F07")
@pytest.mark.parametrize(("by", "same_as", "passes"), WHO)
async def test_four_eyes_takes_another_person_of_the_callers_own_authority(
    by: Principal | None, same_as: dict[str, str], passes: bool
) -> None:
    engine, records = engine_of(by, {**ASKED, "four_eyes": True}, same_as=same_as)
    end = await through(engine, call("t"))
    assert end == ("allowed" if passes else "approver_is_requester")
    assert records[-1]["answers"][0].get("by") == (facts(by) if by is not None else None)


@pytest.mark.threat("R22")
async def test_an_approval_for_a_period_serves_four_eyes_only_if_another_person_gave_it() -> None:
    """Even where the mapping under which it was given is gone."""
    by = Principal(kind="user", namespace="https://chat", subject="carol")
    rule = {**ASKED, "four_eyes": True}
    engine, records = engine_of(by, rule, PERIOD, same_as={"https://chat": "https://idp"})
    assert await through(engine, call("t")) == "allowed"
    asked = sum(record["event"] == "final" or "answers" in record for record in records)
    assert await through(engine, call("t")) == "allowed"
    assert sum("answers" in record for record in records) <= asked
    engine.adopt(plan_of([rule], approvers=[kind(by)]))
    assert await through(engine, call("t")) == "approver_is_requester"


# --- who approved -----------------------------------------------------------------------------------------------------


def facts(by: Principal) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": by.kind, "namespace": by.namespace, "subject": by.subject}
    return told | ({"tenant": by.tenant} if by.tenant is not None else {})


def require_told(records: Any, by: Principal, assurance: str = "person") -> None:
    """Fails unless answers and approvals of the records say who approved."""
    answers = [each for record in records for each in record.get("answers", ())]
    approvals = [each for record in records.finals() for each in record.get("approvals", ())]
    assert approvals
    for each in (*answers, *approvals):
        assert (each["by"], each["assurance"]) == (facts(by), assurance), each


async def test_plain_host_tells_who_approved() -> None:
    """plugin-author B2."""
    engine, records = engine_of(CAROL)
    assert await through(engine, call("t")) == "allowed"
    require_told(records, CAROL)


@pytest.mark.parametrize("choice", [ONCE, PERIOD])
@pytest.mark.parametrize("era", ERAS)
async def test_fastmcp_tells_who_approved(era: str, choice: str) -> None:
    """plugin-author B2."""
    server: FastMCP[Any] = FastMCP("mail")

    @server.tool
    def send() -> str:
        return "sent"

    made, records = runtime([ASKED], application=[kind(CAROL, choice)])

    guard(server, made)
    async with Client(server, mode=era) as client:
        for _ in range(2):
            assert not (await client.call_tool("send", raise_on_error=False)).is_error
    require_told(records, CAROL)


@pytest.mark.parametrize("era", ERAS)
async def test_what_the_callers_own_client_says_is_told_as_the_callers(era: str) -> None:
    server: FastMCP[Any] = FastMCP("mail")

    @server.tool
    def send() -> str:
        return "sent"

    made = guarded(server, ["bf:*:tool_access:elicit"])

    async def agree(message: str, response_type: Any, params: Any, context: Any) -> Any:
        return {"choice": "once"}

    async with Client(server, mode=era, elicitation_handler=agree) as client:
        assert not (await client.call_tool("send", raise_on_error=False)).is_error
    require_told(made.records, Principal(kind="local", namespace="local", subject="local"), "client")


async def test_web_host_tells_who_approved() -> None:
    """plugin-author B2."""

    async def contact(request: Request) -> JSONResponse:
        return JSONResponse({})

    made, records = runtime([ASKED], application=[kind(CAROL)])
    app = MacaroonASGIMiddleware(Starlette(routes=[Route("/contact", contact)]), made, auth=tokens(alice={}))
    transport = httpx2.ASGITransport(app=app)
    headers = {"authorization": "Bearer alice"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://b", headers=headers) as client:
        assert (await client.get("/contact")).status_code == 200
    require_told(records, CAROL)


async def test_a_host_that_answers_itself_says_for_whom() -> None:

    for by in (None, CAROL):
        room = on(MemoryStore(), ["bf:t:tool_access:elicit"])
        context = call("t")
        with pytest.raises(ApprovalRequired) as question:
            await room.engine.enforce_policies(None, "bf", tool_name="t", context=context)
        await room.engine.answer(question.value.challenges[0].id, "once", context=context, by=by)
        assert await through(room.engine, context) == "allowed"
        require_told(room.records, by or ALICE, "client")
        (event,) = [record for record in room.records if record["event"] == "answer"]
        assert (event["by"], event["assurance"], event["approver"]) == (facts(by or ALICE), "client", "mcp")


# --- every field of an answer is told or refused ---------------------------------------------------------------------

OFFERS = ((Choice(name="deny", title="no"), Choice(name="once", title="yes")),)
GOOD = Answer.chosen(ONCE, by=CAROL)
ODD: dict[str, list[Any]] = {
    "ending": ["", "yes", None, 1, ["answered"], "ANSWERED", *(e for e in get_args(Ending) if e != "answered")],
    "choices": ["once", ["once"], (), ("once", "once"), ("deny", "deny"), (1,), None, ("never",)],
    "by": [
        "carol",
        {"subject": "carol"},
        7,
        ("user", "", "carol"),
        replace(CAROL, subject=None),  # type: ignore[arg-type]
        replace(CAROL, tenant=3),  # type: ignore[arg-type]
        replace(CAROL, namespace=b"x"),  # type: ignore[arg-type]
        replace(CAROL, subject="c" * 5000),
    ],
}


def test_every_field_of_an_answer_has_its_odd_values_here() -> None:
    assert set(ODD) == {each.name for each in fields(Answer)}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in ODD.items() for value in values])
async def test_what_cannot_stand_in_the_record_as_it_was_given_is_no_answer(field: str, value: Any) -> None:
    """plugin-author B2."""
    odd = replace(GOOD, **{field: value})
    assert checked(odd, OFFERS).ending != "answered"
    engine, records = engine_of(None)

    async def ask(challenge: Challenge) -> Answer:
        return odd

    engine.consent.approvers.get("chat").approver.ask = ask
    assert await through(engine, call("t")) != "allowed"
    assert records[-1]["code"] in ("approval_invalid", "approval_failed")


async def test_an_approver_names_nobody_of_another_authority_than_it_says() -> None:
    declared = kind(CAROL, authority="https://other")
    engine, records = engine_of(CAROL, kind_of=declared)
    assert await through(engine, call("t")) == "approval_invalid"
    assert records[-1]["answers"][0]["by"] == facts(CAROL)
    fine, _ = engine_of(CAROL, kind_of=kind(CAROL, authority=CAROL.namespace))
    assert await through(fine, call("t")) == "allowed"


def test_check_prints_the_line_for_an_approver_that_names_people_by_another_authority() -> None:
    rule = {**ASKED, "four_eyes": True}
    approver = kind(CAROL, authority="slack")

    def problems(**identity: Any) -> list[Any]:
        source = source_of(policy([rule], {"identity": identity}))
        compiled = compile_source(source, application=[approver])
        return [each for each in compiled.diagnostics if each.code == "four_eyes_apart"]

    (told,) = problems()
    assert "identity: {same_as: {slack: ISSUER}}" in told.hint
    assert problems(same_as={"slack": "https://idp"}) == problems(token_namespace="slack") == []
