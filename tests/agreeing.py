"""Questions and answers at the engine itself, on any store: what tests of approvals share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lab import RING, Lab, call, lab, open_approvers

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvers import Approvers
from mcp_macaroon_middleware.core.asks import Asking
from mcp_macaroon_middleware.core.clock import SystemClock
from mcp_macaroon_middleware.core.decisions import Decision
from mcp_macaroon_middleware.core.policy_engine import PolicyEngine
from mcp_macaroon_middleware.model import Challenge, Effect, Reply, Result
from mcp_macaroon_middleware.plugin import Entry, Store

HERE = Asking(forms=True)


class Slow(MemoryStore):
    """A store that is read a while before the answer comes."""

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        found = await super().get(keys)
        for _ in range(3):
            await asyncio.sleep(0)
        return found


def on(store: Store, rules: list[Any], wall: Any = time.time, approvers: Approvers | None = None, **terms: Any) -> Lab:
    """A server of its own on a store, by a wall clock: a `SystemClock`, or what it reads."""
    made = lab(rules, **terms)
    made.store = store  # type: ignore[assignment]
    made.engine = PolicyEngine(
        made.engine.plan,
        store=store,
        audit=made.engine.audit,
        keys=RING,
        approvers=approvers or open_approvers("mcp"),
        clock=wall if isinstance(wall, SystemClock) else SystemClock(read=wall),
    )
    return made


async def asked(engine: PolicyEngine, tool: str = "t", arguments: Mapping[str, Any] | None = None) -> Challenge:
    """A question before a call, which is open now."""
    decision = await engine.decide(call(tool, arguments, at=engine.clock.now()), asking=HERE)
    assert decision.effect is Effect.ASK, decision.refusal
    (challenge,) = decision.challenges
    assert await engine.pose(decision, challenge) is None
    await engine.asked(decision)
    return challenge


async def answer(
    engine: PolicyEngine,
    challenge: Challenge,
    says: str = "once",
    tool: str = "t",
    arguments: Mapping[str, Any] | None = None,
) -> Decision:
    """The same call with an answer to the question before it."""
    replies = {challenge.id: Reply(action="accept", content={"choice": says})}
    return await engine.decide(call(tool, arguments, at=engine.clock.now()), asking=HERE.answered(replies))


async def agreed(
    engine: PolicyEngine, says: str = "once", tool: str = "t", arguments: Mapping[str, Any] | None = None
) -> Decision:
    """A call that is asked about and answered."""
    return await answer(engine, await asked(engine, tool, arguments), says, tool, arguments)


async def ended(engine: PolicyEngine, decision: Decision, value: Mapping[str, Any] | None = None) -> Any:
    """What leaves of the result of a call that was allowed; nobody is asked about it."""
    return (await engine.finish(decision, Result.of(dict(value or {})), lambda redaction: redaction)).applied


def code(decision: Decision) -> str:
    """`allowed`, `asks`, or the code of the refusal."""
    if decision.effect is Effect.ASK:
        return "asks"
    return decision.refusal.code if decision.refusal is not None else "allowed"


async def emptied(store: Store, prefix: str = "") -> dict[str, bytes]:
    """Takes every record out of a store whose name holds `prefix`, behind everybody's back; what was in them."""
    found: dict[str, bytes] = {}
    for name in [name for name, _ in (await store.scan("", None, 10_000))[0] if prefix in name]:
        value = await store.take(name)
        if value is not None:
            found[name] = value
    return found
