"""The suite for approvers: each defect that it is meant to find is put into an approver that is sound otherwise."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.mcp_approver import McpApprover
from mcp_macaroon_middleware.plugin import Answer, Challenge, Choice, Pending, Reply
from mcp_macaroon_middleware.testing import ApproverContract, sample_challenges


def failures(suite: ApproverContract, only: str = "") -> set[str]:
    """The tests of a suite that fail, by name, without `test_`; of all its tests, or of one."""
    failed = set()
    for name, method in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if name.startswith(f"test_{only}"):
            try:
                asyncio.run(method())
            except Exception:
                failed.add(name.removeprefix("test_"))
    return failed


# --- approvers that send a form ---------------------------------------------------------------------------------------


def formed(kind: type[McpApprover]) -> ApproverContract:
    class Suite(ApproverContract):
        in_band = True
        patience = 1.0

        @asynccontextmanager
        async def open_approver(self) -> AsyncIterator[Any]:
            approver = kind()
            yield approver
            await approver.close()

    return Suite()


def test_a_sound_approver_with_forms_passes_every_test() -> None:
    assert failures(formed(McpApprover)) == set()


def sends(change: Any) -> type[McpApprover]:
    """An approver that changes each field of its forms."""

    class Sends(McpApprover):
        async def ask(self, challenge: Challenge) -> Pending:
            form = (await super().ask(challenge)).form
            return Pending(form=replace(form, fields=tuple(map(change, form.fields))))

    return Sends


ALWAYS = Choice(name="always", title="Allow everything, always")
PresetsOnce = sends(lambda field: replace(field, default="once"))
OffersDenyLast = sends(lambda field: replace(field, options=field.options[::-1]))
OffersMore = sends(lambda field: replace(field, options=(*field.options, ALWAYS)))
AsksForACredential = sends(
    lambda field: SimpleNamespace(name="password", title="", options=field.options, default=field.default)
)


class CutsTheQuestion(McpApprover):
    async def ask(self, challenge: Challenge) -> Pending:
        pending = await super().ask(challenge)
        return Pending(form=replace(pending.form, message=pending.form.message[:1000]))


class WaitsWithItsForm(McpApprover):
    async def ask(self, challenge: Challenge) -> Pending:
        await asyncio.sleep(1.5)
        return await super().ask(challenge)


class TakesAcceptForAYes(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        answer = super().read(challenge, reply)
        accepts = reply.action == "accept" and not reply.content
        return Answer.chosen(*["once"] * len(challenge.choices)) if accepts else answer


class TakesAnyWord(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        if reply.action == "accept" and reply.content:
            return Answer.chosen(*map(str, reply.content.values()))
        return super().read(challenge, reply)


class IsLenient(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        tidy = {name: v.strip().lower() if isinstance(v, str) else v for name, v in reply.content.items()}
        return super().read(challenge, Reply(action=reply.action, content=tidy))


class TakesWhatWasNotOffered(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        widest = max(challenge.choices, key=len)
        every = sample_challenges()["before"].choices[0] if len(widest) < 3 else widest
        return super().read(replace(challenge, choices=(every,) * len(challenge.choices)), reply)


class ReadsOneOfThree(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        answer = super().read(challenge, reply)
        return replace(answer, choices=answer.choices[:1] * len(answer.choices))


class RemembersWhatItAsked(McpApprover):
    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def ask(self, challenge: Challenge) -> Pending:
        self.asked.add(challenge.id)
        return await super().ask(challenge)

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        return super().read(challenge, reply) if challenge.id in self.asked else Answer(ending="failed")


class CallsCancelADecline(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        answer = super().read(challenge, reply)
        return Answer(ending="declined") if answer.ending == "cancelled" else answer


class ReadsWhatWasDeclined(McpApprover):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        return super().read(challenge, Reply(action="accept", content=reply.content) if reply.content else reply)


class MixesUp(McpApprover):
    asked: Challenge | None = None

    async def ask(self, challenge: Challenge) -> Pending:
        self.asked = challenge
        await asyncio.sleep(0.01)
        return await super().ask(self.asked)


class Shows(McpApprover):
    asked: Challenge | None = None

    async def ask(self, challenge: Challenge) -> Pending:
        self.asked = challenge
        return await super().ask(challenge)

    def __repr__(self) -> str:
        return f"Shows({self.asked and self.asked.message!r})"


class Logs(McpApprover):
    async def ask(self, challenge: Challenge) -> Pending:
        logging.getLogger("acme").debug("asking %s", challenge.arguments[0].text)
        return await super().ask(challenge)


class WaitsToSayWhetherItIsThere(McpApprover):
    def available(self) -> bool:
        time.sleep(1.5)
        return True


class SaysMaybe(McpApprover):
    def available(self) -> Any:
        return "maybe"


class ClosesOnce(McpApprover):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


IN_FORMS = [
    (PresetsOnce, "a_form_asks_the_whole_question_with_deny_first_and_preselected"),
    (OffersDenyLast, "a_form_asks_the_whole_question_with_deny_first_and_preselected"),
    (OffersMore, "a_form_asks_the_whole_question_with_deny_first_and_preselected"),
    (CutsTheQuestion, "a_form_asks_the_whole_question_with_deny_first_and_preselected"),
    (WaitsWithItsForm, "a_form_asks_the_whole_question_with_deny_first_and_preselected"),
    (AsksForACredential, "no_field_of_a_form_asks_for_a_credential"),
    (TakesAcceptForAYes, "an_accepted_form_with_a_choice_missing_is_no_answer"),
    (TakesAnyWord, "an_accepted_form_with_anything_but_an_offered_choice_is_no_answer"),
    (IsLenient, "an_accepted_form_with_anything_but_an_offered_choice_is_no_answer"),
    (TakesWhatWasNotOffered, "an_accepted_form_with_anything_but_an_offered_choice_is_no_answer"),
    (ReadsOneOfThree, "each_offered_choice_is_read_back_as_itself_even_by_another_process"),
    (RemembersWhatItAsked, "each_offered_choice_is_read_back_as_itself_even_by_another_process"),
    (CallsCancelADecline, "decline_and_cancel_are_told_apart_and_never_answers"),
    (ReadsWhatWasDeclined, "decline_and_cancel_are_told_apart_and_never_answers"),
    (MixesUp, "questions_asked_at_once_each_get_their_own_answer"),
    (Shows, "its_texts_and_the_logs_show_nothing_of_the_arguments"),
    (Logs, "its_texts_and_the_logs_show_nothing_of_the_arguments"),
    (WaitsToSayWhetherItIsThere, "available_says_yes_or_no_and_does_not_wait"),
    (SaysMaybe, "available_says_yes_or_no_and_does_not_wait"),
    (ClosesOnce, "closing_twice_does_no_harm"),
]


@pytest.mark.parametrize(("kind", "expected"), IN_FORMS)
def test_the_suite_finds_an_approver_with_forms_that(kind: type[McpApprover], expected: str) -> None:
    assert expected in failures(formed(kind), expected)


# --- approvers that ask out of band -----------------------------------------------------------------------------------


class Desk:
    """A sound approver whose person is the test: `open` is what is asked, the oldest first."""

    def __init__(self) -> None:
        self.open: list[tuple[Challenge, asyncio.Future[Answer]]] = []
        self.closed = False

    def available(self) -> bool:
        return not self.closed

    async def ask(self, challenge: Challenge) -> Answer:
        if self.closed:
            return Answer(ending="failed")
        entry = (challenge, asyncio.get_running_loop().create_future())
        self.open.append(entry)
        try:
            return await entry[1]
        finally:
            self.gone(entry)

    def gone(self, entry: Any) -> None:
        self.open.remove(entry)

    def answers(self, challenge: Challenge, choices: tuple[str, ...]) -> Answer | None:
        offers = [[choice.name for choice in offered] for offered in challenge.choices]
        fits = all(name in names for name, names in zip(choices, offers, strict=True))
        return Answer.chosen(*choices) if fits else None

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        return Answer(ending="invalid")

    async def close(self) -> None:
        self.closed = True
        for _, future in self.open:
            if not future.done():
                future.set_result(Answer(ending="cancelled"))


def desk_suite(kind: type[Desk]) -> ApproverContract:
    class Suite(ApproverContract):
        patience = 0.7

        @asynccontextmanager
        async def open_approver(self) -> AsyncIterator[Any]:
            self.desk = kind()
            yield self.desk
            await self.desk.close()

        async def person(self, *choices: str) -> None:
            while True:
                for challenge, future in self.desk.open:
                    if not future.done():
                        answer = self.desk.answers(challenge, choices)
                        if answer is None:
                            raise LookupError(choices)
                        future.set_result(answer)
                        return
                await asyncio.sleep(0.01)

    return Suite()


def test_a_sound_approver_out_of_band_passes_every_test() -> None:
    assert failures(desk_suite(Desk)) == set()


class GivesAnything(Desk):
    def answers(self, challenge: Challenge, choices: tuple[str, ...]) -> Answer:
        return Answer.chosen(*choices)


class AnswersOneOfThree(Desk):
    def answers(self, challenge: Challenge, choices: tuple[str, ...]) -> Answer | None:
        answer = super().answers(challenge, choices)
        return answer and Answer.chosen(*answer.choices[:1])


class PermitsInSilence(Desk):
    async def ask(self, challenge: Challenge) -> Answer:
        try:
            return await asyncio.wait_for(super().ask(challenge), 0.1)
        except TimeoutError:
            return Answer.chosen(*["once"] * len(challenge.choices))


class KeepsWhatWasCancelled(Desk):
    def gone(self, entry: Any) -> None:
        if entry[1].cancelled():
            self.open[self.open.index(entry)] = (entry[0], asyncio.get_running_loop().create_future())
        else:
            super().gone(entry)


class AnswersWhenCancelled(Desk):
    async def ask(self, challenge: Challenge) -> Answer:
        try:
            return await super().ask(challenge)
        except asyncio.CancelledError:
            return Answer(ending="cancelled")


class ForgetsToWithdrawAtClose(Desk):
    async def close(self) -> None:
        self.closed = True


class ApprovesAfterClose(Desk):
    async def ask(self, challenge: Challenge) -> Answer:
        return Answer.chosen("once") if self.closed else await super().ask(challenge)


class ReadsForms(Desk):
    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        return Answer.chosen("once") if "choice" in reply.content else Answer(ending="invalid")


class MixesUpItsQuestions(Desk):
    async def ask(self, challenge: Challenge) -> Answer:
        asking = asyncio.ensure_future(super().ask(challenge))
        await asyncio.sleep(0)
        self.open.reverse()
        return await asking


OUT_OF_BAND = [
    (GivesAnything, "a_choice_that_is_not_offered_cannot_be_had"),
    (AnswersOneOfThree, "an_answer_holds_offered_choices_only_one_for_each_list"),
    (PermitsInSilence, "silence_is_no_approval"),
    (KeepsWhatWasCancelled, "a_cancelled_question_ends_at_once_and_the_next_one_is_asked"),
    (AnswersWhenCancelled, "a_cancelled_question_ends_at_once_and_the_next_one_is_asked"),
    (ForgetsToWithdrawAtClose, "closing_withdraws_what_is_open_and_nothing_is_approved_afterwards"),
    (ApprovesAfterClose, "closing_withdraws_what_is_open_and_nothing_is_approved_afterwards"),
    (ReadsForms, "a_reply_to_a_form_that_was_never_sent_is_no_answer"),
    (MixesUpItsQuestions, "questions_asked_at_once_each_get_their_own_answer"),
]


@pytest.mark.parametrize(("kind", "expected"), OUT_OF_BAND)
def test_the_suite_finds_an_approver_out_of_band_that(kind: type[Desk], expected: str) -> None:
    assert expected in failures(desk_suite(kind), expected)


def test_an_author_is_told_what_the_suite_needs() -> None:
    with pytest.raises(LookupError, match="gives no open_approver"):
        ApproverContract().open_approver()
    with pytest.raises(LookupError, match="gives no person"):
        asyncio.run(ApproverContract().person("once"))
