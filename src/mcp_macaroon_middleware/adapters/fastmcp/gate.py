"""The last gate: a server transform that puts the decision around every component itself.

It catches what passes by the middleware (`run_middleware=False`, a direct `.run()`), opens the frame of the body, and
holds the doors while an output rule applies. A guarded component is a copy that keeps its class's name and fields.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from fastmcp import FastMCP
from fastmcp.prompts.base import Prompt
from fastmcp.resources.base import Resource
from fastmcp.resources.template import FunctionResourceTemplate, ResourceTemplate
from fastmcp.server.transforms import (
    GetPromptNext,
    GetResourceNext,
    GetResourceTemplateNext,
    GetToolNext,
    Transform,
)
from fastmcp.tools.base import Tool
from fastmcp.tools.tool_transform import TransformedTool
from fastmcp.utilities.tasks import TaskConfig
from fastmcp.utilities.versions import VersionSpec

from ...model import Component
from . import depth
from .census import innermost, name_of
from .compat import GUARDED, MOUNTED, TASKS, AnyComponent, C, is_guarded, is_pure, with_parent
from .doors import guarded_error
from .frames import Frame, Ticket, body, entered, entering, frame, within
from .passage import Passage, confirmed, unfit
from .resolve import Found, LeafKey, key_of
from .shapes import SHAPES
from .turns import Turn

if TYPE_CHECKING:
    from .guard import Guard

KEPT: Final = 2048

Method = Callable[..., Awaitable[Any]]


class Role(NamedTuple):
    """What a guarded class is, looked up once: its shape, and whether it is a transformed tool."""

    shape: str
    transforms: bool


class Body(NamedTuple):
    """The method that a guarded class stands around."""

    method: Method
    name: str
    role: Role


class LastGate(Transform):
    """The gate of one server, shared by every guard that stands on it; always its last transform."""

    def __init__(self, server: FastMCP[Any]) -> None:
        self.server = server
        self._own: list[Guard] = []
        self._others: list[Guard] = []
        self._kept: dict[int, tuple[AnyComponent, AnyComponent]] = {}
        self._keys: dict[int, tuple[AnyComponent, LeafKey]] = {}
        self._classes: dict[tuple[type[Any], str, str], type[Any]] = {}

    def __repr__(self) -> str:
        return "LastGate()"

    def add(self, guard: Guard) -> None:
        """Lets a guard decide here: always at its own root, elsewhere for what entered through that root."""
        guards = self._own if guard.server is self.server else self._others
        if guard not in guards:
            guards.append(guard)

    def settle(self) -> None:
        """Moves the gate behind transforms that were added after it."""
        transforms = self.server._transforms
        if transforms[-1] is not self:
            transforms.remove(self)
            transforms.append(self)
            self._kept.clear()

    def guards(self, current: Frame) -> Sequence[Guard]:
        """The guards that this request must pass here, one a policy."""
        if len(self._own) == 1 and not self._others:
            guard = self._own[0]
            return (current.entries.get(guard.engine, guard),)
        found = {guard.engine: current.entries.get(guard.engine, guard) for guard in self._own}
        for guard in self._others:
            if guard.engine in current.entries:
                found.setdefault(guard.engine, current.entries[guard.engine])
        return tuple(found.values())

    # --- the transform --------------------------------------------------------------------------------------------

    async def list_tools(self, tools: Sequence[Tool]) -> Sequence[Tool]:
        return [self.guarded(tool) for tool in tools]

    async def get_tool(self, name: str, call_next: GetToolNext, *, version: VersionSpec | None = None) -> Tool | None:
        tool = await call_next(name, version=version)
        return self.guarded(tool) if tool is not None else None

    async def list_resources(self, resources: Sequence[Resource]) -> Sequence[Resource]:
        return [self.guarded(resource) for resource in resources]

    async def get_resource(
        self, uri: str, call_next: GetResourceNext, *, version: VersionSpec | None = None
    ) -> Resource | None:
        resource = await call_next(uri, version=version)
        return self.guarded(resource) if resource is not None else None

    async def list_resource_templates(self, templates: Sequence[ResourceTemplate]) -> Sequence[ResourceTemplate]:
        return [self.guarded(template) for template in templates]

    async def get_resource_template(
        self, uri: str, call_next: GetResourceTemplateNext, *, version: VersionSpec | None = None
    ) -> ResourceTemplate | None:
        template = await call_next(uri, version=version)
        return self.guarded(template) if template is not None else None

    async def list_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        return [self.guarded(prompt) for prompt in prompts]

    async def get_prompt(
        self, name: str, call_next: GetPromptNext, *, version: VersionSpec | None = None
    ) -> Prompt | None:
        prompt = await call_next(name, version=version)
        return self.guarded(prompt) if prompt is not None else None

    # --- guarded copies -------------------------------------------------------------------------------------------

    def guarded(self, component: C) -> C:
        """The component's guarded copy, kept by identity."""
        if is_guarded(component):
            return component
        kept = self._kept.get(id(component))
        if kept is not None and kept[0] is component:
            return kept[1]  # type: ignore[return-value]
        copy = self._copy(component)
        if len(self._kept) >= KEPT:
            self._kept.clear()
            self._keys.clear()
        self._kept[id(component)] = (component, copy)
        self._keys[id(copy)] = (copy, key_of(self.server, copy))
        return copy

    def _key(self, component: AnyComponent) -> LeafKey:
        known = self._keys.get(id(component))
        return known[1] if known is not None and known[0] is component else key_of(self.server, component)

    def _copy(self, component: C) -> C:
        changes: dict[str, Any] = {}
        tasks = component.task_config.mode if isinstance(component, Tool) else "forbidden"
        if isinstance(component, Tool) and not isinstance(component, MOUNTED) and tasks != "forbidden":
            changes = {"task_config": TaskConfig(mode="forbidden"), "execution": None}
        if isinstance(component, TransformedTool) and not isinstance(innermost(component), MOUNTED):
            copy: Any = with_parent(component, self._inner(component.parent_tool)).model_copy(update=changes)
        else:
            copy = component.model_copy(update=changes) if changes else component.model_copy()
        copy.__class__ = self._class(type(component), "outer", tasks)
        return copy  # type: ignore[no-any-return]

    def _inner(self, parent: Tool) -> Tool:
        """What a transform forwards to, with its real arguments judged again."""
        copy: Any = parent.model_copy()
        if isinstance(parent, TransformedTool):
            copy = with_parent(parent, self._inner(parent.parent_tool))
            copy.__class__ = _plain_class(type(parent))
            return copy  # type: ignore[no-any-return]
        copy.__class__ = self._class(_plain_class(type(parent)), "inner", "forbidden")
        return copy  # type: ignore[no-any-return]

    def _class(self, base: type[Any], role: str, tasks: str) -> type[Any]:
        found = self._classes.get((base, role, tasks))
        if found is None:
            found = self._classes[base, role, tasks] = _subclass(base, self._methods(base, role), tasks)
        return found

    def _methods(self, base: type[Any], role: str) -> dict[str, Any]:
        if role == "inner":
            return {"run": _inner_run(base.run)}
        if issubclass(base, MOUNTED):
            names = ("_run", "run", "_read", "_render", "render")
            return {name: self._entering(getattr(base, name)) for name in names if hasattr(base, name)}
        kind = Role(shape=_shape(base), transforms=issubclass(base, TransformedTool))
        return {name: self._around(Body(getattr(base, name), name, kind)) for name in _bodies(base)}

    def _entering(self, method: Method) -> Method:
        """A mounted component's method: it only marks that the request entered here."""

        async def enter(component: Any, *args: Any, **kwargs: Any) -> Any:
            current = entering()
            for guard in self.guards(current):
                current = entered(current, guard)
            with within(current):
                return await method(component, *args, **kwargs)

        return enter

    def _around(self, body_: Body) -> Method:
        """A body's method, inside the gate."""

        async def through(component: Any, *args: Any, **kwargs: Any) -> Any:
            return await self._pass(component, body_, args, kwargs)

        return through

    # --- a body runs ----------------------------------------------------------------------------------------------

    async def _pass(self, component: Any, body_: Body, args: Any, kwargs: dict[str, Any]) -> Any:
        current = entering()
        if current is not frame():
            with within(current):
                return await self._pass(component, body_, args, kwargs)
        guards = self.guards(current)
        if not guards:
            return await body_.method(component, *args, **kwargs)
        key, tickets = self._key(component), []
        for guard in guards:
            ticket = current.tickets.get(guard.engine)
            if ticket is None or key not in ticket.found.passes:
                return await self._decide_here(guard, component, body_, args, kwargs)
            tickets.append(ticket)
        keep = body_.role.transforms and isinstance(innermost(component), MOUNTED)
        if keep and is_pure(component):
            return await body_.method(component, *args, **kwargs)
        if not body_.role.transforms:
            for ticket in tickets:
                if ticket.looks:
                    args, kwargs = await _confirmed(ticket, component, body_, args, kwargs)
        with within(body(current, tuple(tickets), keep=keep)):
            ruled = [ticket for ticket in tickets if ticket.decision.after]
            if ruled:
                return await _held(ruled, component, body_, args, kwargs)
            return await body_.method(component, *args, **kwargs)

    async def _decide_here(self, guard: Guard, component: Any, body_: Body, args: Any, kwargs: dict[str, Any]) -> Any:
        """What came by the middleware is decided here; the caller is code, so a refusal is raised."""
        arguments = _arguments(component, args, kwargs)
        if frame().is_too_deep:
            await depth.refuse_code(guard, Component(kind=SHAPES[body_.role.shape].kind, name=name_of(component)))

        async def find() -> Found | None:
            found = await guard.resolver.offered(self.server, component)
            if found is not None and isinstance(component, ResourceTemplate):
                found = replace(found, params=arguments)
            return found

        async def proceed(turn: Turn) -> Any:
            raw = await self._pass(component, body_, args, kwargs)
            return component.convert_result(raw) if not isinstance(component, Tool) else raw

        shape = SHAPES[body_.role.shape]
        passage = Passage(guard, shape, name_of(component), arguments, find, raises=True)
        return await passage.take(proceed)


async def _held(tickets: Sequence[Ticket], component: Any, body_: Body, args: Any, kwargs: dict[str, Any]) -> Any:
    """A body under an output rule: what it raises leaves here already as one fixed text.

    So the server's own log has no traceback with a value either. The other doors are held further out, by the passage.
    """
    try:
        return await body_.method(component, *args, **kwargs)
    except Exception as error:
        passes = all(ticket.guard.passes for ticket in tickets)
        failure = guarded_error(SHAPES[body_.role.shape].name, error, passes=passes)
        if failure is error:
            raise
    arguments = _arguments(component, args, kwargs)
    raise unfit(component, arguments, tickets[0].found.server) or failure from None


def _plain_class(cls: type[Any]) -> type[Any]:
    """The class underneath a guarded one."""
    guarded: type[Any] | None = getattr(cls, GUARDED, None)
    return guarded if guarded is not None else cls


def _subclass(base: type[Any], methods: dict[str, Any], tasks: str) -> type[Any]:
    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__annotations__": {GUARDED: ClassVar[type[Any]], TASKS: ClassVar[str]},
        GUARDED: base,
        TASKS: tasks,
        **methods,
    }
    made: type[Any] = types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(namespace))
    return made


def _bodies(base: type[Any]) -> tuple[str, ...]:
    """The method to stand around: the one that all others of the class lead to."""
    if issubclass(base, Tool):
        return ("_run",) if base._run is not Tool._run else ("run",)
    if issubclass(base, Resource):
        return ("_read",) if base._read is not Resource._read else ("read",)
    if issubclass(base, FunctionResourceTemplate):
        return ("read",)
    if issubclass(base, ResourceTemplate):
        return ("_read",)
    return ("_render",) if base._render is not Prompt._render else ("render",)


def _inner_run(run: Method) -> Method:
    async def inner(tool: Any, arguments: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        for ticket in frame().running:
            if ticket.looks:
                arguments = await confirmed(ticket, tool, arguments)
        return await run(tool, arguments, *args, **kwargs)

    return inner


async def _confirmed(
    ticket: Ticket, component: Any, body_: Body, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's own arguments, replaced by those that it may be run with."""
    if body_.role.shape == "resource":
        return args, kwargs
    given = _arguments(component, args, kwargs)
    right = await confirmed(ticket, component, given)
    if right is given:
        return args, kwargs
    if body_.role.shape == "template" and body_.name == "_read":
        return (args[0], right), {}
    return (right, *args[1:]), {key: value for key, value in kwargs.items() if key != "arguments"}


def _arguments(component: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments object among what a component's method was called with."""
    if isinstance(component, Resource):
        return {}
    for value in (*args, kwargs.get("arguments"), kwargs.get("params")):
        if isinstance(value, dict):
            return value
    return {}


def _shape(base: type[Any]) -> str:
    known = {"tool": Tool, "resource": Resource, "template": ResourceTemplate, "prompt": Prompt}
    return next(shape for shape, cls in known.items() if issubclass(base, cls))
