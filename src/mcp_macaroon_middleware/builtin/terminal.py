"""The operator's terminal: shows texts, and reads lines that are typed now. It never uses standard input or output."""

from __future__ import annotations

import contextlib
import locale
import os
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

try:
    import termios
except ImportError:  # pragma: no cover - Windows
    termios = None  # type: ignore[assignment]

AT_ONCE: Final = 4096
"""Bytes read at a time; a terminal hands out no longer line."""
LONGEST: Final = 2 * AT_ONCE
_Selector: Final = selectors.PollSelector if sys.platform == "linux" else selectors.SelectSelector


class Withdrawn(Exception):
    """Nobody waits for the answer any more."""


class TerminalLost(Exception):
    """The terminal cannot be asked on; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """When waiting ends: at `deadline`, on the monotonic clock, or once `over` after a byte came to `wake`."""

    wake: int
    deadline: float
    over: Callable[[], bool]

    def check(self) -> float:
        """The seconds that are left. Raises `Withdrawn`, or `TimeoutError` when there are none."""
        if self.over():
            raise Withdrawn
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def problem(path: str) -> str:
    """Why nobody can be asked at that terminal just now; empty where somebody can. It never waits."""
    try:
        with Terminal(path):
            return ""
    except TerminalLost as error:
        return str(error)


class Terminal:
    """A terminal, opened for one question. It never becomes the controlling one, and its modes stay as they are.

    Raises `TerminalLost` when there is none, when the server runs in the background of its shell (to read would stop
    it), and when another program reads its keys one by one, for then what is typed is meant for that program.
    """

    def __init__(self, path: str) -> None:
        if termios is None:  # pragma: no cover - Windows
            raise TerminalLost("this system has no such terminals")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise TerminalLost(f"there is no terminal at {path}: {error.strerror}") from None
        self._encoding = locale.getencoding()
        try:
            self.require()
        except TerminalLost:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)

    def require(self) -> None:
        """Raises `TerminalLost` unless a line that is typed now would come here."""
        try:
            local_modes = termios.tcgetattr(self._descriptor)[3]
        except termios.error:
            raise TerminalLost("it is no terminal, or it was closed") from None
        if not local_modes & termios.ICANON:
            raise TerminalLost("another program reads the keys of the terminal")
        try:
            in_front = os.tcgetpgrp(self._descriptor)
        except OSError:  # not our controlling terminal, so there is no job control for us
            return
        if in_front != os.getpgrp():
            raise TerminalLost("the server runs in the background of its terminal")

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and rows; 80 and 24 where it does not say."""
        try:
            columns, rows = os.get_terminal_size(self._descriptor)
        except OSError:
            return 80, 24
        return columns or 80, rows or 24

    def spelled(self, text: str) -> str:
        """The text as it will stand there: what its encoding lacks is an escape."""
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    def say(self, text: str, until: Until) -> None:
        """Shows the text, as `spelled`. Waits while the terminal is held up."""
        left = memoryview(text.encode(self._encoding, "backslashreplace"))
        while left:
            self._wait(selectors.EVENT_WRITE, until)
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise TerminalLost(f"the terminal cannot be written: {error.strerror}") from None

    def mention(self, text: str) -> None:
        """Shows a short text if that needs no waiting."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode(self._encoding, "backslashreplace"))

    def rest(self, seconds: float, until: Until) -> None:
        """Lets that much time pass."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._wait(0, until, left)

    def forget(self) -> None:
        """Drops all that was typed so far, a half line as well."""
        try:
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
        except termios.error:
            raise TerminalLost("the terminal was closed") from None

    def line(self, until: Until) -> bytes | None:
        """The next line that is typed, without its end and cut at 8192 bytes; None at the end of input (Ctrl-D)."""
        typed = b""
        while True:
            self._wait(selectors.EVENT_READ, until)
            try:
                part = os.read(self._descriptor, AT_ONCE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise TerminalLost(f"the terminal cannot be read: {error.strerror}") from None
            if not part:
                self.require()
                return None
            typed = (typed + part)[:LONGEST]
            if b"\n" in part:
                return typed.partition(b"\n")[0]

    def _wait(self, events: int, until: Until, most: float | None = None) -> None:
        """Until the terminal is ready for `events`; with `most`, for so many seconds, or less."""
        with _Selector() as selector:
            selector.register(until.wake, selectors.EVENT_READ)
            if events:
                selector.register(self._descriptor, events)
            while True:
                left = until.check()
                ready = [key.fd for key, _ in selector.select(left if most is None else min(left, most))]
                if until.wake in ready:
                    _drain(until.wake)
                if self._descriptor in ready or most is not None:
                    until.check()
                    return


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, AT_ONCE)
