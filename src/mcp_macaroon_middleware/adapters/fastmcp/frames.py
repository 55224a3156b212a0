"""What has been decided about the call in hand, carried along with it, so that no chain decides it twice.

A frame belongs to one running body (depth 0: the client's own request). Only the gate around a leaf's body opens a
new one; mounts and renames pass the frame on. It judges nothing.

A connection in memory carries the caller's context to the server behind it, and this frame with it. That is another
request: its session is another object, and its frame starts anew but for how deep it lies and what is being listed
around it, so that a server which reaches itself comes to an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastmcp.server.dependencies import fastmcp_request_ctx

from ...core.decisions import Decision
from ...core.policy_engine import PolicyEngine
from .copies import ORIGIN

if TYPE_CHECKING:
    from .guard import Guard
    from .resolve import Found


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
NOWHERE: Final[frozenset[tuple[int, str]]] = frozenset()
DEEPEST: Final = 16
"""Bodies and connections within each other, the client's own call aside; what lies deeper is refused. A body takes
some forty of the thousand frames that Python allows, so that more would end as an error of the language."""


class Frame(NamedTuple):
    """The tickets of the body in hand, the guards that the request entered through, and what is being listed.

    `running` are the tickets of the body that is running; `listing` names the policies that filter the list in hand
    further out. `session` is the request's own; `outer` counts what lies around the request, and `around` names the
    servers and methods of the lists in the making there and here. (Tuples: three are made for every call, and nothing
    immutable is cheaper.)
    """

    depth: int = 0
    tickets: Mapping[PolicyEngine, Ticket] = NONE
    entries: Mapping[PolicyEngine, Guard] = NONE
    running: tuple[Ticket, ...] = ()
    listing: frozenset[PolicyEngine] = NOBODY
    session: object = None
    outer: int = 0
    around: frozenset[tuple[int, str]] = NOWHERE

    @property
    def is_too_deep(self) -> bool:
        """Whether no further call may run within this one."""
        return self.outer + self.depth > DEEPEST


FIRST: Final = Frame()
"""The frame of a request that nothing of ours lies around, before a guard has seen it."""

_frame: ContextVar[Frame] = ContextVar("mcp_macaroon_frame", default=FIRST)

frame: Final = _frame.get
"""The frame of the call in hand, once its request has entered."""


def entering() -> Frame:
    """The frame of the request in hand, where it may be a new one: then that of the request around it is left."""
    current = _frame.get()
    if current is FIRST or current.session is session_here():
        return current
    return Frame(session=session_here(), outer=current.outer + current.depth + 1, around=current.around)


def session_here() -> object:
    """The session of the request in hand, one object for each request; None where no request is."""
    bound = fastmcp_request_ctx.get()
    return getattr(bound.session, ORIGIN, bound.session) if bound is not None else None


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
    return current if entries is current.entries else current._replace(entries=entries, session=_session(current))


def listing(current: Frame, guard: Guard, mark: tuple[int, str]) -> Frame:
    """The frame in which this guard filters the list in hand; `mark` is the server's identity and the method."""
    return current._replace(
        entries=_entries(current, guard),
        listing=current.listing | {guard.engine},
        session=_session(current),
        around=current.around | {mark},
    )


def binding(server: object) -> tuple[int, str]:
    """The mark of a server whose components are being counted."""
    return id(server), "bind"


def making(current: Frame, mark: tuple[int, str]) -> Frame:
    """The frame in which something is made of a server that may reach itself meanwhile."""
    return current._replace(session=_session(current), around=current.around | {mark})


def ticketed(current: Frame, ticket: Ticket) -> Frame:
    """The frame in which this guard has decided."""
    tickets = {**current.tickets, ticket.guard.engine: ticket}
    entries = _entries(current, ticket.guard)
    session = session_here() if current is FIRST else current.session  # as `_session`, which would be a call
    return Frame(current.depth, tickets, entries, current.running, NOBODY, session, current.outer, current.around)


def body(current: Frame, running: tuple[Ticket, ...], *, keep: bool = False) -> Frame:
    """The frame of a leaf's body: nothing that it calls is decided yet. `keep`: but for what it forwards to."""
    tickets = current.tickets if keep else NONE
    session = session_here() if current is FIRST else current.session
    return Frame(current.depth + 1, tickets, current.entries, running, NOBODY, session, current.outer, current.around)


def _session(current: Frame) -> object:
    return session_here() if current is FIRST else current.session


def _entries(current: Frame, guard: Guard) -> Mapping[PolicyEngine, Guard]:
    if guard.engine in current.entries:
        return current.entries
    return {**current.entries, guard.engine: guard}
