"""Scenes in which a person is asked: what is read, what each choice does, and what an attacker gains by an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mcp_types
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from ...core.sealing import Sealer
from ...model import Grant
from ...tokens import KeyRing
from ...tokens.grants import read_grant, sign_grant
from ...tokens.keys import new_secret
from .stage import Scene, Stage, call
from .world import AUDIENCE

SPACE: Final = "approvals/"
"""What the names of stored approvals begin with."""

CAROL: Final = "carol@example.org"
MALLORY: Final = "mallory@evil.example"


class Person:
    """Who sits at the client: chooses in each form what the script says, and remembers what it read."""

    def __init__(self, stage: Stage, says: str) -> None:
        self.says = says
        self.read: list[str] = []
        self.had_run: list[int] = []
        self._ran = stage.world.ran
        self._fields: Mapping[str, Any] = {}

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> ElicitResult[Any]:
        """Answers one form; `had_run` notes how many calls had run by then."""
        self.read.append(message)
        self.had_run.append(len(self._ran))
        self._fields = params.requested_schema["properties"]
        return ElicitResult(action="accept", content=dict.fromkeys(self._fields, self.says))

    @property
    def dialog(self) -> str:
        """The last question with its choices and the one that was taken, as they would stand in a dialog."""
        lines = [self.read[-1], ""] if self.read else ["nobody was asked"]
        for option in [option for field in self._fields.values() for option in field["oneOf"]]:
            lines.append(f"  ({'•' if option['const'] == self.says else ' '}) {option['title']}")
        return "\n".join(lines)

    @property
    def times(self) -> str:
        """How often this person was asked, in words."""
        return f"{len(self.read)} time" + ("" if len(self.read) == 1 else "s")


async def once(stage: Stage) -> None:
    """This call, once."""
    person = Person(stage, "once")
    async with stage.world.client("bob", person) as bob:
        ran, saw = await call(bob, "forward_mail", id=1, to=CAROL)
        right = f'to: "{CAROL}"' in person.dialog and person.had_run == [0]
        stage.show(
            "bob's agent forwards a mail; before it runs, bob reads this, and takes the second", person.dialog, right
        )
        stage.show("the call runs", saw, ran)
        await call(bob, "forward_mail", id=1, to=CAROL)
        stage.show("the agent makes the same call again; bob has been asked", person.times, len(person.read) == 2)


async def minutes(stage: Stage) -> None:
    """For minutes."""
    person = Person(stage, "period")
    async with stage.world.client("bob", person) as bob:
        ran, saw = await call(bob, "forward_mail", id=1, to=CAROL)
        stage.show(
            "bob's agent forwards mail 1; bob reads this, and takes the last",
            person.dialog,
            "for 15 min" in person.dialog,
        )
        stage.show("the call runs", saw, ran)
        for number in (2, 3):
            ran, saw = await call(bob, "forward_mail", id=number, to=CAROL)
            stage.show(f"it forwards mail {number}; nobody is asked", saw, ran and len(person.read) == 1)
    other = Person(stage, "deny")
    async with stage.world.client("alice", other) as alice:
        ran, saw = await call(alice, "forward_mail", id=1, to=CAROL)
        right = not ran and len(other.read) == 1
        stage.show("it is bob's approval: alice's agent tries, alice is asked herself, and says no", saw, right)


async def declined(stage: Stage) -> None:
    """No."""
    person = Person(stage, "deny")
    async with stage.world.client("bob", person) as bob:
        ran, saw = await call(bob, "forward_mail", id=1, to=MALLORY)
        stage.show("the agent forwards a mail; bob says no", saw, not ran and len(person.read) == 1)
        for number in ("second", "third"):
            ran, saw = await call(bob, "forward_mail", id=1, to=MALLORY)
            right = not ran and "[declined]" in saw and len(person.read) == 1
            stage.show(f"it tries a {number} time; nobody is asked", saw, right)
        await call(bob, "forward_mail", id=1, to=CAROL)
        stage.show(
            "it tries another address, which is a new question; bob has been asked", person.times, len(person.read) == 2
        )
        stage.show("what has run", stage.world.ran, stage.world.ran == [])


async def field(stage: Stage) -> None:
    """A field, asked for after the call."""
    person = Person(stage, "deny")
    async with stage.world.client("bob", person) as bob:
        _, saw = await call(bob, "read_contact", name="Carol")
        right = "Show email?" in person.dialog and person.had_run == [1]
        stage.show("the agent reads a contact; the call runs, its result waits, and bob reads", person.dialog, right)
        stage.show("he says no: the rest is shown", saw, saw == {"name": "Carol"})
        person.says = "once"
        _, saw = await call(bob, "read_contact", name="Dave")
        stage.show("for another contact he says yes", saw, saw == {"name": "Dave", "email": "dave@example.org"})
    right = stage.world.ran == ["read_contact Carol", "read_contact Dave"]
    stage.show("what has run: each of them once", stage.world.ran, right)


# --- attacks --------------------------------------------------------------------------------------------------------


async def replayed(stage: Stage) -> None:
    """An approval, sent again."""
    person = Person(stage, "once")
    async with stage.world.client("bob", person) as bob:
        await (_replayed if stage.world.era is None else _replayed_push)(stage, bob, person)
    stage.show("what has run", stage.world.ran, stage.world.ran == [f"forward_mail 1 {CAROL}"])


async def _replayed(stage: Stage, bob: Client[Any], person: Person) -> None:
    """Today an answer travels with a repeat of the call, so that whoever has it can send it again."""
    answer, state = await _answered(bob)
    saw = await _sent(bob, CAROL, answer, state)
    stage.show("bob agrees, and his answer is sent", saw, "forwarded" in saw)
    for number in ("second", "third"):
        saw = await _sent(bob, CAROL, answer, state)
        stage.show(f"the same answer is sent a {number} time", saw, "[grant_used]" in saw)
    answer, state = await _answered(bob)
    saw = await _sent(bob, MALLORY, answer, state)
    stage.show("bob agrees again, and his answer is sent with another address", saw, "[approval_stale]" in saw)
    stage.show("an answer is made up, to a question that nobody asked", *await _made_up(bob, person))


async def _replayed_push(stage: Stage, bob: Client[Any], person: Person) -> None:
    """Before, the server asked while the call waited: an answer that comes with a call is none."""
    ran, saw = await call(bob, "forward_mail", id=1, to=CAROL)
    stage.show("bob agrees while the call waits", saw, ran)
    person.says = "deny"
    ran, saw = await call(bob, "forward_mail", id=1, to=CAROL)
    stage.show("the same call again: bob is asked again, and says no", saw, not ran and len(person.read) == 2)
    stage.show("an answer is sent along with a new call, as today's protocol has it", *await _made_up(bob, person))


async def _answered(bob: Client[Any]) -> tuple[dict[str, Any], str | None]:
    """A call that is asked about, with bob's yes: what his client would send back."""
    asked = await bob.session.call_tool("forward_mail", {"id": 1, "to": CAROL}, allow_input_required=True)
    if not isinstance(asked, mcp_types.InputRequiredResult):
        return {}, None
    yes = mcp_types.ElicitResult(action="accept", content={"choice": "once"})
    return dict.fromkeys(asked.input_requests or {}, yes), asked.request_state


async def _made_up(bob: Client[Any], person: Person) -> tuple[str, bool]:
    """What an answer does that nobody gave: the call is asked about, or refused; bob, if he is asked, says no."""
    person.says = "deny"
    yes = mcp_types.ElicitResult(action="accept", content={"choice": "once"})
    saw = await _sent(bob, MALLORY, {"macaroon-0": yes}, "mcp-macaroon:{}")
    return saw, any(code in saw for code in ("[declined]", "[approval_stale]"))


async def _sent(client: Client[Any], to: str, answer: Any, state: str | None) -> str:
    result = await client.session.call_tool(
        "forward_mail", {"id": 1, "to": to}, input_responses=answer, request_state=state, allow_input_required=True
    )
    content = getattr(result, "content", None)
    return str(content[0].text) if content else "asked again"


async def forged(stage: Stage) -> None:
    """Grants that somebody with the store changes, makes and moves."""
    store: Any = stage.world.guard.runtime.store
    bob_says, alice_says = Person(stage, "period"), Person(stage, "period")
    async with stage.world.client("bob", bob_says) as bob, stage.world.client("alice", alice_says) as alice:
        await call(bob, "forward_mail", id=1, to=CAROL)
        (mine,) = await _grants(store)
        ran, _ = await call(bob, "forward_mail", id=2, to=CAROL)
        stage.show("bob allows it for minutes; the store keeps", f"{mine[:40]}…", ran and len(bob_says.read) == 1)
        await call(alice, "forward_mail", id=3, to=CAROL)
        hers = next(name for name in await _grants(store) if name != mine)
        honest = (await _grants(store))[mine]
        bob_says.says = alice_says.says = "deny"
        for number, (what, name, value) in enumerate(_forgeries(stage, mine, hers, honest), 4):
            await store.put(name, value, 600.0)
            who, client, person = ("bob", bob, bob_says) if name == mine else ("alice", alice, alice_says)
            before = len(person.read)
            ran, saw = await call(client, "forward_mail", id=number, to=MALLORY)
            stage.show(f"{what}; {who} is asked, and says no", saw, not ran and len(person.read) == before + 1)
        await store.put(mine, honest, 600.0)
        ran, saw = await call(bob, "forward_mail", id=9, to=CAROL)
        stage.show("bob's own grant is put back as it was; nobody is asked", saw, ran and len(bob_says.read) == 3)


def _forgeries(stage: Stage, mine: str, hers: str, honest: bytes) -> list[tuple[str, str, bytes]]:
    """What an attacker puts into the store: in words, under which name, and the bytes."""
    keys, name = stage.world.guard.runtime.keys, mine.removeprefix(SPACE)
    text = Sealer(keys, AUDIENCE).open("record", name, honest).decode()
    made = _forged(read_grant(keys, text, audience=AUDIENCE), name)
    return [
        ("an attacker flips one bit of it", mine, honest[:-1] + bytes([honest[-1] ^ 1])),
        ("he writes one with the very same facts under a key of his own", mine, made),
        ("he puts bob's where alice's was", hers, honest),
    ]


def _forged(grant: Grant, name: str) -> bytes:
    """The grant as somebody would write it who knows all of it, its key's id too, but not the key."""
    own = KeyRing({grant.key_id: new_secret().encode()}, grant.key_id)
    return Sealer(own, AUDIENCE).seal("record", name, sign_grant(own, grant).encode())


async def _grants(store: Any) -> dict[str, bytes]:
    """Everything that the store keeps of approvals, by name: what whoever reads the store sees."""
    found, _ = await store.scan(f"{SPACE}grant/", None, 100)
    return {name: entry.value for name, entry in found}


ASKING: Final = (
    Scene("once", "Asked, once", "A person sees the exact call before it runs.", once, ("forward_mail",)),
    Scene("minutes", "Asked, for minutes", "An approval lasts as long as it says, for its caller.", minutes),
    Scene("declined", "Declined", "A no is remembered for a while: a loop asks once.", declined),
    Scene(
        "field",
        "A field, after the call",
        "The call runs once; a part of its result waits for a person.",
        field,
        ("read_contact",),
    ),
    Scene("replayed", "An approval, replayed", "An answer counts once, for the call that it was given for.", replayed),
    Scene("forged", "A forged grant", "Whoever can write to the store can allow nothing.", forged),
)
