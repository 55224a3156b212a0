"""The terminal of the `console` approver: there, not there, somebody else's; controlling, or none at all."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest
from seat import Seat

from mcp_macaroon_middleware.builtin.console_approver import TYPE, ConsoleApprover, ConsoleSettings
from mcp_macaroon_middleware.plugin import Answer, ApproverContext, Challenge, PluginError
from mcp_macaroon_middleware.testing import sample_challenges

NOWHERE = "/dev/pts/does-not-exist"


@pytest.fixture
def seat() -> Iterator[Seat]:
    with Seat() as there:
        yield there


@pytest.fixture
def console(seat: Seat) -> ConsoleApprover:
    return ConsoleApprover(seat.path, settle=0.05)


def sample() -> Challenge:
    return sample_challenges()["before"]


def test_it_is_available_while_there_is_a_terminal_that_is_nobody_elses(seat: Seat, console: ConsoleApprover) -> None:
    assert console.available() is True
    seat.mode(termios.ICANON, on=False)
    assert console.available() is False, "another program reads its keys"
    seat.mode(termios.ICANON, on=True)
    assert console.available() is True
    seat.leave()
    assert console.available() is False


@pytest.mark.parametrize("path", [NOWHERE, "/dev/null", "/tmp", __file__])
async def test_what_is_no_terminal_asks_nobody(path: str, caplog: pytest.LogCaptureFixture) -> None:
    console = ConsoleApprover(path)
    assert console.available() is False
    assert await console.ask(sample()) == Answer(ending="failed")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_terminal_that_is_closed_while_it_asks_is_no_answer(seat: Seat, console: ConsoleApprover) -> None:
    asking = asyncio.create_task(console.ask(sample()))
    await seat.prompted()
    seat.leave()
    assert await asyncio.wait_for(asking, 2) == Answer(ending="failed")
    assert console.available() is False


def test_a_server_without_a_terminal_starts_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    opened = TYPE.open(ApproverContext(audience="a", settings=ConsoleSettings(terminal=NOWHERE)))
    assert not opened.available()
    assert not opened.available()
    (record,) = caplog.records
    assert record.getMessage().startswith("the console approver can ask nobody yet: there is no terminal at /dev/pts/")


def test_a_server_that_requires_its_terminal_does_not_start_without(seat: Seat) -> None:
    with pytest.raises(PluginError, match="leave out  required: true"):
        TYPE.open(ApproverContext(audience="a", settings=ConsoleSettings(terminal=NOWHERE, required=True)))
    settings = ConsoleSettings(terminal=seat.path, required=True)
    opened = TYPE.open(ApproverContext(audience="a", settings=settings))
    assert (opened.available(), repr(opened)) == (True, f"ConsoleApprover({seat.path!r})")


@pytest.mark.parametrize("wrong", [{"terminal": "pts/1"}, {"terminal": ""}, {"tty": "/dev/tty"}])
def test_other_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ConsoleSettings.model_validate(wrong)


# --- in a process of its own ------------------------------------------------------------------------------------------

ASK = """
import asyncio, logging, sys
from mcp_macaroon_middleware.builtin.console_approver import TYPE, ConsoleSettings
from mcp_macaroon_middleware.plugin import ApproverContext, PluginError
from mcp_macaroon_middleware.testing import sample_challenges

logging.basicConfig(format="%(message)s")
approver = TYPE.open(ApproverContext(audience="a", settings=ConsoleSettings()))
available = approver.available()
answer = asyncio.run(approver.ask(sample_challenges()["before"]))
print(available, answer.ending, *answer.choices)
try:
    TYPE.open(ApproverContext(audience="a", settings=ConsoleSettings(required=True)))
except PluginError:
    print("required")
"""
BEHIND = f"""
import subprocess, sys
ran = subprocess.run([sys.executable, "-c", {ASK!r}], process_group=0, capture_output=True, text=True, timeout=20)
print(ran.stdout, ran.stderr)
"""

PUT_BEHIND = f"""
import os, signal, subprocess, sys
unblocked = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGTTOU}})
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTTOU}})
shell = os.open("/dev/tty", os.O_RDWR)
command = [sys.executable, "-c", {ASK!r}]
child = subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE, text=True, preexec_fn=unblocked)
os.tcsetpgrp(shell, child.pid)
sys.stdin.readline()
os.tcsetpgrp(shell, os.getpgrp())
print("behind", flush=True)
try:
    print(child.communicate(timeout=10)[0])
finally:
    child.kill()
"""


def started(code: str, seat: Seat | None) -> subprocess.Popen[str]:
    """Python in a session of its own, whose terminal is the seat's; a client holds its standard input and output."""

    def sit_down() -> None:
        if seat is not None:
            fcntl.ioctl(seat.slave, termios.TIOCSCTTY, 0)

    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    fds = [seat.slave] if seat is not None else []
    return subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, preexec_fn=sit_down, pass_fds=fds, text=True, **pipes
    )


async def test_it_asks_on_the_controlling_terminal_and_leaves_standard_input_and_output_alone() -> None:
    with Seat() as seat:
        process = started(ASK, seat)
        assert process.stdin is not None
        process.stdin.write("3\n3\n3\n")
        process.stdin.flush()
        await seat.sees("Tool: send_mail", within=20)
        await seat.chooses("once")
        out, errors = await asyncio.to_thread(process.communicate, timeout=20)
        assert (out, errors) == ("True answered once\n", "")


def test_without_a_terminal_it_says_so_once_and_asks_nobody() -> None:
    with started(ASK, None) as process:
        out, errors = process.communicate(timeout=20)
    assert out == "False failed\nrequired\n"
    assert errors.count("the console approver can ask nobody yet: there is no terminal at /dev/tty") == 1


async def test_in_the_background_of_its_shell_it_asks_nobody_and_is_not_stopped() -> None:
    with Seat() as seat:
        process = started(BEHIND, seat)
        out, _ = await asyncio.to_thread(process.communicate, timeout=40)
        assert out.startswith("False failed\nrequired\n")
        assert "can ask nobody yet: the server runs in the background of its terminal" in out
        assert "Tool:" not in seat.shown


async def test_a_question_that_is_put_into_the_background_ends_and_does_not_stop_the_server() -> None:
    with Seat() as seat, started(PUT_BEHIND, seat) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await seat.sees("Your answer", within=20)
        process.stdin.write("now\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "behind\n"
        seat.type(b"2\n")
        out, _ = await asyncio.to_thread(process.communicate, timeout=20)
        assert out.startswith("True failed\n")
