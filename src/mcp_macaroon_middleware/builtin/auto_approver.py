"""The `auto` approver: gives one fixed answer, for tests. It asks nobody, so it refuses to serve for real."""

from __future__ import annotations

from typing import Final, Literal

from ..plugin import (
    DENY,
    Answer,
    ApproverContext,
    ApproverType,
    Assurance,
    Challenge,
    PluginError,
    Reply,
    Settings,
)


class AutoSettings(Settings):
    """`answer` is what it always chooses, where that is offered; `testing: true` says that nobody needs asking."""

    answer: Literal["deny", "once", "period"] = "deny"
    testing: bool = False


class AutoApprover:
    """Chooses the same for every question; where it is not offered, `deny`."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def __repr__(self) -> str:
        return f"AutoApprover({self._answer!r})"

    def available(self) -> bool:
        """Always."""
        return True

    async def ask(self, challenge: Challenge) -> Answer:
        """The fixed answer."""
        offered = [[choice.name for choice in choices] for choices in challenge.choices]
        return Answer.chosen(*(self._answer if self._answer in names else DENY for names in offered))

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """It sends no forms, so nothing can be a reply."""
        return Answer(ending="invalid")

    async def close(self) -> None:
        """Holds nothing."""


def _open(context: ApproverContext) -> AutoApprover:
    settings = context.settings if isinstance(context.settings, AutoSettings) else AutoSettings()
    if context.mode != "shadow" and not settings.testing:
        raise PluginError(
            "the auto approver asks nobody; it serves only with  mode: shadow  or  plugins: {auto: {testing: true}}"
        )
    return AutoApprover(settings.answer)


TYPE: Final = ApproverType(
    name="auto",
    open=_open,
    assurance=Assurance.NONE,
    settings=AutoSettings,
    summary="One fixed answer, for tests.",
)
