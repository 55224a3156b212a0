from __future__ import annotations

import asyncio
import dataclasses
import inspect
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from mcp_macaroon_middleware.core.clock import SystemClock
from mcp_macaroon_middleware.model import Caveat, ExecutionPhase, Rule
from mcp_macaroon_middleware.plugin import (
    Action,
    Check,
    Effect,
    EnforcerType,
    Macaroon,
    Params,
    Phase,
    PolicyViolationError,
    RequestContext,
    Result,
    RuleView,
    StoreUnavailable,
    Texts,
    Verdict,
    decorators,
    enforcer,
    policy_enforcer,
)
from mcp_macaroon_middleware.plugin.decorators import application_enforcers, contribution_of
from mcp_macaroon_middleware.rules import parse_rule

NO_STORE: Any = None


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decorators, "_application", {})


def check_of(text: str, *, result: Any = None, request: RequestContext | None = None, params: Any = None) -> Check[Any]:
    rule: Rule = parse_rule(text)
    texts = tuple(map(str, rule.params))
    view = RuleView(
        policy=rule.policy,
        action=rule.action,
        phase=rule.phase,
        target=rule.target,
        text=rule.text,
        params=texts,
        expires=rule.expires,
    )
    return Check(
        request=request or RequestContext("alice", arguments={"x": 1}),
        rule=view,
        params=params if params is not None else Texts(params=texts),
        action=rule.action,
        clock=SystemClock(),
        store=NO_STORE,
        result=Result.of(result) if result is not None else None,
    )


def judged(made: EnforcerType, check: Check[Any]) -> Any:
    answer: Any = made.check(check)
    return asyncio.run(_wait(answer)) if inspect.isawaitable(answer) else answer


async def _wait(answer: Any) -> Any:
    return await answer


def only() -> EnforcerType:
    (made,) = application_enforcers()
    return made


# --- @enforcer ------------------------------------------------------------------------------------------------------


class Hours(Params):
    start: int
    end: int


@enforcer("working_hours", params=Hours)  # one function, a contribution by itself; takes allow and elicit
def working_hours(check: Check[Hours]) -> Verdict:
    """Only within hours.

    More text.
    """
    if check.params.start <= check.request.at.hour < check.params.end:
        return Verdict.allow()
    return check.refuse("outside_hours", "Only between 9 and 17.")  # deny, or ask where the rule says elicit


@pytest.mark.parametrize(
    ("hour", "action", "effect"),
    [
        (9, "allow", Effect.ALLOW),
        (16, "elicit", Effect.ALLOW),
        (17, "allow", Effect.DENY),
        (8, "elicit", Effect.ASK),
    ],
)
def test_the_twenty_line_enforcer_of_the_design_works(hour: int, action: str, effect: Effect) -> None:
    request = RequestContext("alice", at=datetime(2026, 11, 23, hour, tzinfo=UTC))
    check = check_of(f"bf:x:working_hours:{action}:9:17", request=request, params=Hours(start=9, end=17))
    assert judged(working_hours, check).effect is effect


def test_an_enforcer_is_described_by_its_decorator() -> None:
    assert isinstance(working_hours, EnforcerType)
    assert working_hours.name == "working_hours"
    assert working_hours.actions == {Action.ALLOW, Action.ELICIT}
    assert working_hours.phases == {Phase.BEFORE}
    assert working_hours.summary == "Only within hours."
    assert not working_hours.blocking
    assert not working_hours.attenuates


def test_every_field_of_a_description_can_be_given_but_that_it_grants() -> None:
    given = set(inspect.signature(enforcer).parameters)
    assert given == {field.name for field in dataclasses.fields(EnforcerType)} - {"check", "grants"}


def test_an_async_function_is_an_enforcer_too() -> None:
    @enforcer("slow")
    async def slow(check: Check[Any]) -> Verdict:
        return Verdict.allow()

    assert judged(slow, check_of("bf:x:slow:allow")).effect is Effect.ALLOW


def _two(check: Any, more: Any) -> Any: ...


def _none() -> Any: ...


@pytest.mark.parametrize("function", [_two, _none, 3], ids=["two", "none", "number"])
def test_a_function_that_does_not_take_one_check_is_refused_at_import(function: Any) -> None:
    with pytest.raises(TypeError, match="odd"):
        enforcer("odd")(function)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "1a", "ä", "*"])
def test_a_name_that_no_rule_could_say_is_refused_at_import(name: str) -> None:
    with pytest.raises(ValueError, match="policy's name"):
        enforcer(name)(working_hours.check)
    with pytest.raises(ValueError, match="policy's name"):
        policy_enforcer(name)


# --- @policy_enforcer -----------------------------------------------------------------------------------------------


def test_the_first_documented_shape_is_bound_by_name() -> None:
    seen: dict[str, Any] = {}

    @policy_enforcer("business_hours")
    def enforce_business_hours(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        """Only allow access between 9 AM and 5 PM."""
        seen.update(caveat=caveat, context=context, **kwargs)
        return []

    verdict = judged(only(), check_of("bf:tool:business_hours:allow:a:b"))
    assert verdict == Verdict.allow()
    assert isinstance(seen["caveat"], Caveat)
    assert seen["context"].user_id == "alice"
    assert seen["context"].message.arguments == {"x": 1}
    assert isinstance(seen["macaroon"], Macaroon)
    assert seen["result"] is None
    assert seen["params"] == ("a", "b")
    assert only().summary == "Only allow access between 9 AM and 5 PM."


def test_the_second_documented_shape_is_bound_by_name() -> None:
    seen: list[Any] = []

    @policy_enforcer("my_policy")
    def my_enforcer(caveat: Any, context: Any, result: Any, macaroon: Any, *params: Any) -> list[Any]:
        seen.extend([caveat, context, result, macaroon, params])
        return []

    judged(only(), check_of("af:tool:my_policy:allow:a:b", result={"rows": [{"id": 1}]}))
    caveat, context, result, macaroon, params = seen
    assert caveat.policy_name == "my_policy"
    assert context.user_id == macaroon.principal.subject == "alice"
    assert result == {"rows": [{"id": 1}]}
    assert type(result) is dict
    assert type(result["rows"]) is list
    assert params == ("a", "b")


def test_the_order_of_the_parameters_does_not_matter_and_any_may_be_left_out() -> None:
    seen: list[Any] = []

    @policy_enforcer("odd")
    def odd(result: Any, start: str, context: Any, *, params: Any, end: str = "5") -> list[Any]:
        seen.extend([result, start, context.user_id, params, end])
        return []

    judged(only(), check_of("bf:x:odd:allow:9:17"))
    assert seen == [None, "9", "alice", ("9", "17"), "5"]


def test_other_parameters_take_the_rules_texts_in_order() -> None:
    seen: list[Any] = []

    @policy_enforcer("hours")
    def hours(caveat: Any, context: Any, start: str, end: str = "17", *more: str) -> list[Any]:
        seen.append((start, end, more))
        return []

    for text in ("bf:x:hours:allow:9", "bf:x:hours:allow:9:12", "bf:x:hours:allow:9:12:a:b"):
        judged(only(), check_of(text))
    assert seen == [("9", "17", ()), ("9", "12", ()), ("9", "12", ("a", "b"))]


def test_a_rule_with_too_few_params_is_told_when_the_file_is_read() -> None:
    @policy_enforcer("hours")
    def hours(caveat: Any, context: Any, start: str, end: str) -> list[Any]:
        return []

    validate = only().validate
    assert validate is not None
    told = validate(Texts(params=("9",)), Action.ALLOW, Phase.BEFORE)
    assert told == "the rule lacks the param 'end'; it takes start, end"
    assert validate(Texts(params=("9", "17")), Action.ALLOW, Phase.BEFORE) is None


def test_a_keyword_that_nothing_fills_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="'database'"):

        @policy_enforcer("odd")
        def odd(caveat: Any, context: Any, *, database: Any) -> list[Any]:
            return []


def test_the_caveat_has_the_seven_documented_fields() -> None:
    seen: list[Caveat] = []

    @policy_enforcer("mine")
    def mine(caveat: Caveat, context: Any, **kwargs: Any) -> list[Any]:
        seen.append(caveat)
        return []

    text = "af:get_*:mine:deny:a:time<20990101T000000Z"
    judged(only(), check_of(text, result={}))
    (caveat,) = seen
    assert caveat == Caveat(
        raw=text,
        execution_phase=ExecutionPhase.AFTER,
        tool_name="get_*",
        policy_name="mine",
        action=Action.DENY,
        params=("a",),
        expiry=datetime(2099, 1, 1, tzinfo=UTC),
    )


@pytest.mark.threat("M10")
def test_the_macaroon_shows_an_id_and_a_principal_and_cannot_be_changed() -> None:
    seen: list[Any] = []

    @policy_enforcer("mine")
    def mine(macaroon: Any) -> list[Any]:
        seen.append(macaroon)
        return []

    judged(only(), check_of("bf:x:mine:allow"))
    judged(only(), check_of("bf:x:mine:allow", request=RequestContext("bob")))
    alice, bob = seen
    assert set(type(alice).__dataclass_fields__) == {"id", "principal"}
    assert alice.id != bob.id
    with pytest.raises(AttributeError):
        alice.id = "x"


def test_a_violation_refuses_with_its_reason_code_and_delay() -> None:
    @policy_enforcer("mine")
    def mine(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        raise PolicyViolationError("Come back later.", code="too_early", retry_after=5.0)

    verdict = judged(only(), check_of("bf:x:mine:allow"))
    assert verdict == Verdict.deny("too_early", "Come back later.", retry_after=5.0)


def test_a_violation_asks_where_the_rule_says_elicit() -> None:
    @policy_enforcer("mine")
    async def mine(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        raise PolicyViolationError("Access only allowed during business hours")

    verdict = judged(only(), check_of("bf:x:mine:elicit"))
    assert verdict.effect is Effect.ASK
    assert verdict.question.text == "Access only allowed during business hours"


def test_a_violation_without_text_still_gives_a_clear_refusal() -> None:
    @policy_enforcer("mine")
    def mine(caveat: Any) -> list[Any]:
        raise PolicyViolationError

    assert judged(only(), check_of("bf:x:mine:allow")).reason == "The policy does not allow this."


def test_returned_caveats_go_to_the_verdict() -> None:
    caveat = Caveat("af:x:field_access:deny:a", ExecutionPhase.AFTER, "x", "field_access", Action.DENY, ("a",))

    @policy_enforcer("mine")
    def mine(context: Any) -> list[Any]:
        return [caveat, "af:x:field_access:deny:b"]

    verdict = judged(only(), check_of("bf:x:mine:allow"))
    assert verdict.effect is Effect.ALLOW
    assert verdict.caveats == ("af:x:field_access:deny:a", "af:x:field_access:deny:b")


@pytest.mark.threat("M03")
@pytest.mark.parametrize(
    "answer",
    [None, True, "bf:x:tool_access:deny", [1], [""], [None], {}, Verdict.allow(), object()],
    ids=lambda answer: type(answer).__name__,
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_any_other_answer_breaks_the_contract_and_is_refused(answer: Any, is_async: bool) -> None:
    if is_async:

        @policy_enforcer("mine")
        async def later(context: Any) -> Any:
            return answer

    else:

        @policy_enforcer("mine")
        def now(context: Any) -> Any:
            return answer

    verdict = judged(only(), check_of("bf:x:mine:elicit"))
    assert (verdict.effect, verdict.code) == (Effect.DENY, "enforcer_contract")


@pytest.mark.threat("M01")
@pytest.mark.parametrize("error", [ValueError, StoreUnavailable, KeyError])
def test_other_exceptions_are_left_to_the_engine_which_refuses(error: type[Exception]) -> None:
    @policy_enforcer("mine")
    def mine(context: Any) -> list[Any]:
        raise error("x")

    with pytest.raises(error):
        judged(only(), check_of("bf:x:mine:allow"))


def test_registered_functions_count_as_blocking_and_take_everything() -> None:
    @policy_enforcer("mine", timeout=1.5)
    def mine(context: Any) -> list[Any]:
        return []

    made = only()
    assert made.blocking
    assert made.timeout == 1.5
    assert made.actions == set(Action)
    assert made.phases == set(Phase)
    assert not made.attenuates
    assert not made.grants


def test_the_function_stays_what_it_was() -> None:
    def mine(caveat: Any) -> list[Any]:
        return ["x"]

    assert policy_enforcer("mine")(mine) is mine
    assert contribution_of(mine) is only()
    assert contribution_of(print) is None


@pytest.mark.threat("M05")
def test_the_same_function_imported_again_replaces_itself_and_another_one_does_not() -> None:
    head = "from mcp_macaroon_middleware.plugin import policy_enforcer\n"
    code = head + "@policy_enforcer('mine')\ndef {name}(caveat): return []\n"
    for name in ("first", "first", "second"):
        exec(compile(code.replace("{name}", name), "/app/server.py", "exec"), {"__name__": "server"})
    assert len(application_enforcers()) == 2


def test_a_partial_or_an_object_with_call_can_be_registered() -> None:
    class Policy:
        def __call__(self, caveat: Any) -> list[Any]:
            return []

    policy_enforcer("object")(Policy())
    policy_enforcer("partial")(partial(lambda caveat, extra: [], extra=1))
    for made in application_enforcers():
        assert judged(made, check_of(f"bf:x:{made.name}:allow")).effect is Effect.ALLOW
