"""L4 and L5 as a stateful property: whatever happens in whatever order, an approval allows what it said and no more.

Callers ask, answer, answer for each other, repeat and change their calls; servers restart, lose their store, get a
backup of it back, reload their policy, rotate keys; clocks go on and back. A small model of its own says for every call
that runs which answer allowed it. The model knows nothing of the engine's parts.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lab import ALICE, BOB, KEY, Records, open_approvers, plan_of
from redis_server import any_kind, opened, running

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.asks import Asking
from mcp_macaroon_middleware.core.audit import AuditLog, SinkSlot
from mcp_macaroon_middleware.core.decisions import Decision
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.fields import redact
from mcp_macaroon_middleware.model import Component, Effect, Kind, Reply, RequestContext, Result
from mcp_macaroon_middleware.tokens import KeyRing

EXPIRY = 300
TIMEOUT = 120

CALLERS = [(ALICE, "one"), (ALICE, "two"), (BOB, "one")]
TOOLS = ["send", "wipe", "user", "card"]
ARGUMENTS = [{"to": "ann"}, {"to": "bob"}]
CHOICES = ["once", "period", "deny", "cancel", "junk"]
BASE = [
    "bf:send:tool_access:elicit",
    "bf:wipe:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
    "bf:card:tool_access:elicit",
    "af:card:field_access:elicit:email",
    "af:card:field_access:elicit:phone",
]
POLICIES: dict[str, list[Any]] = {
    "base": BASE,
    "longer": [*BASE, "bf:send:rate_limit:allow:100000/hour", "bf:other:tool_access:allow"],
    "forbids": [*BASE, "bf:send:tool_access:deny", "af:user:field_access:deny:email"],
    "shorter": [*BASE[1:], {"before": "send", "policy": "tool_access", "action": "elicit", "scopes": ["once"]}],
}
DOCUMENT = {"id": 1, "email": "a@b", "phone": "1"}
Part = tuple[str, str]
"""A phase and, after the call, a field."""


class Clock:
    """Everybody's time: the servers' and the store's."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()


@dataclass(eq=False)
class Question:
    """What was asked: of whom, about which call, what for. `parts` names what each field of the form is about."""

    caller: int
    tool: str
    arguments: int
    phase: str
    challenge: Any
    parts: list[Part]
    policy: str
    world: int
    until: float
    held: bool
    answers: int = 0
    used: bool = False


@dataclass(eq=False)
class Grant:
    """An answer that allows for a period."""

    caller: int
    tool: str
    part: Part
    until: float
    world: int
    arguments: int | None = None


@dataclass
class Model:
    """What may run, by the answers that were given."""

    questions: list[Question] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    runs: dict[int, int] = field(default_factory=dict)

    def granted(self, caller: int, tool: str, arguments: int, part: Part, now: float, world: int) -> bool:
        """Whether an approval for a period covers this."""
        return any(
            (g.caller, g.tool, g.part, g.world) == (caller, tool, part, world)
            and now < g.until
            and g.arguments in (None, arguments)
            for g in self.grants
        )


class Approving(RuleBasedStateMachine):
    """One server at a time on a store that outlives it."""

    store: Any = None

    def fresh_store(self) -> Any:
        return MemoryStore(clock=self.clock.seconds)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.model = Model()
        self.world = 0
        self.key = secrets.token_hex(32)
        self.policy = "base"
        self.seen = self.clock.seconds()
        self.records = Records()
        self.kept: dict[str, Any] | None = None
        self.store = self.fresh_store()

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def start(self) -> None:
        audit = AuditLog([SinkSlot(name="list", sink=self.records, required=True)], digest_key=KEY)
        self.engine = PolicyEngine(
            plan_of(POLICIES[self.policy], elicit_expiry=EXPIRY, audience="laws"),
            store=self.store,
            audit=audit,
            keys=KeyRing.from_secret(self.key),
            approvers=open_approvers("mcp"),
            clock=self.clock,
        )

    # --- the world ------------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["restart", "restart", "lose the store", "change the key", "keep a copy", "put it back"])
    )
    def the_world_changes(self, what: str) -> None:
        """Processes end and begin, stores are lost and put back, keys change."""
        if what == "lose the store":
            self.do(self.store.close())
            self.store = self.fresh_store()
            self.kept = None
            self.world += 1
        elif what == "change the key":  # and the old one is gone: nothing from before counts
            self.key = secrets.token_hex(32)
            self.world += 1
        elif what == "keep a copy" and isinstance(self.store, MemoryStore):
            self.kept = copy.deepcopy(self.store._values)
            return
        elif what == "put it back":  # what was taken since must not count again: the server has seen a later store
            if self.kept is not None:
                self.store._values.clear()
                self.store._values.update(self.kept)
                self.kept = None
            return
        if what != "keep a copy":
            self.start()

    @rule(name=st.sampled_from(sorted(POLICIES)))
    def reload(self, name: str) -> None:
        self.policy = name
        self.engine.adopt(plan_of(POLICIES[name], elicit_expiry=EXPIRY, audience="laws"))

    @rule(seconds=st.sampled_from([1, 30, 100, 130, 200, 310, -5, -150, -3600]))
    def clocks_move(self, seconds: int) -> None:
        self.clock.at += timedelta(seconds=seconds)
        self.do(self.store.now())
        self.seen = max(self.seen, self.clock.seconds())

    # --- calls ----------------------------------------------------------------------------------------------------

    def request(self, caller: int, tool: str, arguments: int) -> RequestContext:
        principal, client = CALLERS[caller]
        component = Component(kind=Kind.TOOL, name=tool, names=(tool,), server="office")
        return RequestContext(
            principal=principal, client=client, component=component, arguments=ARGUMENTS[arguments], at=self.clock.now()
        )

    def decide(self, caller: int, tool: str, arguments: int, asking: Asking) -> Decision:
        request = self.request(caller, tool, arguments)

        async def values() -> Any:
            return ARGUMENTS[arguments]

        return self.do(self.engine.decide(request, arguments=values, raw=ARGUMENTS[arguments], asking=asking))

    @rule(caller=st.integers(0, 2), tool=st.sampled_from(TOOLS), arguments=st.integers(0, 1))
    def another_call(self, caller: int, tool: str, arguments: int) -> None:
        self.call(caller, tool, arguments)

    @rule(caller=st.integers(0, 2), tool=st.sampled_from(TOOLS), arguments=st.integers(0, 1))
    def call(self, caller: int, tool: str, arguments: int) -> None:
        """A first call: it runs if the rules or an earlier approval let it, or else a question is opened."""
        decision = self.decide(caller, tool, arguments, Asking(forms=True))
        if decision.effect is Effect.ASK:
            self.pose(decision, decision.challenges, caller, tool, arguments, "before", held=False)
            self.do(self.engine.asked(decision))
        elif decision.allowed:
            assert self.may_run(caller, tool, arguments), "a call ran that nobody approved"
            self.runs_and_ends(decision, caller, tool, arguments, {})

    @precondition(lambda self: self.model.questions)
    @rule(choice=st.sampled_from(CHOICES))
    def the_last_question_is_answered(self, choice: str) -> None:
        """By whoever was asked, for the call that was asked about, as most are."""
        self.answered(self.model.questions[-1], 0, True, True, choice, fails=False)

    @precondition(lambda self: self.model.questions)
    @rule(
        data=st.data(),
        who=st.integers(0, 2),
        mine=st.booleans(),
        same=st.booleans(),
        choice=st.sampled_from(CHOICES),
        fails=st.booleans(),
    )
    def answer(self, data: Any, who: int, mine: bool, same: bool, choice: str, fails: bool) -> None:
        """An answer: by whoever was asked or by somebody else, for the call that was asked about or another."""
        self.answered(data.draw(st.sampled_from(self.model.questions)), who, mine, same, choice, fails=fails)

    def answered(self, question: Question, who: int, mine: bool, same: bool, choice: str, *, fails: bool) -> None:
        caller = question.caller if mine else who
        arguments = question.arguments if same else 1 - question.arguments
        content = dict.fromkeys(self.form_fields(question), choice)
        reply = Reply(action="cancel") if choice == "cancel" else Reply(action="accept", content=content)
        asking = Asking(forms=True).answered({question.challenge.id: reply})
        counts = self.is_good(question, caller)
        good = counts and arguments == question.arguments
        decision = self.decide(caller, question.tool, arguments, asking)
        if counts and choice == "period":  # what it says of other calls counts even if this one has changed
            self.grant(question, caller)
        if caller == question.caller:
            question.used = True  # right or wrong, a question takes one answer
        if decision.effect is Effect.ASK:
            self.pose(decision, decision.challenges, caller, question.tool, arguments, "before", held=False)
            self.do(self.engine.asked(decision))
            return
        if not decision.allowed:
            return
        if question.held:
            assert caller == question.caller
            assert decision.held is not None or self.may_run(caller, question.tool, arguments)
        released = dict.fromkeys(question.parts, good and choice in ("once", "period"))
        if decision.held is None:
            agreed = good and question.phase == "before" and choice in ("once", "period")
            assert agreed or self.may_run(caller, question.tool, arguments), "a call ran that nobody approved"
            if agreed:
                question.answers += 1
                assert question.answers == 1, "an approved call ran twice"
        elif not question.held:
            raise AssertionError("a result came from a question that held none")
        if fails and decision.held is None:
            self.do(self.engine.fail(decision, "error", "ToolError"))
            return
        self.runs_and_ends(decision, caller, question.tool, arguments, released)

    def runs_and_ends(
        self, decision: Decision, caller: int, tool: str, arguments: int, released: dict[Part, bool]
    ) -> None:
        """The call has run, or had: what of its result leaves is what somebody agreed to, or no rule withholds."""
        asking = Asking(forms=True).answered({})

        def apply(redaction: Any) -> Any:
            return redact(DOCUMENT, redaction)[0]

        outcome = self.do(self.engine.finish(decision, Result.of(DOCUMENT), apply, asking=asking))
        if outcome.effect is Effect.ASK:
            self.pose(decision, outcome.challenges, caller, tool, arguments, "after", held=True)
            self.do(self.engine.asked(decision, held=True))
            return
        if outcome.refusal is not None:
            return
        for name in self.guarded_fields(tool):
            part = ("after", name)
            if name in outcome.applied:
                shown = released.get(part, False) or self.is_granted(caller, tool, arguments, part)
                assert shown, f"{name} was shown and nobody agreed"

    def pose(
        self, decision: Decision, challenges: Any, caller: int, tool: str, arguments: int, phase: str, *, held: bool
    ) -> None:
        for challenge in challenges:
            refusal = self.do(self.engine.pose(decision, challenge, held=b"result" if held else None))
            if refusal is not None:
                continue
            parts = [(phase, q.fields[0] if q.fields else "") for q in challenge.questions]
            self.model.questions.append(
                Question(
                    caller=caller,
                    tool=tool,
                    arguments=arguments,
                    phase=phase,
                    challenge=challenge,
                    parts=parts,
                    policy=self.policy,
                    world=self.world,
                    until=max(self.seen, self.clock.seconds()) + TIMEOUT,
                    held=held,
                )
            )

    # --- the model ------------------------------------------------------------------------------------------------

    @staticmethod
    def form_fields(question: Question) -> list[str]:
        if question.phase == "before":
            return ["choice"]
        return [f"choice_{number + 1}" for number in range(len(question.challenge.questions))]

    def guarded_fields(self, tool: str) -> list[str]:
        return {"user": ["email"], "card": ["email", "phone"]}.get(tool, [])

    def is_good(self, question: Question, caller: int) -> bool:
        """Whether an answer to this question can count at all."""
        return (
            not question.used
            and caller == question.caller
            and question.world == self.world
            and self.seen < question.until + 1
        )

    def grant(self, question: Question, caller: int) -> None:
        """Remembers an approval for a period, as generously as its title."""
        titles = [choice.title for offers in question.challenge.choices for choice in offers if choice.name == "period"]
        wide = all("any arguments" in title for title in titles)
        for part in question.parts:
            self.model.grants.append(
                Grant(
                    caller=caller,
                    tool=question.tool,
                    part=part,
                    until=max(self.seen, self.clock.seconds()) + EXPIRY,
                    world=self.world,
                    arguments=None if wide else question.arguments,
                )
            )

    def is_granted(self, caller: int, tool: str, arguments: int, part: Part) -> bool:
        return self.model.granted(caller, tool, arguments, part, self.clock.seconds(), self.world)

    def may_run(self, caller: int, tool: str, arguments: int) -> bool:
        """Whether the rules in force let the call run without an answer to it."""
        if tool == "user":
            return True
        if tool == "send" and self.policy == "forbids":
            return False
        return self.is_granted(caller, tool, arguments, ("before", ""))

    @invariant()
    def every_request_has_at_most_one_end(self) -> None:
        ends = [record["request"] for record in self.records if record["event"] == "final"]
        assert len(ends) == len(set(ends))


COMMON = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.threat("C01", "C06", "C07", "C08", "C12", "C14", "D01", "D07", "D08", "D09", "FI10")
def test_L4_and_L5_hold_whatever_happens_in_whatever_order() -> None:
    run_state_machine_as_test(
        Approving,
        settings=settings(max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=COMMON),
    )


@contextmanager
def on_a_server() -> Iterator[type[Approving]]:
    """The same on a real server, whose time is its own."""
    with running(any_kind()) as server:

        class Remote(Approving):
            def fresh_store(self) -> Any:
                assert server.ask("FLUSHALL") is not None
                return opened(server, "laws")

            @rule(seconds=st.sampled_from([1, -1, 600, -600, 86_400, -86_400]))
            def clocks_move(self, seconds: int) -> None:
                """Only this server's: the store's is its own, and nothing that is approved knows any other."""
                self.clock.at += timedelta(seconds=seconds)

            def is_granted(self, caller: int, tool: str, arguments: int, part: Part) -> bool:
                return self.model.granted(caller, tool, arguments, part, self.seen, self.world)

        yield Remote


def test_L4_and_L5_hold_on_a_store_that_servers_share() -> None:
    with on_a_server() as machine:
        machine.TestCase.settings = settings(deadline=None)
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=COMMON),
        )
