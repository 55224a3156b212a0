"""The dialogue of the `console` approver: how a challenge stands on a terminal, and which lines answer it.

It never takes a line that was typed before its question, nor one that is not exactly an offered number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Final

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from ..plugin import DENY, Answer, Challenge, Choice, Phase
from .terminal import Terminal, Until

AGAIN: Final = 3
"""How often a line that is no answer is asked for again."""
NARROWEST: Final = 20
INDENT: Final = "  "
FOLDED: Final = "+ "


class NotAnswered(Exception):
    """The person gave no answer; `answer` says how it ended."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.ending)
        self.answer = answer


class Dialogue:
    """Puts one challenge to the person at `terminal`. `waiting` counts the questions after this one.

    Before each prompt `settle` seconds pass and everything typed so far is dropped: what was on its way to another
    question, or was typed before this one could be read, answers nothing.
    """

    def __init__(self, terminal: Terminal, until: Until, *, waiting: Callable[[], int], settle: float) -> None:
        self._terminal = terminal
        self._until = until
        self._waiting = waiting
        self._settle = settle

    def ask(self, challenge: Challenge) -> Answer:
        """The answer, one choice a list. Raises `Withdrawn`, `TimeoutError`, `TerminalLost`, `ValueError`."""
        lists = list(_lists(challenge))
        try:
            self._show(challenge.message)
            return Answer.chosen(*[self._choice(title, choices) for title, choices in lists])
        except NotAnswered as end:
            self._say(Text(f"{end.answer.ending}: nothing is allowed\n", style="yellow"))
            return end.answer

    def _show(self, message: str) -> None:
        rows = [row for line in message.split("\n") for row in self._folded(line)]
        self._say(Rule("approval", characters="-", style="bold"), *map(Text, rows), Text())
        if len(rows) > self._terminal.size[1] - 8:
            self._say(Text(f"({len(rows)} lines: scroll up to read all of them)", style="bold yellow"))

    def _choice(self, title: str, choices: Sequence[Choice]) -> str:
        """The name of what the person chose. Raises `NotAnswered`."""
        offers = {str(number): choice for number, choice in enumerate(choices, 1)}
        self._say(*(Text(row, style="bold") for row in self._folded(title)), *self._numbered(choices))
        for _ in range(1 + AGAIN):
            chosen = offers.get(self._line(len(offers)))
            if chosen is not None:
                self._say(Text(f"{chosen.name}\n", style="red" if chosen.name == DENY else "green"))
                return chosen.name
            self._say(Text("That is none of the numbers.", style="yellow"))
        raise NotAnswered(Answer(ending="invalid"))

    def _line(self, offers: int) -> str:
        """What is typed at a fresh prompt; an empty line is the first offer. Raises `NotAnswered` at Ctrl-D."""
        self._terminal.rest(self._settle, self._until)
        self._terminal.forget()
        numbers = "1" if offers == 1 else f"1-{offers}"
        self._terminal.say(f"{self._state()}\nYour answer, {numbers} [1]: ", self._until)
        typed = self._terminal.line(self._until)
        if typed is None:
            self._terminal.say("\n", self._until)
            raise NotAnswered(Answer(ending="cancelled"))
        return typed.strip(b" ").decode("ascii", "replace") or "1"

    def _state(self) -> str:
        """`expires in 120 s; 2 more questions wait`."""
        expires = f"expires in {math.ceil(self._until.check())} s"
        waiting = self._waiting()
        if not waiting:
            return expires
        return f"{expires}; {waiting} more question{' waits' if waiting == 1 else 's wait'}"

    def _numbered(self, choices: Sequence[Choice]) -> Iterator[Text]:
        for number, choice in enumerate(choices, 1):
            line = f"{number}  {choice.title}{'  (Enter)' if number == 1 else ''}"
            yield from (Text(row, style="bold" if number == 1 else "") for row in self._folded(line))

    def _folded(self, line: str) -> list[str]:
        """The rows of a line. All but the first are marked, so that no part of a long one can pass for a line."""
        first, *rest = _cut(self._terminal.spelled(_visible(line)), max(self._terminal.size[0], NARROWEST) - 3)
        return [INDENT + first, *(FOLDED + part for part in rest)]

    def _say(self, *parts: Text | Rule) -> None:
        self._terminal.say(rendered(parts, self._terminal.size[0]), self._until)


def rendered(parts: Sequence[Text | Rule], columns: int) -> str:
    """The parts as a terminal takes them, a line each: no markup is read; without colours where they are not wanted."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") in ("dumb", "")
    console = Console(
        file=StringIO(),
        width=max(columns, NARROWEST),
        color_system=None if plain else "standard",
        force_terminal=not plain,
        force_jupyter=False,
        no_color=plain,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    return capture.get()


def _lists(challenge: Challenge) -> Iterator[tuple[str, tuple[Choice, ...]]]:
    """Each list of choices with its title. Raises `ValueError` where one has no safe first choice."""
    if any(not choices or choices[0].name != DENY for choices in challenge.choices) or not challenge.choices:
        raise ValueError("the first choice of a list is no deny")
    if challenge.phase is Phase.BEFORE:
        yield "Choices:", challenge.choices[0]
        return
    for number, (question, choices) in enumerate(zip(challenge.questions, challenge.choices, strict=True), 1):
        yield f"{number} of {len(challenge.choices)}: {question.text}", choices


def _cut(line: str, width: int) -> Iterator[str]:
    """Parts that fill a row at most: terminals disagree on the width of what is not ASCII, so that counts as two."""
    start = used = 0
    for end, char in enumerate(line):
        cells = 1 if char.isascii() else 2
        used += cells
        if used > width:
            yield line[start:end]
            start, used = end, cells
    yield line[start:]


def _visible(text: str) -> str:
    """Text without anything that a terminal would obey; of an escaped text nothing is changed."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
