"""The `console` approver: asks on the operator's terminal, beside a stdio or HTTP server, one question at a time.

It never uses standard input or output, which carry MCP on a stdio server.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import platform
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from pydantic import Field

from ..plugin import (
    Answer,
    ApproverContext,
    ApproverType,
    Assurance,
    Challenge,
    PluginError,
    Principal,
    Reply,
    Settings,
)
from .console_dialogue import Dialogue
from .terminal import Terminal, TerminalLost, Until, Withdrawn, problem

TERMINAL: Final = "/dev/tty"
SETTLE: Final = 0.5
"""Seconds between a question and its prompt; what is typed before the prompt answers nothing."""
logger: Final = logging.getLogger("mcp_macaroon_middleware")


class ConsoleSettings(Settings):
    """`terminal` is the path of the terminal; with `required: true` a server without it does not start."""

    terminal: str = Field(default=TERMINAL, pattern="^/", description="The path of the terminal.")
    required: bool = Field(default=False, description="Whether the server must not start without the terminal.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    """An open question, and where its answer goes. `deadline` is on the monotonic clock."""

    challenge: Challenge = field(repr=False)
    deadline: float
    answer: Future[Answer] = field(default_factory=Future)


class ConsoleApprover:
    """Asks the person at the terminal, in the order in which it was asked. For any number of threads and event loops.

    While questions are open, one thread shows them and waits; nothing is held open otherwise. A question ends at its
    `expires`, by this computer's clock, even if nobody cancels it.
    """

    def __init__(self, terminal: str = TERMINAL, *, timeout: float = 120.0, settle: float = SETTLE) -> None:
        self._path = terminal
        self._timeout = timeout
        self._settle = settle
        self._guard = threading.Lock()
        self._queue: deque[_Asked] = deque()
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] = (-1, -1)
        self._closed = False
        self._operator = Principal(kind="operator", namespace=platform.node(), subject=_user())

    def __repr__(self) -> str:
        return f"ConsoleApprover({self._path!r})"

    def available(self) -> bool:
        """Whether the terminal is there, in the foreground, and nobody else's just now."""
        return not self._closed and not problem(self._path)

    async def ask(self, challenge: Challenge) -> Answer:
        """What the person chose. Ctrl-D is `cancelled`; four lines that are no answer are `invalid`.

        When it is cancelled the question is withdrawn at once and the next one is asked.
        """
        asked = _Asked(challenge=challenge, deadline=self._deadline(challenge))
        if not self._put(asked):
            return Answer(ending="failed")
        try:
            answer = await asyncio.wrap_future(asked.answer)
            return replace(answer, by=self._operator) if answer.ending == "answered" else answer
        finally:
            self._drop(asked)

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """It sends no forms, so nothing can be a reply."""
        return Answer(ending="invalid")

    async def close(self) -> None:
        """Withdraws every question, and gives the terminal back."""
        with self._guard:
            self._closed = True
            for asked in self._queue:
                _settle(asked, Answer(ending="cancelled"))
            self._rouse()
            thread = self._thread
        end = time.monotonic() + 2
        while thread is not None and thread.is_alive() and time.monotonic() < end:  # noqa: ASYNC110 - a thread
            await asyncio.sleep(0.01)

    # --- the queue ------------------------------------------------------------------------------------------------

    def _deadline(self, challenge: Challenge) -> float:
        left = self._timeout
        if challenge.expires is not None:
            left = (challenge.expires - datetime.now(UTC)).total_seconds()
        return time.monotonic() + left

    def _put(self, asked: _Asked) -> bool:
        with self._guard:
            if self._closed:
                return False
            if self._thread is None:
                self._start()
            self._queue.append(asked)
            return True

    def _start(self) -> None:
        """The thread that asks; it begins when the guard is released."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        thread = threading.Thread(target=self._work, name="console approver", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            os.close(reading)
            os.close(writing)
            raise
        self._thread, self._wake = thread, (reading, writing)

    def _drop(self, asked: _Asked) -> None:
        """Nobody waits for it any more. The one that is being asked is left to the thread, which wakes up."""
        with self._guard:
            asked.answer.cancel()
            if asked in self._queue and asked is not self._queue[0]:
                self._queue.remove(asked)
            self._rouse()

    def _rouse(self) -> None:
        if self._thread is not None:
            with contextlib.suppress(BlockingIOError):  # it is full of wake-ups
                os.write(self._wake[1], b"\0")

    # --- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        # A job in the background would be stopped by its terminal; with these blocked it is told so instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN, signal.SIGTTOU})
        while (asked := self._next()) is not None:
            answer = self._answer(asked)
            with self._guard:
                self._queue.remove(asked)
            _settle(asked, answer)

    def _next(self) -> _Asked | None:
        with self._guard:
            if self._queue:
                return self._queue[0]
            for end in self._wake:
                os.close(end)
            self._thread = None
            return None

    def _answer(self, asked: _Asked) -> Answer:
        """What comes of it; whatever goes wrong is no approval."""
        until = Until(wake=self._wake[0], deadline=asked.deadline, over=asked.answer.done)
        try:
            until.check()
            with Terminal(self._path) as terminal:
                return self._dialogue(terminal, until, asked.challenge)
        except Withdrawn:
            return Answer(ending="cancelled")
        except TimeoutError:
            return Answer(ending="timeout")
        except TerminalLost as error:
            logger.warning("the console approver cannot ask: %s", error)
        except Exception as error:
            logger.error("the console approver failed: %s", type(error).__name__)
        return Answer(ending="failed")

    def _dialogue(self, terminal: Terminal, until: Until, challenge: Challenge) -> Answer:
        try:
            return Dialogue(terminal, until, waiting=self._waiting, settle=self._settle).ask(challenge)
        except Withdrawn:
            terminal.mention("\nwithdrawn: nobody waits for this answer any more\n\n")
            raise
        except TimeoutError:
            terminal.mention("\nwithdrawn: the time is over\n\n")
            raise

    def _waiting(self) -> int:
        with self._guard:
            return len(self._queue) - 1


def _user() -> str:
    """The name of the user whose process asks, or its number where there is no name for it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "operator"


def _settle(asked: _Asked, answer: Answer) -> None:
    with contextlib.suppress(InvalidStateError):  # it was cancelled
        asked.answer.set_result(answer)


def _open(context: ApproverContext) -> ConsoleApprover:
    settings = context.settings if isinstance(context.settings, ConsoleSettings) else ConsoleSettings()
    missing = problem(settings.terminal)
    if missing and settings.required:
        raise PluginError(
            f"the console approver cannot ask: {missing}; start the server in the foreground of a terminal, name "
            "another with  plugins: {console: {terminal: /dev/pts/N}},  or leave out  required: true"
        )
    if missing:
        logger.warning("the console approver can ask nobody yet: %s", missing)
    return ConsoleApprover(settings.terminal, timeout=context.timeout)


TYPE: Final = ApproverType(
    name="console",
    open=_open,
    assurance=Assurance.OPERATOR,
    settings=ConsoleSettings,
    summary="Asks on the server's own terminal.",
)
