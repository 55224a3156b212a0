"""`tool_access` and `field_access`: what is reached, what is seen, and what is asked."""

from __future__ import annotations

from typing import Any

import pytest
from lab import call, lab, plan_of

from mcp_macaroon_middleware.builtin.access import Names
from mcp_macaroon_middleware.builtin.field_access import Fields
from mcp_macaroon_middleware.core.asks import Asking
from mcp_macaroon_middleware.core.binding import PlanSettings
from mcp_macaroon_middleware.core.plan import compile_plan
from mcp_macaroon_middleware.fields import redact
from mcp_macaroon_middleware.model import Component, Effect, Kind, Phase, Redaction, Result
from mcp_macaroon_middleware.rules import parse_rule


def problems(rule: str) -> list[Any]:
    from lab import Enforcers, builtins

    return compile_plan([parse_rule(rule)], Enforcers(builtins()), PlanSettings(), {}, "r1")[1]  # type: ignore[arg-type]


def seen(rules: list[str], document: Any) -> Any:
    """What of a document leaves under these rules, with nobody there to ask."""
    import asyncio

    async def run() -> Redaction:
        room = lab(["bf:*:tool_access:allow", *rules])
        decision = await room.engine.decide(call("t"))
        outcome = await room.engine.finish(decision, Result.of(document))
        assert outcome.refusal is None
        return outcome.redaction

    redaction = asyncio.run(run())
    return document if redaction.is_empty else redact(document, redaction)[0]


# --- tool_access ----------------------------------------------------------------------------------------------------


async def test_only_names_what_stays_by_its_public_name_alone() -> None:
    room = lab(["bf:*:tool_access:only:read_*:resource=db\\://*"])
    inner = Component(kind=Kind.TOOL, name="wipe", names=("wipe", "read_all"))
    outcomes = {
        "read_mail": Component(kind=Kind.TOOL, name="read_mail", names=("read_mail",)),
        "wipe": inner,
        "db://x": Component(kind=Kind.RESOURCE, name="db://{n}", uri="db://x"),
        "file": Component(kind=Kind.RESOURCE, name="file://x", uri="file://x"),
        "prompt": Component(kind=Kind.PROMPT, name="read_prompt"),
    }
    allowed = {name for name, c in outcomes.items() if (await room.engine.decide(call(component=c))).allowed}
    assert allowed == {"read_mail", "db://x"}


async def test_a_question_names_the_component_and_shows_no_control_characters() -> None:
    room = lab(["bf:*:tool_access:elicit"])
    decision = await room.engine.decide(call("x\u202e\n"), asking=Asking(forms=True))
    assert decision.effect is Effect.ASK
    text = decision.challenges[0].questions[0].text
    assert text == "Use x\\u202e\\n?"


@pytest.mark.parametrize(
    ("rule", "index", "says"),
    [
        ("bf:*:tool_access:only:a:tool=", 1, ""),
        ("bf:*:tool_access:only", 0, "only:read_*"),
        ("bf:*:tool_access:allow:read_*", 0, "takes no params"),
        ("af:t:field_access:deny:id:owner..email", 1, "empty step"),
        ("af:t:field_access:only:a:b:c*", 2, "stand alone"),
        ("af:t:field_access:deny", 0, "at least one field"),
        ("bf:t:rate_limit:allow:10/minute:ten/hour", 1, "no limit"),
        ("bf:t:rate_limit:allow:12:30", 0, "no limit"),
        ("bf:t:allow_attempts:allow:0", 0, "above 0"),
    ],
)
def test_a_wrong_param_is_pointed_at(rule: str, index: int, says: str) -> None:
    found = problems(rule)
    assert [problem.param_index for problem in found] == [index]
    assert says in found[0].message


def test_params_say_what_they_take() -> None:
    assert Names(names=("read_*",)).names == ("read_*",)
    assert Fields(fields=("a.**.b",)).fields == ("a.**.b",)


# --- field_access ---------------------------------------------------------------------------------------------------

MAIL = {"id": 1, "body": "hi", "owner": {"login": "x", "email": "y"}, "files": [{"name": "n", "data": "d"}]}


@pytest.mark.threat("G01", "G02")
@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (["af:t:field_access:allow:id"], MAIL),
        (["af:t:field_access:deny:body:files.data"], {"id": 1, "owner": MAIL["owner"], "files": [{"name": "n"}]}),
        (["af:t:field_access:only:id:owner.login"], {"id": 1, "owner": {"login": "x"}}),
        (["af:t:field_access:only:id:body", "af:*:field_access:only:id:owner"], {"id": 1}),
        (["af:t:field_access:only:id:body", "af:t:field_access:deny:id"], {"body": "hi"}),
        (
            ["af:t:field_access:allow:body", "af:t:field_access:deny:**.email:body:files"],
            {"id": 1, "owner": {"login": "x"}},
        ),
        (["af:t:field_access:deny:(?i)OWNER"], {"id": 1, "body": "hi", "files": MAIL["files"]}),
        (["af:t:field_access:elicit:body"], {k: v for k, v in MAIL.items() if k != "body"}),
        (["af:t:field_access:elicit:missing"], MAIL),
    ],
)
def test_what_is_seen_of_a_result(rules: list[str], left: Any) -> None:
    assert seen(rules, MAIL) == left
    assert seen(rules, [MAIL, MAIL]) == [left, left]


@pytest.mark.threat("G05")
async def test_L3_a_text_without_fields_is_held_where_a_rule_asks_for_one() -> None:
    room = lab(["bf:t:tool_access:allow", "af:t:field_access:elicit:ssn"])
    decision = await room.engine.decide(call("t"))
    outcome = await room.engine.finish(decision, Result(lambda: ((), ("ssn: 123",))))
    assert outcome.redaction.withhold == ("ssn",)


async def test_a_question_names_only_the_fields_that_are_there() -> None:
    room = lab(["bf:t:tool_access:allow", "af:t:field_access:elicit:body:missing:owner.email"])
    decision = await room.engine.decide(call("t"))
    await room.engine.finish(decision, Result.of(MAIL))
    check = plan_of(["af:t:field_access:elicit:body:missing:owner.email"]).book.checks[0]
    assert check.rule.phase is Phase.AFTER
    assert check.edits() is not None
    assert room.records.finals()[-1]["withheld"] == ["body", "missing", "owner.email"]
