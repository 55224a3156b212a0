"""`EnforcerContract`: what the framework needs of an enforcer, as tests that its author runs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from ..builtin.memory import MemoryStore
from ..core.binding import bind_params
from ..errors import ResultWithheld, RuleError, StoreUnavailable
from ..fields import redact
from ..host.contributions import contribution_faults
from ..model import Action, Charge, Edit, Effect, Phase, Principal, Redaction, Verdict, frozen, thawed
from ..plugin.contract import EnforcerType
from ..plugin.namespace import Namespaced
from ..rules import parse_rule
from .cases import Case, Trial, moved, trial, trials
from .fakes import BrokenStore
from .hostile import CANARY, substituted, with_canaries

INLINE: Final = 0.5
PAIRS: Final = 12
LOOKS: Final = 6
"""How often a rule is judged where what it remembers could show."""
COPIES: Final = 3
_CODE: Final = re.compile(r"[a-z][a-z0-9_]*\Z")
_WITHHELD: Final = "the whole result is withheld"


class EnforcerContract:
    """Subclass it and give `enforcer` and `cases`; every test then runs on every case, action and phase.

    Set `optional_arguments` where a call without the arguments that the enforcer reads is meant to pass: otherwise one
    that reads arguments must refuse when they are missing (THREATS E12).
    """

    macaroon_suite: ClassVar[bool] = True
    enforcer: ClassVar[EnforcerType]
    cases: ClassVar[Sequence[Case]] = ()
    optional_arguments: ClassVar[bool] = False

    def _trials(self) -> list[Trial]:
        found = [made for case in self.cases for made in trials(case, self.enforcer)]
        assert found, "give the suite at least one case"
        return found

    # --- its description ------------------------------------------------------------------------------------------

    def test_its_description_is_sound(self) -> None:
        faults = list(contribution_faults(self.enforcer, builtin=self.enforcer.grants))
        assert faults == [], "\n".join(faults)

    def test_the_cases_cover_every_action_and_phase_it_declares(self) -> None:
        made = self._trials()
        assert {t.action for t in made} == self.enforcer.actions
        assert {t.phase for t in made} == self.enforcer.phases

    def test_its_params_come_back_from_the_text_of_the_rule(self) -> None:
        for made in self._trials():
            rule = made.bound.rule
            if isinstance(made.case.params, tuple | str):
                again = parse_rule(rule.text)
                assert bind_params(self.enforcer.params, again) == made.bound.params, rule.text
            dumped = made.bound.params.model_dump()
            assert self.enforcer.params.model_validate(dumped) == made.bound.params, rule.text

    # --- its verdicts ---------------------------------------------------------------------------------------------

    async def test_it_answers_with_a_sound_verdict(self) -> None:
        for made in self._trials():
            require_sound(await made.verdict(), made)

    async def test_its_verdicts_are_those_that_the_cases_expect(self) -> None:
        for made in self._trials():
            expected = made.case.expect.get(made.action.value)
            verdict = await made.verdict()
            assert expected is None or verdict.effect.name.lower() == expected, f"{made}: {verdict}"

    async def test_the_same_question_gets_the_same_answer(self) -> None:
        for made in self._trials():
            assert await made.verdict() == await made.verdict(), made

    async def test_it_changes_nothing_that_it_is_given(self) -> None:
        for made in self._trials():
            request, result = made.case.context(), frozen(made.case.result)
            before = repr((thawed(request.arguments), thawed(request.claims), thawed(result), made.bound.params))
            await made.verdict(request=request, result=result)
            after = repr((thawed(request.arguments), thawed(request.claims), thawed(result), made.bound.params))
            assert before == after, made

    async def test_it_answers_in_time(self) -> None:
        for made in self._trials():
            started = time.perf_counter()
            await made.verdict()
            spent = time.perf_counter() - started
            assert self.enforcer.blocking or spent < INLINE, f"{made} held the loop; declare blocking=True"

    async def test_a_constant_verdict_depends_on_the_rule_and_the_component_alone(self) -> None:
        if not self.enforcer.constant:
            return
        other = Principal(kind="user", namespace="elsewhere", subject="bob")
        for made in self._trials():
            request = moved(made.case, 86_400 * 40).context().replace(principal=other, arguments={}, claims={})
            assert await made.verdict(request=request) == await made.verdict(), made

    async def test_what_it_says_it_does_not_read_changes_nothing(self) -> None:
        for made in self._trials():
            if not made.bound.reads_arguments:
                with_some = made.case.context({"any": "thing"})
                assert await made.verdict(request=with_some) == await made.verdict(), f"{made} reads arguments"
            if made.phase is Phase.AFTER and not self.enforcer.reads_result:
                assert await made.verdict(result={"any": "thing"}) == await made.verdict(), f"{made} reads the result"

    # --- law L1: it only restricts --------------------------------------------------------------------------------

    async def test_L1_elicit_asks_where_its_action_refuses_and_nowhere_else(self) -> None:
        for made in self._trials():
            base = made.under(made.bound.judged)
            if made.action is not Action.ELICIT or base is None:
                continue
            refusing, asking = await base.verdict(), await made.verdict()
            if refusing.effect is Effect.DENY:
                assert asking.effect is not Effect.ALLOW, f"{made} passes what {base} refuses"
            elif not refusing.edits:
                assert asking.effect is Effect.ALLOW, f"{made} asks where {base} passes"
            seen, meant = shown(made.case.result, asking), shown(made.case.result, refusing)
            assert seen == meant, f"{made} shows other fields than {base} before anybody was asked"

    async def test_L1_allow_and_deny_never_both_pass(self) -> None:
        for made in self._trials():
            other = made.under(Action.DENY)
            if made.action is not Action.ALLOW or other is None or Action.ALLOW in self.enforcer.idle:
                continue
            both = [await made.verdict(), await other.verdict()]
            assert not all(v.effect is Effect.ALLOW and not v.edits for v in both), f"{made} and {other} both pass"

    async def test_L1_what_it_calls_idle_refuses_and_withholds_nothing(self) -> None:
        for made in self._trials():
            if made.action in self.enforcer.idle:
                verdict = await made.verdict()
                assert (verdict.effect, verdict.edits, verdict.charges) == (Effect.ALLOW, (), ()), made

    async def test_L1_another_rule_judged_first_never_weakens_a_verdict(self) -> None:
        some = self._trials()[:PAIRS]
        for made in some:
            alone = await made.verdict(store=MemoryStore())
            for first in some:
                store = MemoryStore()
                await first.verdict(store=store)
                second = await made.verdict(store=store)
                assert second.effect <= alone.effect, f"{made} is weaker after {first}"
                assert set(alone.edits) <= set(second.edits), f"{made} withholds less after {first}"

    async def test_L1_in_a_token_it_is_as_strict_as_for_the_operator(self) -> None:
        for made in self._trials():
            if not self.enforcer.attenuates or made.action in self.enforcer.idle:
                continue
            if not isinstance(made.case.params, tuple | str):
                continue  # a token holds rules in string form
            lent = trial(made.case, self.enforcer, made.phase, made.action, from_token=True)
            assert lent is not None
            verdict, own = await lent.verdict(), await made.verdict()
            assert (verdict.effect, verdict.edits) == (own.effect, own.edits), made

    async def test_L1_rules_of_a_token_never_weaken_what_the_operators_rule_says(self) -> None:
        """Each has a store of its own, as a server gives them one; what else an enforcer remembers is shared."""
        for made in self._trials()[:PAIRS]:
            if not self.enforcer.attenuates or made.action in self.enforcer.idle:
                continue
            plain, mixed = MemoryStore(), MemoryStore()
            alone = [await made.verdict(store=plain) for _ in range(LOOKS)]
            beside = []
            for _ in range(LOOKS):
                for number in range(COPIES):
                    await made.verdict(store=Namespaced(mixed, f"caveat/{number}"))
                beside.append(await made.verdict(store=Namespaced(mixed, "plugin")))
            for one, other in zip(beside, alone, strict=True):
                assert one.effect <= other.effect, f"{made} is weaker after the same rule of a token"
                assert set(other.edits) <= set(one.edits), f"{made} withholds less after the same rule of a token"

    async def test_L1_an_enforcer_that_may_stand_in_a_token_says_that_it_keeps_anything(self) -> None:
        for made in self._trials():
            store = MemoryStore()
            verdict = await made.verdict(store=store)
            if self.enforcer.attenuates and not self.enforcer.stateful:
                assert not verdict.charges, f"{made} charges; say stateful=True"
                assert len(store) == 0, f"{made} keeps something in check.store; say stateful=True"

    async def test_its_edits_stay_within_what_it_says_it_may_withhold(self) -> None:
        for made in self._trials():
            possible = made.bound.edits()
            verdict = await made.verdict()
            for edit in verdict.edits if possible is not None else ():
                assert covered(edit, possible or ()), f"{made}: {edit} is not among what may_withhold says"

    # --- law L2: it fails closed ----------------------------------------------------------------------------------

    async def test_L2_hostile_arguments_get_a_sound_verdict(self) -> None:
        for made in self._trials():
            for arguments in substituted(made.case.arguments):
                require_sound(await made.verdict(arguments=arguments), made)

    async def test_L2_missing_arguments_are_refused(self) -> None:
        for made in self._trials():
            if self.optional_arguments or made.action in self.enforcer.idle or made.phase is Phase.AFTER:
                continue
            usual = await made.verdict()
            effects = {(await made.verdict(arguments=odd)).effect for odd in substituted(made.case.arguments)}
            if effects == {usual.effect}:
                continue  # it looks at no argument
            missing = await made.verdict(arguments={})
            assert missing.effect is not Effect.ALLOW, f"{made} passes without the arguments that it looks at"

    async def test_L2_a_store_that_is_down_never_lets_anything_pass(self) -> None:
        for made in self._trials():
            store = BrokenStore()
            try:
                verdict = await made.verdict(store=store)
            except StoreUnavailable:
                continue
            assert not store.touched or verdict.effect is not Effect.ALLOW, f"{made} passes without its store"

    # --- law L7: it keeps secrets ---------------------------------------------------------------------------------

    async def test_L7_no_value_of_an_argument_or_a_result_stands_in_its_texts(self) -> None:
        for made in self._trials():
            marked, result = with_canaries(made.case.arguments), with_canaries(made.case.result)
            verdict = await made.verdict(arguments=marked, result=result)
            texts = [verdict.code, verdict.reason, verdict.detail, *verdict.caveats]
            texts += [verdict.question.text, *verdict.question.fields] if verdict.question is not None else []
            assert not any(CANARY in text for text in texts), f"{made} repeats a value: {texts}"


def require_sound(verdict: Any, made: Trial) -> None:
    """Fails unless `verdict` is one that the engine and the adapter can use."""
    assert isinstance(verdict, Verdict), f"{made} answered {type(verdict).__name__}, not a Verdict"
    assert isinstance(verdict.effect, Effect), made
    if verdict.effect is not Effect.ALLOW:
        assert _CODE.match(verdict.code), f"{made}: the code {verdict.code!r} is not like outside_hours"
        assert verdict.reason.strip(), f"{made} refuses without a reason"
        assert verdict.reason.isprintable(), f"{made}: control characters in the reason"
    if verdict.effect is Effect.ASK:
        assert made.action is Action.ELICIT, f"{made} asks where the rule does not say elicit"
        assert verdict.question is not None, f"{made} asks without a question"
        assert verdict.question.text, f"{made} asks without a text"
        assert made.phase is Phase.BEFORE or verdict.edits, f"{made} asks after the call and withholds nothing"
    assert verdict.retry_after is None or 0 <= verdict.retry_after < math.inf, made
    assert made.phase is Phase.AFTER or not verdict.edits, f"{made} edits a result that is not there yet"
    assert made.phase is Phase.BEFORE or not verdict.charges, f"{made} charges for a call that has run"
    assert all(isinstance(edit, Edit) for edit in verdict.edits), made
    assert all(_is_sound_charge(charge) for charge in verdict.charges), f"{made}: {verdict.charges}"
    for text in verdict.caveats:
        try:
            parse_rule(text)
        except RuleError as error:
            raise AssertionError(f"{made} returned a caveat that is no rule: {error}") from None


def _is_sound_charge(charge: Any) -> bool:
    return (
        isinstance(charge, Charge)
        and all(isinstance(part, str) for part in charge.key)
        and charge.amount >= 0
        and charge.limit >= 0
        and 0 < charge.window < math.inf
        and charge.effect is not Effect.ALLOW
    )


def shown(result: Any, verdict: Verdict) -> Any:
    """What of `result` leaves under the verdict's edits."""
    try:
        return redact(thawed(result), Redaction.united(verdict.edits))[0]
    except ResultWithheld:
        return _WITHHELD


def covered(edit: Edit, possible: Sequence[Edit]) -> bool:
    """Whether everything that `edit` withholds is among `possible`."""
    if any(other.everything for other in possible):
        return True
    paths = {path for other in possible for path in other.withhold}
    keeps = {other.keep for other in possible}
    return not edit.everything and set(edit.withhold) <= paths and (edit.keep is None or edit.keep in keeps)
