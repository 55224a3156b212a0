"""What has been decided about the call in hand, carried along with it, so that no chain decides it twice.

A frame belongs to one running body (depth 0: the client's own request). Only the gate around a leaf's body opens a
new one; mounts and renames pass the frame on. It judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ...core.decisions import Decision
from ...core.policy_engine import PolicyEngine

if TYPE_CHECKING:
    from .guard import Guard
    from .resolve import Found

LeafKey = tuple[int, str, str, str | None]
"""The server's identity, the kind, the component's name there and its version."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One guard's allowing decision about one leaf. `arguments` are the raw ones that the leaf should get.

    They are None where a transform computes them, so that they are known only at the leaf.
    """

    found: Found
    decision: Decision
    guard: Guard
    arguments: Mapping[str, Any] | None = None


Tickets = Mapping[PolicyEngine, Ticket]
Entries = Mapping[PolicyEngine, "Guard"]
NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The tickets of the body in hand, the guards that the request entered through, and what is being listed.

    `running` are the tickets of the body that is running; `listing` names the policies that filter the list in hand
    further out.
    """

    depth: int = 0
    tickets: Tickets = field(default_factory=lambda: NONE)
    entries: Entries = field(default_factory=lambda: NONE)
    running: tuple[Ticket, ...] = ()
    listing: frozenset[PolicyEngine] = frozenset()

    @property
    def holds(self) -> bool:
        """Whether an output rule applies to the body that is running."""
        return any(ticket.decision.after for ticket in self.running)


START: Final = Frame()
_frame: ContextVar[Frame] = ContextVar("mcp_macaroon_frame", default=START)


def frame() -> Frame:
    """The frame of the call in hand."""
    return _frame.get()


@contextmanager
def within(new: Frame) -> Iterator[Frame]:
    """Runs with `new` as the frame."""
    token = _frame.set(new)
    try:
        yield new
    finally:
        _frame.reset(token)


def entered(current: Frame, guard: Guard) -> Frame:
    """The frame of a request that entered through `guard`; the outermost one of a policy stays."""
    if guard.engine in current.entries:
        return current
    return replace(current, entries={**current.entries, guard.engine: guard})


def listing(current: Frame, guard: Guard) -> Frame:
    """The frame in which this guard filters the list in hand."""
    return replace(entered(current, guard), listing=current.listing | {guard.engine})


def ticketed(current: Frame, ticket: Ticket) -> Frame:
    """The frame in which this guard has decided."""
    engine = ticket.guard.engine
    return Frame(
        depth=current.depth,
        tickets={**current.tickets, engine: ticket},
        entries=entered(current, ticket.guard).entries,
        running=current.running,
    )


def body(current: Frame, running: tuple[Ticket, ...], *, keep: bool = False) -> Frame:
    """The frame of a leaf's body: nothing that it calls is decided yet. `keep`: but for what it forwards to."""
    return Frame(
        depth=current.depth + 1,
        tickets=current.tickets if keep else NONE,
        entries=current.entries,
        running=running,
    )
