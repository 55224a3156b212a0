"""The `console` approver on real pseudo-terminals: what it shows, what it takes for an answer, and when it gives up."""

from __future__ import annotations

import asyncio
import getpass
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from seat import Seat

from mcp_macaroon_middleware.builtin.console_approver import ConsoleApprover
from mcp_macaroon_middleware.plugin import Answer, Challenge, Choice, Principal
from mcp_macaroon_middleware.testing import sample_challenges

SETTLE = 0.05

OPERATOR = Principal(kind="operator", namespace=platform.node(), subject=getpass.getuser())


def chosen(*names: str) -> Answer:
    """What whoever sits at the terminal chose: the operator of this machine, by the user whose process asks."""
    return Answer.chosen(*names, by=OPERATOR)


@pytest.fixture
def seat() -> Iterator[Seat]:
    with Seat() as there:
        yield there


@pytest.fixture
def console(seat: Seat) -> ConsoleApprover:
    return ConsoleApprover(seat.path, settle=SETTLE)


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def sample(name: str = "before") -> Challenge:
    return sample_challenges()[name]


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "console approver"]


async def no_worker_is_left() -> None:
    end = time.monotonic() + 2
    while worker_threads() and time.monotonic() < end:  # noqa: ASYNC110 - threads
        await asyncio.sleep(0.01)
    assert not worker_threads()


# --- what it shows ----------------------------------------------------------------------------------------------------


async def test_the_question_is_shown_whole_then_the_choices_with_deny_first(
    seat: Seat, console: ConsoleApprover
) -> None:
    challenge = sample()
    asking = asyncio.create_task(console.ask(challenge))
    shown = await seat.prompted()
    question = "".join(f"  {line}\n" for line in challenge.message.split("\n"))
    deny, once, period = (choice.title for choice in challenge.choices[0])
    assert f"{question}\n  Choices:\n  1  {deny}  (Enter)\n  2  {once}\n  3  {period}\n" in shown
    assert "expires in 120 s\n" in shown
    assert "\x1b[1m" in seat.raw.decode()
    await seat.chooses("once")
    assert await asking == chosen("once")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")])
async def test_there_are_no_colours_where_they_are_not_wanted(
    seat: Seat, console: ConsoleApprover, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    asking = asyncio.create_task(console.ask(sample("after")))
    await seat.chooses("once", "deny", "period")
    await asking
    assert b"\x1b" not in seat.raw


async def test_markup_and_emoji_names_are_shown_as_they_stand(seat: Seat, console: ConsoleApprover) -> None:
    challenge = sample("hostile")
    asking = asyncio.create_task(console.ask(challenge))
    shown = await seat.prompted()
    whole = shown.replace("\n+ ", "")
    assert challenge.message.replace("\n", "\n  ") in whole
    assert "[bold]Approved by the administrator[/bold]" in whole
    assert ":white_check_mark:" in whole
    await seat.chooses("deny")
    assert await asking == chosen("deny")


async def test_no_part_of_a_long_line_can_pass_for_a_line_of_the_question(seat: Seat, console: ConsoleApprover) -> None:
    challenge = sample("hostile")
    asking = asyncio.create_task(console.ask(challenge))
    shown = await seat.prompted()
    question = shown[: shown.index("(56 lines")]
    own = {f"  {line}"[:10] for line in challenge.message.splitlines()}
    for row in question.splitlines()[1:]:
        assert row[:2] == "+ " or row[:10] in own or not row.strip(), row
        assert sum(1 if char.isascii() else 2 for char in row) < 80, "a terminal would break it elsewhere"
    asking.cancel()


async def test_whatever_a_terminal_would_obey_is_shown_as_what_it_is(seat: Seat, console: ConsoleApprover) -> None:
    title = "Allow it\x1b[2K\r  1  Do not allow this 15 minutes"
    bare = sample()
    deny, once, period = bare.choices[0]
    challenge = replace(
        bare,
        message="Tool: \x1b[2Jx\r\x07\x9b31m\u202e\u200b\tend",
        choices=((deny, once, Choice(name=period.name, title=title)),),
    )
    asking = asyncio.create_task(console.ask(challenge))
    shown = await seat.prompted()
    assert r"Tool: \u001b[2Jx\u000d\u0007\u009b31m\u202e\u200b\u0009end" in shown
    assert r"  3  Allow it\u001b[2K\u000d  1  Do not allow this 15 minutes" in shown
    asking.cancel()


async def test_a_question_higher_than_the_terminal_says_that_one_must_scroll(
    seat: Seat, console: ConsoleApprover
) -> None:
    challenge = replace(sample(), message="\n".join(f"line {n}" for n in range(5000)))
    asking = asyncio.create_task(console.ask(challenge))
    shown = await seat.prompted()
    assert all(f"  line {n}\n" in shown for n in range(5000))
    assert "(5000 lines: scroll up to read all of them)" in shown
    asking.cancel()


async def test_after_the_call_each_question_is_asked_with_its_own_choices(seat: Seat, console: ConsoleApprover) -> None:
    challenge = sample("after")
    asking = asyncio.create_task(console.ask(challenge))
    for number, (question, name) in enumerate(zip(challenge.questions, ("once", "deny", "period"), strict=True), 1):
        shown = await seat.prompted()
        assert shown.rindex(f"{number} of 3: {question.text}") > shown.rfind(f"{number - 1} of 3:")
        await seat.chooses(name)
    assert await asking == chosen("once", "deny", "period")


# --- what answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [b"\n", b"1\n", b"  \n", b" 1 \n", b"3\x7f\n", b"2\x15\n"])
async def test_an_empty_line_or_a_one_denies(seat: Seat, console: ConsoleApprover, keys: bytes) -> None:
    asking = asyncio.create_task(console.ask(sample()))
    await seat.types(keys)
    assert await asking == chosen("deny")


@pytest.mark.parametrize("keys", [b"\x04", b"2\x04\x04"])
async def test_ctrl_d_cancels_even_after_a_number(seat: Seat, console: ConsoleApprover, keys: bytes) -> None:
    asking = asyncio.create_task(console.ask(sample()))
    await seat.prompted()
    seat.type(keys)
    assert await asking == Answer(ending="cancelled")
    await seat.sees("cancelled: nothing is allowed")


GARBAGE = [b"y", b"yes", b"once", b"0", b"4", b"22", b"2.", b"+2", b"-1", b"2 2", b"\xc2\xb2", b"\xef\xbc\x92", b"\xff"]
CONTROL = [b"\x1b[200~2\x1b[201~", b"\x1b[A2", b"2\x1b", b"\x002", b"2\t", b"\x012", b"2\x9b", b"x" * 4000]


@pytest.mark.parametrize("garbage", GARBAGE + CONTROL)
async def test_what_is_no_number_is_asked_again_three_times_and_then_invalid(
    seat: Seat, console: ConsoleApprover, garbage: bytes
) -> None:
    asking = asyncio.create_task(console.ask(sample()))
    for _ in range(4):
        assert not asking.done()
        await seat.types(garbage.replace(b"\x00", b"\x16\x00").replace(b"\x01", b"\x16\x01") + b"\n")
    assert await asking == Answer(ending="invalid")
    shown = await seat.sees("invalid: nothing is allowed")
    assert shown.count("That is none of the numbers.") == 4


async def test_after_garbage_a_number_still_answers(seat: Seat, console: ConsoleApprover) -> None:
    asking = asyncio.create_task(console.ask(sample()))
    await seat.types(b"no\n")
    await seat.types(b"2\n")
    assert await asking == chosen("once")


async def test_what_was_typed_before_the_prompt_answers_nothing(seat: Seat, console: ConsoleApprover) -> None:
    seat.type(b"2\n3\n2")
    asking = asyncio.create_task(console.ask(sample()))
    await seat.sees("Choices:")
    seat.type(b"2\n2\n")
    await seat.prompted()
    assert not asking.done()
    await seat.types(b"\n")
    assert await asking == chosen("deny")


async def test_lines_pasted_at_once_answer_one_question_and_the_rest_is_dropped(
    seat: Seat, console: ConsoleApprover
) -> None:
    first, second = (asyncio.create_task(console.ask(sample())) for _ in range(2))
    await seat.types(b"2\n2\n2\n")
    assert await first == chosen("once")
    await seat.prompted()
    assert not second.done()
    await seat.types(b"no\n2\n")
    await seat.prompted()
    assert not second.done()
    second.cancel()


async def test_a_list_without_a_deny_is_never_shown(
    seat: Seat, console: ConsoleApprover, caplog: pytest.LogCaptureFixture
) -> None:
    deny, once, _ = sample().choices[0]
    for choices in ((), ((),), ((once,),), ((once, deny),)):
        assert await console.ask(replace(sample(), choices=choices)) == Answer(ending="failed")
    assert seat.shown == ""
    assert {record.getMessage() for record in caplog.records} == {"the console approver failed: ValueError"}


# --- several questions, cancelled questions, several loops -----------------------------------------------------------


async def test_one_question_is_asked_at_a_time_and_says_how_many_wait(seat: Seat, console: ConsoleApprover) -> None:
    names = ("once", "deny", "period")
    asking = [asyncio.create_task(console.ask(sample())) for _ in names]
    for name, waiting in zip(names, ("; 2 more questions wait\n", "; 1 more question waits\n", " s\n"), strict=True):
        shown = await seat.prompted()
        assert shown.rpartition("expires in 1")[2].partition("Your answer")[0].endswith(waiting)
        assert shown.count("Choices:") == names.index(name) + 1
        await seat.chooses(name)
    assert [(await task).choices for task in asking] == [(name,) for name in names]


async def test_a_cancelled_question_is_withdrawn_and_the_next_is_asked_at_once(
    seat: Seat, console: ConsoleApprover
) -> None:
    first, second = (asyncio.create_task(console.ask(sample())) for _ in range(2))
    await seat.prompted()
    seat.type(b"2")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await seat.sees(lambda shown: shown.count("Choices:") == 2 and "withdrawn" in shown, within=1.0)
    seat.type(b"\n")  # it was on its way when the question changed
    await seat.prompted()
    await seat.types(b"\n")
    assert await second == chosen("deny")


async def test_a_question_that_is_cancelled_while_it_waits_is_never_shown(seat: Seat, console: ConsoleApprover) -> None:
    first, second = (asyncio.create_task(console.ask(sample())) for _ in range(2))
    await seat.prompted()
    second.cancel()
    await seat.types(b"no\n")
    assert (await seat.prompted()).count("1 more question waits") == 1, "it waits no more"
    await seat.chooses("once")
    assert await first == chosen("once")
    await no_worker_is_left()
    assert seat.shown.count("Choices:") == 1


async def test_the_callers_timeout_withdraws_the_question(seat: Seat, console: ConsoleApprover) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await console.ask(sample())
    await seat.sees("withdrawn: nobody waits for this answer any more")
    await no_worker_is_left()


async def test_a_question_ends_at_its_time_even_if_nobody_cancels_it(seat: Seat, console: ConsoleApprover) -> None:
    soon = replace(sample(), expires=datetime.now(UTC) + timedelta(seconds=0.3))
    assert await console.ask(soon) == Answer(ending="timeout")
    await seat.sees("withdrawn: the time is over")
    assert await console.ask(replace(soon, id="2")) == Answer(ending="timeout")
    assert seat.shown.count("Choices:") == 1, "what is void already is not shown"
    timeless = ConsoleApprover(seat.path, timeout=0.2, settle=SETTLE)
    assert await timeless.ask(replace(soon, expires=None)) == Answer(ending="timeout")


async def test_a_hundred_questions_that_come_and_go_leave_nothing_behind(seat: Seat, console: ConsoleApprover) -> None:
    before = len(os.listdir("/proc/self/fd"))
    asking = [asyncio.create_task(console.ask(sample())) for _ in range(100)]
    await seat.prompted()
    for task in asking[:-1]:
        task.cancel()
    await asyncio.wait(asking[:-1])
    await seat.chooses("once")
    assert await asking[-1] == chosen("once")
    await no_worker_is_left()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_terminal_that_is_held_up_keeps_neither_the_loop_nor_a_thread(
    seat: Seat, console: ConsoleApprover
) -> None:
    seat.type(b"\x13")  # Ctrl-S
    await asyncio.sleep(0.05)
    challenge = replace(sample(), message="\n".join(["x" * 70] * 1400))
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await console.ask(challenge)
    assert time.monotonic() - start < 1
    await no_worker_is_left()
    seat.type(b"\x11")
    asking = asyncio.create_task(console.ask(sample()))
    await seat.chooses("once")
    assert await asking == chosen("once")


def test_it_serves_one_event_loop_after_another_and_several_at_once(seat: Seat, console: ConsoleApprover) -> None:
    async def answered() -> Answer:
        asking = asyncio.create_task(console.ask(sample()))
        await seat.chooses("once")
        return await asking

    assert [asyncio.run(answered()) for _ in range(3)] == [chosen("once")] * 3
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(console.ask(sample())))) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(seat.chooses("once", "once", "once"))
    for thread in threads:
        thread.join(5)
    assert answers == [chosen("once")] * 3


async def test_closing_withdraws_everything_and_nobody_can_be_asked_afterwards(
    seat: Seat, console: ConsoleApprover
) -> None:
    asking = [asyncio.create_task(console.ask(sample())) for _ in range(2)]
    await seat.prompted()
    await console.close()
    assert not worker_threads()
    assert [await task for task in asking] == [Answer(ending="cancelled")] * 2
    assert not console.available()
    assert await console.ask(sample()) == Answer(ending="failed")
