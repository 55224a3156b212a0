"""The FastMCP middleware: every message of a guarded server enters here. It hands on; others decide.

Tools, prompts and resources take a `Passage`; lists, completions and other methods have modules of their own.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from fastmcp import FastMCP
from fastmcp.exceptions import AuthorizationError
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.middleware.middleware import _dispatch_phase
from fastmcp.utilities.versions import VersionSpec

from ...config.runtime import Runtime, load_runtime, shared_runtime
from ...core.policy_engine import PolicyEngine
from ...core.visibility import open_to
from ...errors import ConfigError
from ...model import Principal, Refusal
from ...plugin.decorators import Macaroon, _macaroon_id
from . import depth, lists, methods
from .compat import task_mode
from .frames import DEEPEST, FIRST, binding, entering, frame, making, within
from .guard import Guard
from .identity import Unidentified
from .install import InstalledGuard, Posts, bind_late
from .passage import Passage
from .refusals import protocol_refusal, tool_refusal
from .resolve import Found
from .shapes import PROMPT, RESOURCE, TOOL
from .turns import Turn

logger: Final = logging.getLogger("mcp_macaroon_middleware")

NOT_READY: Final = Refusal(code="not_ready", reason="This server cannot check requests at present.")
TASKS: Final = "io.modelcontextprotocol/tasks"

Context = MiddlewareContext[Any]
Next = CallNext[Any, Any]


class Chain(Middleware, ABC):
    """What the root's middleware and that of mounted servers have in common: the way through it."""

    macaroon_engine: PolicyEngine

    async def __call__(self, context: Context, call_next: Next) -> Any:
        """Takes a message on its way. The phases of FastMCP's dispatch are read here, so that none is missed."""
        current = frame()
        if current is not FIRST and (current := entering()) is not frame():
            # A request of its own: what was decided about the one around it says nothing here.
            with within(current):
                return await self(context, call_next)
        guard = self._standing(context) or await self._guard(context)
        if guard is None:
            return await call_next(context)
        if current.outer + current.depth > DEEPEST and depth.counts(context):
            return await depth.refuse(guard, context)
        if guard.broken is not None and context.method not in depth.OUTSIDE:
            return _not_ready(context)
        if _dispatch_phase.get() == "outer":
            return await methods.outer(guard, context, call_next)
        handler = HANDLERS.get(context.method or "")
        if handler is None:
            return await methods.typed(guard, context, call_next)
        return await handler(guard, context, call_next)

    @abstractmethod
    def _standing(self, context: Context) -> Guard | None:
        """The same where it stands and is ready, so that nothing has to be waited for."""

    @abstractmethod
    async def _guard(self, context: Context) -> Guard | None:
        """The guard that this message enters through, if it concerns this middleware at all."""

    async def check_resource_access(self, context: Context) -> None:
        """Whether this caller could read the resource at all; extensions ask this without reading."""
        guard = await self._guard(context)
        if guard is not None and not await _readable(guard, context):
            raise AuthorizationError(f"Unknown resource: {str(context.message.uri)!r}")


class Member(Chain):
    """The middleware of a mounted server: it acts on what entered through a guarded root, and on nothing else."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.macaroon_engine = engine

    def _standing(self, context: Context) -> Guard | None:
        return frame().entries.get(self.macaroon_engine)

    async def _guard(self, context: Context) -> Guard | None:
        return self._standing(context)


class MacaroonMiddleware(Chain):
    """Enforces a policy file on a FastMCP server: `FastMCP(middleware=[MacaroonMiddleware("policies.yaml")])`.

    The file is loaded and compiled at once; raises `ConfigError` with everything that is wrong. The server is looked
    at when its first message comes: if the policy does not fit it, every request is refused and the log says why. To
    know at the start, use `guard(server, "policies.yaml")`. `plugins` are enforcers of the program itself.
    """

    def __init__(
        self,
        config_path: str | Path | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        runtime: Runtime | None = None,
        plugins: Sequence[object] = (),
        guard: InstalledGuard | None = None,
    ) -> None:
        if guard is not None:
            runtime = guard.runtime
        self.runtime: Final = runtime or _load(config_path, config, plugins)
        self.runtime.enforced = True
        self.macaroon_engine = self.runtime.engine
        self._guards: dict[int, tuple[FastMCP[Any], InstalledGuard]] = {}
        if guard is not None:
            self._guards[id(guard.server)] = (guard.server, guard)

    def __repr__(self) -> str:
        return f"MacaroonMiddleware({self.runtime!r})"

    def serve(self, guard: InstalledGuard) -> None:
        """Takes a guard that stands on its server already, so that its first message binds no other."""
        self._guards.setdefault(id(guard.server), (guard.server, guard))

    @property
    def policy_engine(self) -> PolicyEngine:
        """The engine, for use without FastMCP."""
        return self.macaroon_engine

    async def _get_or_create_macaroon(self, user_id: str) -> Macaroon:
        """A read-only view of a user: an id and a principal, as the original's documents use it."""
        principal = Principal(kind="user", namespace="", subject=user_id)
        return Macaroon(id=_macaroon_id(principal), principal=principal)

    def _standing(self, context: Context) -> Guard | None:
        entry = frame().entries.get(self.macaroon_engine)
        if entry is not None:
            return entry
        kept = self._guards.get(id(_server(context)))
        if kept is None:
            return None
        kept[1].settle()
        return None if kept[1].pending else kept[1]

    async def _guard(self, context: Context) -> Guard:
        standing = self._standing(context)
        if standing is not None:
            return standing
        server = _server(context)
        kept = self._guards.get(id(server))
        if kept is None:
            kept = self._guards.setdefault(id(server), (server, await self._bound(server, context)))
        kept[1].settle()
        mark = binding(server)
        if mark not in frame().around:  # the server may be among those that it asks for its components
            with within(making(frame(), mark)):
                await kept[1].ready()
        return kept[1]

    async def _bound(self, server: FastMCP[Any], context: Context) -> InstalledGuard:
        """A guard for the server, which asks it for its components: the server may be among those that it asks."""
        mark = binding(server)
        if mark in frame().around:
            await depth.refuse(Guard(server, self.runtime), context)
        with within(making(frame(), mark)):
            return await bind_late(server, self.runtime, POSTS)

    # --- FastMCP's hooks, for whoever calls one directly ------------------------------------------------------------

    async def on_call_tool(self, context: Context, call_next: Next) -> Any:
        """Decides a tool call, runs it once, and lets out what may leave."""
        return await self._hook(context, call_next, call_tool)

    async def on_read_resource(self, context: Context, call_next: Next) -> Any:
        """Decides a read."""
        return await self._hook(context, call_next, read_resource)

    async def on_get_prompt(self, context: Context, call_next: Next) -> Any:
        """Decides a prompt."""
        return await self._hook(context, call_next, get_prompt)

    async def _hook(self, context: Context, call_next: Next, handler: Handler) -> Any:
        guard = await self._guard(context)
        return _not_ready(context) if guard.broken is not None else await handler(guard, context, call_next)


POSTS: Final = Posts(root=lambda guard: MacaroonMiddleware(guard=guard), member=Member)


Handler = Callable[[Guard, Context, Next], Awaitable[Any]]


# --- components -----------------------------------------------------------------------------------------------------


async def call_tool(guard: Guard, context: Context, call_next: Next) -> Any:
    """A tool call on its way through a guard."""
    server, name = _server(context), context.message.name
    version = version_of(context)

    def wants_task(found: Found) -> bool:
        mode = task_mode(found.leaf)
        if mode in ("forbidden", None):
            return False
        asks = context.fastmcp_context
        return mode == "required" or (asks is not None and asks.client_extension_settings(TASKS) is not None)

    async def find() -> Found | None:
        return await guard.resolver.tool(server, name, version)

    if frame().tickets and await _decided(guard, server, "tool", name, version, find):
        return await call_next(context)
    arguments, known = context.message.arguments or {}, guard.resolver.recall(server, "tool", name, version)
    seek = guard.resolver.seeking(server, "tool", recalled=known is not None)
    passage = Passage(guard, TOOL, name, arguments, find, known=known, seek=seek, wants_task=wants_task)
    return await passage.take(lambda turn: call_next(_inside(context, turn)))


async def read_resource(guard: Guard, context: Context, call_next: Next) -> Any:
    """A read on its way through a guard."""
    server, uri = _server(context), str(context.message.uri)
    version = version_of(context)

    async def find() -> Any:
        return await guard.resolver.resource(server, uri, version)

    if frame().tickets and await _decided(guard, server, "resource", uri, version, find):
        return await call_next(context)
    recalled = guard.resolver.recall(server, "resource", uri, version) is not None
    passage = Passage(
        guard, RESOURCE, uri, {}, find, seek=guard.resolver.seeking(server, "resource", recalled=recalled)
    )
    return await passage.take(lambda turn: call_next(_inside(context, turn)))


async def get_prompt(guard: Guard, context: Context, call_next: Next) -> Any:
    """A prompt on its way through a guard."""
    server, name = _server(context), context.message.name
    version = version_of(context)

    async def find() -> Found | None:
        return await guard.resolver.prompt(server, name, version)

    if frame().tickets and await _decided(guard, server, "prompt", name, version, find):
        return await call_next(context)
    arguments, known = context.message.arguments or {}, guard.resolver.recall(server, "prompt", name, version)
    seek = guard.resolver.seeking(server, "prompt", recalled=known is not None)
    passage = Passage(guard, PROMPT, name, arguments, find, known=known, seek=seek)
    return await passage.take(lambda turn: call_next(_inside(context, turn)))


async def _decided(
    guard: Guard,
    server: FastMCP[Any],
    shape: str,
    name: str,
    version: VersionSpec | None,
    find: Callable[[], Awaitable[Any]],
) -> bool:
    """Whether this guard's ticket in hand is for this very component: then it was decided further out."""
    ticket = frame().tickets.get(guard.engine)
    if ticket is None:
        return False
    if (id(server), shape, name, version.eq if version is not None else None) in ticket.found.passes:
        return True
    found = await find()
    return isinstance(found, Found) and found.key == ticket.found.key


async def _readable(guard: Guard, context: Context) -> bool:
    found = await guard.resolver.resource(_server(context), str(context.message.uri), version_of(context))
    if guard.broken is not None or not isinstance(found, Found):
        return False
    try:
        identity = await guard.identify()
    except Unidentified:
        return False
    return await open_to(guard.engine, guard.request(identity, found.component), token=identity.token)


HANDLERS: Final[Mapping[str, Handler]] = {
    "tools/call": call_tool,
    "resources/read": read_resource,
    "prompts/get": get_prompt,
    "tools/list": lists.tools,
    "resources/list": lists.resources,
    "resources/templates/list": lists.resources,
    "prompts/list": lists.prompts,
}


# --- parts ----------------------------------------------------------------------------------------------------------


def version_of(context: Context) -> VersionSpec | None:
    """The version that the request asks for."""
    meta = getattr(context.message, "meta", None)
    if not meta:
        return None
    inner = meta.get("fastmcp") if isinstance(meta, Mapping) else None
    version = inner.get("version") if isinstance(inner, Mapping) else None
    if isinstance(version, str):
        return VersionSpec(eq=version)
    if isinstance(version, Mapping):
        return VersionSpec(gte=version.get("gte"), lt=version.get("lt"), eq=version.get("eq"))
    return None


def _inside(context: Context, turn: Turn) -> Context:
    """The request as what runs inside may see it: without our state and answers."""
    return context.copy(message=turn.message(context.message)) if turn.ours else context


def _server(context: Context) -> FastMCP[Any]:
    found = context.fastmcp_context
    if found is None:
        raise RuntimeError("a message came without FastMCP's context")
    return found.fastmcp


def _load(path: str | Path | None, config: Mapping[str, Any] | None, plugins: Sequence[object]) -> Runtime:
    if (path is None) == (config is None):
        raise ConfigError("MacaroonMiddleware takes a policy file, or the same as config={…}")
    if config is not None:
        return load_runtime(config, application=plugins)
    return shared_runtime(cast("str | Path", path), application=plugins)


def _not_ready(context: Context) -> Any:
    """The one answer of a guard that could not be bound."""
    if context.type == "notification":
        return None
    if context.method == "tools/call" and _dispatch_phase.get() != "outer":
        return tool_refusal("", NOT_READY, nested=frame().depth > 0)
    raise protocol_refusal(NOT_READY)
