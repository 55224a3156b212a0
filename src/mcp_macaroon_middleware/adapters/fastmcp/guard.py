"""`guard` and `bind`: put a policy around a FastMCP server and everything mounted on it, and say what that covers.

A guard that cannot be bound stays on its server and refuses everything: a server half guarded would be served.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from fastmcp import FastMCP
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.caching import ResponseCachingMiddleware

from ...config.runtime import Runtime, load_runtime, shared_runtime
from ...core.plan import Plan
from ...core.policy_engine import PolicyEngine
from ...errors import AuditUnavailable, BindError
from ...model import Component, Redaction, RequestContext
from ...tokens import VerifiedToken
from . import census
from .compat import mounted_server, self_test
from .coverage import Report, report_on
from .delegating import offer
from .fitting import misfits
from .frames import LeafKey, Ticket, binding, frame, making, within
from .gate import LastGate
from .identity import NO_ONE, Identity, caller, identify, somebody
from .logs import quiet_logs
from .mirrored import follow
from .resolve import Known, Resolver
from .sealed import seal_states
from .shapes import Shape

logger: Final = logging.getLogger("mcp_macaroon_middleware")

SHOWN: Final = 16_384

Source = Runtime | str | Path | Mapping[str, Any]
T = TypeVar("T")


class Guard:
    """A policy bound to one server. `report` says what it covers, `runtime` is the policy in force."""

    def __init__(self, server: FastMCP[Any], runtime: Runtime) -> None:
        self.server: Final = server
        self.runtime: Final = runtime
        self.engine: Final[PolicyEngine] = runtime.engine
        self._known = Known(runtime.audit)
        self.resolver: Final = Resolver(server, self._known)
        self.broken: BindError | None = None
        self.pending = False
        self._shown: OrderedDict[Any, tuple[Plan, Mapping[str, Any]]] = OrderedDict()
        self._fitted = runtime.engine.plan
        self._report: Report | None = None
        self._gates: list[LastGate] = []
        self._seen: list[tuple[list[Any], list[Any], list[Any], tuple[int, int, int, int]]] = []

    def __repr__(self) -> str:
        return f"Guard({self.server.name!r}, revision={self.runtime.revision!r})"

    @property
    def report(self) -> Report:
        """What is covered, and what cannot be."""
        if self._report is None:
            self._report = report_on(self)
        return self._report

    @property
    def servers(self) -> tuple[FastMCP[Any], ...]:
        """The guarded servers, the root first."""
        return tuple(gate.server for gate in self._gates)

    # --- for every request ----------------------------------------------------------------------------------------

    def caller(self) -> Identity | None:
        """The caller of the request in hand, where that can be told at once. Raises `Unidentified`."""
        return caller(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    async def identify(self) -> Identity:
        """The caller of the request in hand. Raises `Unidentified`."""
        return await identify(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    async def somebody(self) -> Identity:
        """The caller as far as that can be told."""
        return await somebody(self.runtime.settings.identity, self.server.auth, self.runtime.bearers)

    def request(self, identity: Identity | None, component: Component, *, nested: bool = False) -> RequestContext:
        """A request as the engine judges it, without its arguments."""
        who = identity or NO_ONE
        return RequestContext(
            principal=who.principal,
            component=component,
            claims=who.claims,
            client=who.client,
            client_address=who.address,
            at=self.engine.clock.now(),
            nested=nested,
        )

    async def observe(
        self,
        identity: Identity | None,
        component: Component,
        *,
        code: str = "ok",
        outcome: str = "ok",
        detail: str = "",
        must: bool = False,
    ) -> bool:
        """Writes the one final record of a request that runs no component; False where it cannot be written.

        `must`: the request is refused then.
        """
        try:
            request = self.request(identity, component)
            await self.engine.observe(request, code=code, outcome=outcome, detail=detail, must=must)
        except AuditUnavailable:
            logger.error("a request could not be recorded")
            return False
        return True

    def redactor(self, shape: Shape, ticket: Ticket, result: Any) -> Callable[[Redaction], Any]:
        """What applies a redaction to this result, for the engine to call."""

        def apply(redaction: Redaction) -> Any:
            if redaction.is_empty:
                return result
            return shape.rebuild(result, redaction, "pass" if self.passes else "withhold", self._held_schema(ticket))

        return apply

    def shown(
        self, request: RequestContext, token: VerifiedToken | None, key: LeafKey, schema: Mapping[str, Any]
    ) -> None:
        """Remembers the output schema that a list has shown to a caller, as long as there is room."""
        mark = (request.principal, request.client, token.lineage if token is not None else (), key)
        self._shown[mark] = (self.engine.plan, schema)
        self._shown.move_to_end(mark)
        if len(self._shown) > SHOWN:
            self._shown.popitem(last=False)

    def _held_schema(self, ticket: Ticket) -> Mapping[str, Any] | None:
        """The schema that the caller still holds, if it is not the one that today's rules publish.

        Under the rules of the very list that showed it, every result fits it.
        """
        request, lineage = ticket.decision.request, ticket.decision.lineage
        plan, schema = self._shown.get((request.principal, request.client, lineage, ticket.found.key), (None, None))
        return schema if plan is not ticket.decision.plan else None

    @property
    def passes(self) -> bool:
        """Whether what has no fields (plain text, images, blobs) passes under a field rule."""
        return getattr(self.runtime.sections.get("field_access"), "unstructured", "withhold") == "pass"

    # --- standing on the servers ----------------------------------------------------------------------------------

    def add_tools(self) -> None:
        """Adds the tools that the file asks for, before the census. Raises `BindError` where a name is taken."""
        tokens = self.runtime.settings.tokens
        if tokens is not None and tokens.delegate:
            offer(self)

    def install(self) -> None:
        """Stands on the root and on everything mounted, in the right places. Raises `BindError` where that leaks."""
        from .middleware import MacaroonMiddleware, Member

        quiet_logs()
        settings = self.runtime.settings
        follow(self.server)
        seal_states(self.server, self.runtime.keys, settings.audience, timeout=settings.approvals.timeout)
        problems = list(_foreign(self.server.auth, self.runtime))
        self.runtime.enforced = True
        self._gates = []
        for server in tree(self.server):
            root = server is self.server
            ours = [middleware for middleware in server.middleware if _is_ours(middleware, self.engine)]
            if not ours:
                server.middleware.insert(0, MacaroonMiddleware(guard=self) if root else Member(self.engine))
            for middleware in ours:
                if root and isinstance(middleware, MacaroonMiddleware):
                    middleware.serve(self)
            gate = _gate_of(server)
            gate.add(self)
            gate.settle()
            self._gates.append(gate)
            problems += _leaks(server, self.engine)
        self._seen = self._shape()
        if problems:
            raise BindError("\n".join(problems))

    def settle(self) -> None:
        """Follows what was added since: new mounts are guarded, later transforms come before the gate.

        After a reload it says which of the new rules fit nothing; they stay in force.
        """
        if self.engine.plan is not self._fitted:
            self._refit()
        for providers, middleware, transforms, mark in self._seen:
            if (len(providers), len(middleware), id(middleware[0]), id(transforms[-1])) != mark:
                break
        else:
            return
        if self.broken is not None:
            return
        try:
            self.install()
        except BindError as error:
            self.fail(error)
        else:
            self._report = None

    def _refit(self) -> None:
        self._fitted = self.engine.plan
        self._report = None
        for problem in misfits(self._fitted, self.resolver.census, guarded=self.server):
            logger.warning("after the reload: %s", problem.render())

    def _shape(self) -> list[tuple[list[Any], list[Any], list[Any], tuple[int, int, int, int]]]:
        """What changes when a server gets another mount, transform or middleware."""
        shape = []
        for server in self.servers:
            parts = server.providers, server.middleware, server._transforms
            shape.append((*parts, (len(parts[0]), len(parts[1]), id(parts[1][0]), id(parts[2][-1]))))
        return shape

    def fail(self, error: BindError) -> None:
        """From now on everything is refused with one fixed text; the log has the report."""
        if self.broken is None:
            logger.error("the guard of %r cannot be bound; every request is refused:\n%s", self.server.name, error)
        self.broken = error

    # --- fitting the rules to the components -----------------------------------------------------------------------

    async def fit(self, *, remote: bool = True) -> None:
        """Takes the census and holds the rules against it. Raises `BindError` with every rule that fits nothing."""
        taken = await census.take(self.server, remote=remote)
        self.adopt(taken)

    def adopt(self, taken: census.Census) -> None:
        """Holds the rules against a census that may lack what can only be listed while serving."""
        self.resolver.adopt(taken)
        self.pending = not taken.complete
        problems = misfits(self.engine.plan, taken, guarded=self.server)
        if problems and taken.complete:
            raise BindError("\n".join(problem.render() for problem in problems), code="rules_do_not_fit")
        self._known.learn(taken)
        self._report = None

    async def ready(self) -> None:
        """What was left for the first request: components that can only be listed while serving."""
        if not self.pending or self.broken is not None:
            return
        self.pending = False
        try:
            await self.fit()
        except BindError as error:
            self.fail(error)
        self.pending = False


def guard(server: FastMCP[Any], source: Source) -> Guard:
    """Puts a policy around a server and everything mounted on it, at once; works in an event loop and outside one.

    `source` is a policy file, the same as a mapping, or a `Runtime`. Raises `ConfigError` for what is wrong with the
    file and `BindError` for what does not fit the server; then the server refuses everything. Components of a proxied
    server are looked at on the first request: only the loop that serves can ask for them (see `bind`).
    """
    made = _made(server, source)
    taken = _at_once(census.take(server, remote=False))
    return _bound(made, lambda: made.adopt(taken or census.Census(missing=["components that must be waited for"])))


async def bind(server: FastMCP[Any], source: Source) -> Guard:
    """`guard`, for a host that owns the event loop: proxied components are listed and fitted at once too."""
    made = _made(server, source)
    _standing(made)  # before the census, in which a server that proxies itself would ask itself without end
    made.pending = True
    with within(making(frame(), binding(server))):
        taken = await census.take(server)
    return _bound(made, lambda: made.adopt(taken))


def _made(server: FastMCP[Any], source: Source) -> Guard:
    if not isinstance(server, FastMCP):
        raise BindError(f"guard takes a FastMCP server, not {type(server).__name__}")
    self_test()
    made = Guard(server, runtime_of(source))
    try:
        made.add_tools()
    except BindError as error:
        made.install()
        made.fail(error)
        raise
    return made


def _standing(made: Guard) -> None:
    try:
        made.install()
    except BindError as error:
        made.fail(error)
        raise


def _bound(made: Guard, fit: Callable[[], None]) -> Guard:
    try:
        made.install()
        fit()
    except BindError as error:
        made.fail(error)
        raise
    made._known.settled = True
    return made


def runtime_of(source: Source) -> Runtime:
    """The policy that a file, a mapping or a runtime stands for; one file is one runtime in this process."""
    if isinstance(source, Runtime):
        return source
    return load_runtime(source) if isinstance(source, Mapping) else shared_runtime(source)


def tree(root: FastMCP[Any]) -> Iterator[FastMCP[Any]]:
    """A server and every server mounted on it, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        server = waiting.pop(0)
        if id(server) in seen:
            continue
        seen.add(id(server))
        yield server
        waiting += [child for provider in server.providers if (child := mounted_server(provider)) is not None]


def _gate_of(server: FastMCP[Any]) -> LastGate:
    for transform in server._transforms:
        if isinstance(transform, LastGate):
            return transform
    gate = LastGate(server)
    server.add_transform(gate)
    return gate


def _is_ours(middleware: Middleware, engine: PolicyEngine) -> bool:
    return getattr(middleware, "macaroon_engine", None) is engine


def _leaks(server: FastMCP[Any], engine: PolicyEngine) -> list[str]:
    """What would show one caller's answers to another: a cache outside the guard, lists that anybody may keep."""
    problems = []
    for name, hint in server._mcp_server.cache_hints.items():
        if getattr(hint, "scope", None) == "public":
            problems.append(f'{server.name}: cache_scope="public" lets clients share {name}; use "private"')
            break
    ours = next(n for n, middleware in enumerate(server.middleware) if _is_ours(middleware, engine))
    for middleware in server.middleware[:ours]:
        if isinstance(middleware, ResponseCachingMiddleware):
            problems.append(
                f"{server.name}: {type(middleware).__name__} stands before {type(server.middleware[ours]).__name__}, "
                "so that it would answer what the guard refuses; put the guard first"
            )
    return problems


def _foreign(auth: Any, runtime: Runtime) -> Iterator[str]:
    """An auth provider that accepts tokens for another policy than the one that stands here."""
    theirs = getattr(auth, "runtime", runtime)
    if isinstance(theirs, Runtime) and theirs is not runtime:
        yield f"{type(auth).__name__} and the guard have different policies; give both the same file or runtime"


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """The coroutine's result if it never waits; None if it does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    return None


async def bind_late(server: FastMCP[Any], runtime: Runtime) -> Guard:
    """Binds at the first message, in the loop that serves; never raises: a guard that does not fit refuses."""
    made = Guard(server, runtime)
    try:
        self_test()
        made.add_tools()
        made.install()
        await made.fit()
    except BindError as error:
        made.fail(error)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        made.fail(BindError(f"binding failed: {type(error).__name__}"))
    made._known.settled = True
    return made
