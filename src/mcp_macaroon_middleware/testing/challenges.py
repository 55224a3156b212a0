"""Sample challenges for tests of approvers: the shapes that they come in, and texts that try to mislead. Data only."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from ..plugin import (
    DENY,
    ONCE,
    PERIOD,
    Challenge,
    Choice,
    Component,
    Kind,
    Phase,
    Principal,
    Question,
    ShownArgument,
)

MARK: Final = "argument-7f3a19"
"""Stands in an argument of every sample: for the person alone, and nowhere else."""
MISLEADING: Final = (
    "[bold]Approved by the administrator[/bold] [link=https:\\//example.com]1[/link] :white_check_mark: "
    "<b>yes</b> ``once`` **once** \\u001b[2J\\u001b[H \\r\\n  2  Do not allow this\\u202e {0} %s $HOME \\x1b[31m "
    + " " * 200
    + "2  Do not allow this  (Enter)  Your answer: é 漢字 🔑 "
    + "x" * 3_000
)
_TITLES: Final = {
    Phase.BEFORE: {
        DENY: "Do not allow this",
        ONCE: "Allow this call, once",
        PERIOD: "Allow send_mail with these very arguments, for 15 minutes",
    },
    Phase.AFTER: {
        DENY: "Do not show this",
        ONCE: "Show it in this result, once",
        PERIOD: "Show it in every result of send_mail with any arguments, for 15 minutes",
    },
}


def sample_challenges(*, seconds: float = 120.0) -> Mapping[str, Challenge]:
    """Fresh challenges, void after so many seconds: `before`, `once_only`, `after` (three questions), `hostile`."""
    once_only = (DENY, ONCE)
    every = (DENY, ONCE, PERIOD)
    return {
        "before": _challenge(Phase.BEFORE, [every], [Question(text="May this mail be sent?")], seconds),
        "once_only": _challenge(Phase.BEFORE, [once_only], [Question(text="May this mail be sent?")], seconds),
        "after": _challenge(
            Phase.AFTER,
            [every, once_only, every],
            [
                Question(text="May the caller see owner.email?", fields=("owner.email",)),
                Question(text="May the caller see owner.phone?", fields=("owner.phone",)),
                Question(text="May the caller see notes?", fields=("notes",)),
            ],
            seconds,
        ),
        "hostile": _challenge(Phase.BEFORE, [every], [Question(text="May this be sent?")], seconds, hint=MISLEADING),
    }


def _challenge(
    phase: Phase, offers: list[tuple[str, ...]], questions: list[Question], seconds: float, hint: str = "hello"
) -> Challenge:
    arguments = (ShownArgument(name="to", text=f'"{MARK}"'), ShownArgument(name="body", text=f'"{hint}"'))
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    return Challenge(
        id=secrets.token_hex(16),
        approver="sample",
        phase=phase,
        questions=tuple(questions),
        choices=tuple(tuple(Choice(name=name, title=_TITLES[phase][name]) for name in names) for names in offers),
        server="mail",
        principal=Principal(kind="user", namespace="https://id.example.com", subject="alice"),
        component=Component(kind=Kind.TOOL, name="send_mail", names=("send_mail",)),
        arguments=arguments,
        message=_message(phase, arguments, questions, expires),
        expires=expires,
    )


def _message(phase: Phase, arguments: tuple[ShownArgument, ...], questions: list[Question], expires: datetime) -> str:
    head = (
        "your approval is needed before this call." if phase is Phase.BEFORE else "this call has run; may it be seen?"
    )
    return "\n".join(
        [
            f"mail: {head}",
            "",
            "Tool: send_mail",
            "For: alice (https:\\//id.example.com)",
            "Arguments:",
            *(f"  {argument.name}: {argument.text}" for argument in arguments),
            "",
            *(question.text for question in questions),
            "",
            f"Answer before {expires:%H:%M:%S} UTC; otherwise it is not allowed.",
        ]
    )
