"""How a guard comes to stand on a server and on everything mounted there, and follows what is added later.

A guard that cannot be bound stays on its server and refuses everything: a server half guarded would be served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from fastmcp import FastMCP
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.caching import ResponseCachingMiddleware

from ...config.runtime import Runtime
from ...core.policy_engine import PolicyEngine
from ...errors import BindError
from ..issuers import issuers_of, problems_of
from . import census
from .compat import mounted_server, self_test
from .coverage import Report, report_on
from .delegating import offer
from .fitting import misfits
from .gate import LastGate
from .guard import Guard
from .logs import quiet_logs
from .mirrored import follow
from .sealed import seal_states

logger: Final = logging.getLogger("mcp_macaroon_middleware")


class Posts(NamedTuple):
    """What is put on the servers: the middleware of the root, and that of a mounted one."""

    root: Callable[[InstalledGuard], Middleware]
    member: Callable[[PolicyEngine], Middleware]


@runtime_checkable
class Serving(Protocol):
    """A root's middleware, which may stand there before its guard does."""

    def serve(self, guard: InstalledGuard) -> None:
        """Takes the guard."""


class InstalledGuard(Guard):
    """A policy bound to one server. `report` says what it covers, `runtime` is the policy in force."""

    def __init__(self, server: FastMCP[Any], runtime: Runtime, posts: Posts) -> None:
        super().__init__(server, runtime)
        self._posts = posts
        self._fitted = runtime.engine.plan
        self._report: Report | None = None
        self._seen: list[tuple[list[Any], list[Any], list[Any], tuple[int, int, int, int]]] = []

    @property
    def report(self) -> Report:
        """What is covered, and what cannot be."""
        if self._report is None:
            self._report = report_on(self)
        return self._report

    # --- standing on the servers ----------------------------------------------------------------------------------

    def add_tools(self) -> None:
        """Adds the tools that the file asks for, before the census. Raises `BindError` where a name is taken."""
        tokens = self.runtime.settings.tokens
        if tokens is not None and tokens.delegate:
            offer(self)

    def install(self) -> None:
        """Stands on the root and on everything mounted, in the right places. Raises `BindError` where that leaks."""
        quiet_logs()
        settings = self.runtime.settings
        follow(self.server)
        seal_states(self.server, self.runtime.keys, settings.audience, timeout=settings.approvals.timeout)
        problems = list(_foreign(self.server.auth, self.runtime))
        problems += problems_of(self.engine.plan, issuers_of(self.server.auth, self.runtime))
        self.runtime.enforced = True
        self.servers = tuple(tree(self.server))
        for server in self.servers:
            root = server is self.server
            ours = [middleware for middleware in server.middleware if _is_ours(middleware, self.engine)]
            if not ours:
                server.middleware.insert(0, self._posts.root(self) if root else self._posts.member(self.engine))
            for middleware in ours:
                if root and isinstance(middleware, Serving):
                    middleware.serve(self)
            gate = _gate_of(server)
            gate.add(self)
            gate.settle()
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
        for text in problems_of(self._fitted, issuers_of(self.server.auth, self.runtime)):
            logger.warning("after the reload: %s", text)

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

    def end_binding(self) -> None:
        """From now on a component that nobody has heard of is one that was added."""
        self._known.settled = True


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


async def bind_late(server: FastMCP[Any], runtime: Runtime, posts: Posts) -> InstalledGuard:
    """Binds at the first message, in the loop that serves; never raises: a guard that does not fit refuses."""
    made = InstalledGuard(server, runtime, posts)
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
    made.end_binding()
    return made
