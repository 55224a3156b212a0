"""The `mcp` approver: asks through the caller's own client. It proves a cooperating client, never a person."""

from __future__ import annotations

from typing import Any, Final

from ..plugin import (
    DENY,
    Answer,
    ApproverContext,
    ApproverType,
    Assurance,
    Challenge,
    Form,
    FormField,
    Pending,
    Phase,
    Reply,
)

MOST: Final = 8_000
"""Characters of a question that clients can be trusted to show whole."""


class McpApprover:
    """Turns a challenge into a form of required choices, each preset to `deny`, and reads what the client sent back."""

    def __repr__(self) -> str:
        return "McpApprover()"

    def available(self) -> bool:
        """Whether a client can show a form is known to the adapter, for each request."""
        return True

    async def ask(self, challenge: Challenge) -> Pending:
        """The form. It never waits."""
        return Pending(form=Form(message=challenge.message, fields=tuple(_fields(challenge))))

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """The choices, if every one of them was offered. An accepted form without them is no answer."""
        if reply.action == "decline":
            return Answer(ending="declined")
        if reply.action != "accept":
            return Answer(ending="cancelled")
        chosen: list[str] = []
        for field in _fields(challenge):
            value: Any = reply.content.get(field.name)
            if not isinstance(value, str) or value not in [option.name for option in field.options]:
                return Answer(ending="invalid")
            chosen.append(value)
        return Answer.chosen(*chosen)

    async def close(self) -> None:
        """Holds nothing."""


def _fields(challenge: Challenge) -> list[FormField]:
    if challenge.phase is Phase.BEFORE:
        return [FormField(name="choice", title="Your answer", options=challenge.choices[0], default=DENY)]
    return [
        FormField(name=f"choice_{number}", title=question.text, options=options, default=DENY)
        for number, (question, options) in enumerate(zip(challenge.questions, challenge.choices, strict=True), 1)
    ]


def _open(context: ApproverContext) -> McpApprover:
    return McpApprover()


TYPE: Final = ApproverType(
    name="mcp",
    open=_open,
    assurance=Assurance.CLIENT,
    in_band=True,
    most=MOST,
    summary="Asks through the caller's MCP client.",
)
