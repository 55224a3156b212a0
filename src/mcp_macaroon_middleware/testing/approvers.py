"""`ApproverContract`: what the framework needs of an approver, as tests that every approver runs, ours included."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any, ClassVar, Final

from ..core.deadline import drop
from ..core.persons import is_sound
from ..plugin import DENY, ONCE, PERIOD, Answer, Approver, Challenge, Choice, Form, FormField, Pending, Principal, Reply
from .challenges import MARK, sample_challenges

AT_ONCE: Final = 1.0
"""Seconds in which something is done that must not wait."""
MOMENT: Final = 0.25
"""Seconds in which a question is open, and whoever gives an answer by itself would give it."""
CALLERS: Final = (
    Principal(kind="user", namespace="https://id.example.com", subject="alice"),
    Principal(kind="user", namespace="https://another.example.com", subject="alice", tenant="one"),
    Principal(kind="local", namespace="local", subject="alice"),
    Principal(kind="anonymous", namespace="", subject=""),
)
"""Callers of several authorities, one of them without a name."""
NO_CHOICES: Final[tuple[Any, ...]] = (
    "",
    "yes",
    "true",
    "allow",
    "Once",
    "ONCE",
    " once",
    "once ",
    "once\n",
    "on\u0441e",
    "once,period",
    "1",
    0,
    1,
    2,
    1.0,
    float("nan"),
    True,
    False,
    None,
    [],
    [ONCE],
    [ONCE, ONCE],
    {},
    {ONCE: True},
    b"once",
    ONCE * 500_000,
)
"""What a client may send in place of a choice."""


class ApproverContract:
    """Subclass it and give `open_approver`, which yields a fresh approver and closes it.

    `in_band`: it answers with forms that the caller's client shows. Any other gives `person`, by which the suite
    answers its questions, unless it has nobody to ask (`asks_people = False`). `patience` is how many seconds may pass
    between a person's answer and the approver's.
    """

    macaroon_suite: ClassVar[bool] = True
    in_band: ClassVar[bool] = False
    asks_people: ClassVar[bool] = True
    patience: ClassVar[float] = 5.0

    def open_approver(self) -> AbstractAsyncContextManager[Approver]:
        """A fresh approver."""
        raise LookupError(f"{type(self).__name__} gives no open_approver")

    async def person(self, *choices: str) -> None:
        """Waits for the oldest question that is open, and answers it: one choice for each of its lists.

        Returns when the answer is given. May raise `LookupError` for a choice that it cannot give, because it is not
        offered.
        """
        raise LookupError(f"{type(self).__name__} gives no person")

    # --- any approver ---------------------------------------------------------------------------------------------

    async def test_available_says_yes_or_no_and_does_not_wait(self) -> None:
        async with self.open_approver() as approver:
            start = time.monotonic()
            said: object = approver.available()
            assert isinstance(said, bool), "available() says True or False"
            assert time.monotonic() - start < AT_ONCE, "available() waits"

    async def test_its_texts_and_the_logs_show_nothing_of_the_arguments(self) -> None:
        with _logged() as lines:
            async with self.open_approver() as approver:
                asking = asyncio.ensure_future(approver.ask(sample_challenges()["before"]))
                await asyncio.wait({asking}, timeout=MOMENT)
                said = f"{approver!r} {approver}"
                await _ended(asking)
                said += f"{approver!r} {approver}"
        assert MARK not in said, "repr() or str() shows an argument"
        assert not [line for line in lines if MARK in line], "an argument is logged"

    async def test_an_answer_holds_offered_choices_only_one_for_each_list(self) -> None:
        for name, challenge in sample_challenges().items():
            async with self.open_approver() as approver:
                answer = await self._answer(approver, challenge, (ONCE,) * len(challenge.choices))
                assert answer.ending == "answered", name
                assert _fits(answer, challenge), name

    async def test_whoever_answered_is_a_principal_and_never_the_caller(self) -> None:
        """Or nobody, where the approver knows none. Two persons are told apart by one authority alone (four eyes)."""
        challenge, authorities = sample_challenges()["once_only"], set()
        for caller in CALLERS:
            async with self.open_approver() as approver:
                asked = replace(challenge, id=secrets.token_hex(16), principal=caller)
                answer = await self._answer(approver, asked, (ONCE,))
                assert is_sound(answer), "a field of the answer is of the wrong kind"
                if answer.by is None:
                    continue
                assert answer.by.subject.strip(), "somebody without a name answered"
                assert answer.by != caller, "it says that the caller answered"
                authorities.add((answer.by.kind, answer.by.namespace))
        assert len(authorities) <= 1, "it names its people by the authority of whoever calls"

    async def test_read_answers_at_once(self) -> None:
        async with self.open_approver() as approver:
            said: object = approver.read(sample_challenges()["once_only"], Reply(action="decline"))
            if inspect.isawaitable(said):
                drop(said)
                raise AssertionError("read() answers later; it must answer at once")
            assert isinstance(said, Answer)

    async def test_questions_asked_at_once_each_get_their_own_answer(self) -> None:
        samples = sample_challenges()
        asked = (samples["before"], samples["after"], samples["once_only"])
        wanted = ((PERIOD,), (ONCE, DENY, PERIOD), (ONCE,))
        async with self.open_approver() as approver:
            if self._waits():
                answers = await self._answered_in_turn(approver, asked, wanted)
            else:
                answers = await asyncio.gather(*map(self._answer, [approver] * len(asked), asked, wanted))
        assert all(_fits(answer, challenge) for answer, challenge in zip(answers, asked, strict=True))
        if self.asks_people:
            assert [answer.choices for answer in answers] == list(wanted)

    async def test_closing_twice_does_no_harm(self) -> None:
        async with self.open_approver() as approver:
            await asyncio.wait_for(approver.close(), self.patience)
            await asyncio.wait_for(approver.close(), self.patience)

    # --- approvers that send a form ---------------------------------------------------------------------------------

    async def test_a_form_asks_the_whole_question_with_deny_first_and_preselected(self) -> None:
        async with self.open_approver() as approver:
            for challenge in self._in_forms():
                form = await _form(approver, challenge)
                assert challenge.message in form.message, "the form does not show the whole question"
                assert [field.options for field in form.fields] == list(challenge.choices), "one field for each list"
                for field in form.fields:
                    assert (field.options[0].name, field.default) == (DENY, DENY), "deny is first and preselected"

    async def test_no_field_of_a_form_asks_for_a_credential(self) -> None:
        async with self.open_approver() as approver:
            for challenge in self._in_forms():
                fields = (await _form(approver, challenge)).fields
                assert len({field.name for field in fields}) == len(fields), "two fields have one name"
                for field in fields:
                    FormField(name=field.name, title=field.title, options=field.options, default=field.default)

    async def test_an_accepted_form_with_a_choice_missing_is_no_answer(self) -> None:
        async with self.open_approver() as approver:
            for challenge in self._in_forms():
                fields = (await _form(approver, challenge)).fields
                whole = {field.name: field.options[-1].name for field in fields}
                assert _ending(approver, challenge, {}) != "answered"
                assert _ending(approver, challenge, {"other": ONCE, ONCE: True, "": PERIOD}) != "answered"
                for field in fields:
                    rest = {name: value for name, value in whole.items() if name != field.name}
                    assert _ending(approver, challenge, rest) != "answered", field.name

    async def test_an_accepted_form_with_anything_but_an_offered_choice_is_no_answer(self) -> None:
        async with self.open_approver() as approver:
            for challenge in self._in_forms():
                fields = (await _form(approver, challenge)).fields
                whole: dict[str, Any] = {field.name: ONCE for field in fields}
                for field in fields:
                    offered = {option.name for option in field.options}
                    for wrong in (*NO_CHOICES, *({DENY, ONCE, PERIOD} - offered), *_titles(field.options)):
                        ending = _ending(approver, challenge, {**whole, field.name: wrong})
                        assert ending != "answered", f"{field.name}: {str(wrong)[:40]!r}"

    async def test_each_offered_choice_is_read_back_as_itself_even_by_another_process(self) -> None:
        async with self.open_approver() as approver, self.open_approver() as other:
            for challenge in self._in_forms():
                fields = (await _form(approver, challenge)).fields
                for chosen in _each_choice(challenge):
                    content = {field.name: name for field, name in zip(fields, chosen, strict=True)}
                    reply = Reply(action="accept", content=content)
                    for reader in (approver, other):
                        answer = reader.read(challenge, reply)
                        assert (answer.ending, answer.choices) == ("answered", chosen)

    async def test_decline_and_cancel_are_told_apart_and_never_answers(self) -> None:
        async with self.open_approver() as approver:
            for challenge in self._in_forms():
                whole = {field.name: ONCE for field in (await _form(approver, challenge)).fields}
                for content in ({}, whole):
                    assert approver.read(challenge, Reply(action="decline", content=content)).ending == "declined"
                    assert approver.read(challenge, Reply(action="cancel", content=content)).ending == "cancelled"

    # --- approvers that ask out of band -----------------------------------------------------------------------------

    async def test_what_the_person_chooses_is_the_answer(self) -> None:
        for challenge in sample_challenges().values() if self._waits() else ():
            for choices in _each_choice(challenge):
                async with self.open_approver() as approver:
                    answer = await self._answer(approver, challenge, choices)
                    assert (answer.ending, answer.choices) == ("answered", choices)

    async def test_a_choice_that_is_not_offered_cannot_be_had(self) -> None:
        if not self._waits():
            return
        async with self.open_approver() as approver:
            challenge = sample_challenges()["once_only"]
            asking = asyncio.ensure_future(approver.ask(challenge))
            with suppress(LookupError):
                await asyncio.wait_for(self.person(PERIOD), self.patience)
            await asyncio.wait({asking}, timeout=MOMENT)
            assert not _approves(await _ended(asking)), "it gave what was not offered"

    async def test_silence_is_no_approval(self) -> None:
        if not self._waits():
            return
        async with self.open_approver() as approver:
            asking = asyncio.ensure_future(approver.ask(sample_challenges()["before"]))
            await asyncio.wait({asking}, timeout=MOMENT)
            assert not _approves(await _ended(asking)), "nobody answered"

    async def test_a_cancelled_question_ends_at_once_and_the_next_one_is_asked(self) -> None:
        if not self._waits():
            return
        async with self.open_approver() as approver:
            asking = asyncio.ensure_future(approver.ask(sample_challenges()["before"]))
            await asyncio.sleep(MOMENT)
            asking.cancel()
            done, _ = await asyncio.wait({asking}, timeout=AT_ONCE)
            assert done, "it goes on after it was cancelled"
            assert asking.cancelled(), "it answers although it was cancelled"
            answer = await self._answer(approver, sample_challenges()["once_only"], (ONCE,))
            assert answer.choices == (ONCE,)

    async def test_closing_withdraws_what_is_open_and_nothing_is_approved_afterwards(self) -> None:
        if not self._waits():
            return
        async with self.open_approver() as approver:
            asking = asyncio.ensure_future(approver.ask(sample_challenges()["before"]))
            await asyncio.sleep(MOMENT)
            await asyncio.wait_for(approver.close(), self.patience)
            late = asyncio.ensure_future(approver.ask(sample_challenges()["before"]))
            done, _ = await asyncio.wait({asking, late}, timeout=self.patience)
            assert done == {asking, late}, "a question outlives its approver"
            assert not _approves(await _ended(asking)), "closing approved what was open"
            assert not _approves(await _ended(late)), "it approves after it was closed"

    async def test_a_reply_to_a_form_that_was_never_sent_is_no_answer(self) -> None:
        if self.in_band:
            return
        async with self.open_approver() as approver:
            for challenge in sample_challenges().values():
                for name in ("choice", "choice_1", "answer", challenge.id):
                    assert _ending(approver, challenge, {name: ONCE}) != "answered"

    # --- how the suite asks -----------------------------------------------------------------------------------------

    def _in_forms(self) -> list[Challenge]:
        return list(sample_challenges().values()) if self.in_band else []

    def _waits(self) -> bool:
        """Whether `ask` waits for a person."""
        return self.asks_people and not self.in_band

    async def _answer(self, approver: Approver, challenge: Challenge, choices: tuple[str, ...]) -> Answer:
        """What comes of a challenge to which the person answers so, whichever way it is asked."""
        if self._waits():
            (answer,) = await self._answered_in_turn(approver, (challenge,), (choices,))
            return answer
        if not self.in_band:
            return _answer(await asyncio.wait_for(approver.ask(challenge), self.patience))
        fields = (await _form(approver, challenge)).fields
        content = {field.name: name for field, name in zip(fields, choices, strict=True)}
        return approver.read(challenge, Reply(action="accept", content=content))

    async def _answered_in_turn(
        self, approver: Approver, asked: Sequence[Challenge], wanted: Sequence[tuple[str, ...]]
    ) -> list[Answer]:
        """Asks all of them, one a moment after the other; the person answers them in that order."""
        asking = []
        try:
            for challenge in asked:
                asking.append(asyncio.ensure_future(approver.ask(challenge)))
                await asyncio.sleep(0.02)
            for choices in wanted:
                await asyncio.wait_for(self.person(*choices), self.patience)
            return [_answer(await asyncio.wait_for(task, self.patience)) for task in asking]
        finally:
            for task in asking:
                await _ended(task)


async def _ended(task: asyncio.Future[Answer | Pending]) -> Answer | Pending | None:
    """What came of the task, which is cancelled if it still waits; None for an exception."""
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    return None if not task.done() or task.cancelled() or task.exception() else task.result()


def _answer(value: object) -> Answer:
    assert isinstance(value, Answer), f"ask() gave a {type(value).__name__}, no Answer"
    return value


def _approves(value: object) -> bool:
    """Whether it is anything that could be taken for a yes."""
    return isinstance(value, Answer) and (value.ending == "answered" and any(name != DENY for name in value.choices))


def _fits(answer: Answer, challenge: Challenge) -> bool:
    """Whether it has one choice for each list, and each was offered there."""
    if len(answer.choices) != len(challenge.choices):
        return False
    offers = ([choice.name for choice in choices] for choices in challenge.choices)
    return all(name in names for name, names in zip(answer.choices, offers, strict=True))


async def _form(approver: Approver, challenge: Challenge) -> Form:
    pending = await asyncio.wait_for(approver.ask(challenge), AT_ONCE)
    assert isinstance(pending, Pending), "ask() of an in-band approver gives a form"
    return pending.form


def _ending(approver: Approver, challenge: Challenge, content: Mapping[str, Any]) -> str:
    """How an accepted form with that content ends; an exception is no answer either."""
    try:
        return _answer(approver.read(challenge, Reply(action="accept", content=content))).ending
    except Exception:
        return "raised"


def _each_choice(challenge: Challenge) -> Iterator[tuple[str, ...]]:
    """Answers in which every choice of every list stands once, beside different ones of the other lists."""
    for turn in range(max(len(choices) for choices in challenge.choices)):
        yield tuple(choices[(turn + place) % len(choices)].name for place, choices in enumerate(challenge.choices))


def _titles(options: tuple[Choice, ...]) -> list[str]:
    return [option.title for option in options]


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Everything that is logged meanwhile, at any level."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
