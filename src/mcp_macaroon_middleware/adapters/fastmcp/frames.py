"""What has been decided about the call in hand, carried along with it, so that no chain decides it twice.

A frame belongs to one running body (depth 0: the client's own request). Only the gate around a leaf's body opens a
new one; mounts and renames pass the frame on. It judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...core.decisions import Decision
from ...core.policy_engine import PolicyEngine

if TYPE_CHECKING:
    from .guard import Guard
    from .resolve import Found

LeafKey = tuple[int, str, str, str | None]
"""The server's identity, the kind, the component's name there and its version."""


class Ticket(NamedTuple):
    """One guard's allowing decision about one leaf. `arguments` are the raw ones that the leaf should get.

    They are None where a transform computes them, so that they are known only at the leaf.
    """

    found: Found
    decision: Decision
    guard: Guard
    arguments: Mapping[str, Any] | None = None

    @property
    def looks(self) -> bool:
        """Whether a rule looked at the arguments, or still has to, so that the leaf's must be compared."""
        return self.decision.coerced or self.arguments is None


NONE: Final[Mapping[Any, Any]] = MappingProxyType({})
NOBODY: Final[frozenset[PolicyEngine]] = frozenset()


class Frame(NamedTuple):
    """The tickets of the body in hand, the guards that the request entered through, and what is being listed.

    `running` are the tickets of the body that is running; `listing` names the policies that filter the list in hand
    further out. (Tuples: three are made for every call, and nothing immutable is cheaper.)
    """

    depth: int = 0
    tickets: Mapping[PolicyEngine, Ticket] = NONE
    entries: Mapping[PolicyEngine, Guard] = NONE
    running: tuple[Ticket, ...] = ()
    listing: frozenset[PolicyEngine] = NOBODY


_frame: ContextVar[Frame] = ContextVar("mcp_macaroon_frame", default=Frame())  # noqa: B039 (it is immutable)

frame: Final = _frame.get
"""The frame of the call in hand."""


class within:
    """Runs with another frame."""

    __slots__ = ("_new", "_token")

    def __init__(self, new: Frame) -> None:
        self._new = new

    def __enter__(self) -> None:
        self._token = _frame.set(self._new)

    def __exit__(self, *_: object) -> None:
        _frame.reset(self._token)


def entered(current: Frame, guard: Guard) -> Frame:
    """The frame of a request that entered through `guard`; the outermost one of a policy stays."""
    entries = _entries(current, guard)
    return current if entries is current.entries else current._replace(entries=entries)


def listing(current: Frame, guard: Guard) -> Frame:
    """The frame in which this guard filters the list in hand."""
    return current._replace(entries=_entries(current, guard), listing=current.listing | {guard.engine})


def ticketed(current: Frame, ticket: Ticket) -> Frame:
    """The frame in which this guard has decided."""
    tickets = {**current.tickets, ticket.guard.engine: ticket}
    return Frame(current.depth, tickets, _entries(current, ticket.guard), current.running)


def body(current: Frame, running: tuple[Ticket, ...], *, keep: bool = False) -> Frame:
    """The frame of a leaf's body: nothing that it calls is decided yet. `keep`: but for what it forwards to."""
    return Frame(current.depth + 1, current.tickets if keep else NONE, current.entries, running)


def _entries(current: Frame, guard: Guard) -> Mapping[PolicyEngine, Guard]:
    if guard.engine in current.entries:
        return current.entries
    return {**current.entries, guard.engine: guard}
