"""From what a request names to the component that will run: through hashed names, mounts, renames, versions, URIs.

What cannot be resolved gives None, and is refused exactly as an unknown component. It runs no component.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import fastmcp.resources.template
from fastmcp import FastMCP
from fastmcp.resources.template import ResourceTemplate, forward_uri
from fastmcp.server.context import Context, _current_context
from fastmcp.server.providers.addressing import parse_hashed_backend_name
from fastmcp.server.providers.fastmcp_provider import FastMCPProviderResourceTemplate
from fastmcp.server.providers.prefab_synthesis import synthesize_prefab_resource_by_uri
from fastmcp.server.providers.proxy import ProxyTemplate
from fastmcp.tools.tool_transform import TransformedTool
from fastmcp.utilities.versions import VersionSpec, version_sort_key

from ...errors import ArgumentsInvalid, AuditUnavailable
from ...model import EMPTY, Component
from ...rules import normal_uri
from . import census as counting
from .arguments import coerced, is_local
from .census import KIND_OF, Census, Entry, Key, chain_of, label_of, name_of, shape_of, spelled
from .compat import MOUNTED, AnyComponent, forget_remote, mount_target
from .definitions import digest_of
from .uris import canonical, file_objection, objection, spellings

logger: Final = logging.getLogger("mcp_macaroon_middleware")

LOOKS_TWICE: Final = hasattr(fastmcp.resources.template, "template_param_key")
"""From 4.2 on FastMCP looks through the templates once more before it says that none fits a URI."""

RENDERED: Final = "ui://prefab/"
"""What the addresses of pages that FastMCP makes for tools begin with."""

LeafKey = tuple[int, str, str, str | None]
"""The server's identity, the kind, the component's name there and its version."""

NOBODY_BEARS: Final = "unknown://"
"""What a name begins with that is looked up for the sake of its cost alone."""
FRESH: Final = 1.0
MOST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A resolved component: as rules see it, and as FastMCP will run it.

    `offered` is the object at the server that was asked, `leaf` the one that runs, `transforms` the transformed tools
    between them, outermost first. `passes` are the keys at every server on the way. `params` are a template's, in the
    leaf's names.
    """

    component: Component
    key: LeafKey
    server: FastMCP[Any]
    offered: AnyComponent
    leaf: AnyComponent
    passes: frozenset[LeafKey]
    transforms: tuple[TransformedTool, ...] = ()
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """A resource that exists and is refused for its spelling."""

    why: str


@dataclass(slots=True)
class _Trail:
    """What a walk from an offered component to its leaf has passed."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    transforms: list[TransformedTool] = field(default_factory=list)
    passes: set[LeafKey] = field(default_factory=set)

    def step(self, shape: str, component: AnyComponent) -> None:
        for name in chain_of(component):
            self.names.append(spelled(shape, name))
            if self.labels:
                self.names.append(f"{self.labels[-1]}/{spelled(shape, name)}")


def context_at(server: FastMCP[Any]) -> AbstractAsyncContextManager[object]:
    """The context in which FastMCP itself looks a component up at this server.

    A server keeps what a session has switched on and off in its own state store and finds that by the context in hand,
    so a mounted server's lookup in the context of the server above it would see other components than its call does.
    """
    current = _current_context.get()
    return nullcontext() if current is not None and current.fastmcp is server else Context(fastmcp=server)


class Resolver:
    """Resolves names for one guarded root. What it found is kept for a second, by component, never by what fails."""

    def __init__(self, root: FastMCP[Any], known: Known) -> None:
        self.root = root
        self.census = Census()
        self._known = known
        self._kept: dict[tuple[int, str, str, str | None], tuple[float, object, Found]] = {}

    def adopt(self, census: Census) -> None:
        """Takes a census of the root."""
        self.census = census
        self._kept.clear()

    def forget(self, servers: Sequence[FastMCP[Any]]) -> None:
        """Drops what is kept of the servers behind, so that the next component that is found is today's."""
        self._kept.clear()
        for server in servers:
            for provider in server.providers:
                forget_remote(provider)

    # --- tools and prompts ----------------------------------------------------------------------------------------

    async def tool(self, server: FastMCP[Any], name: str, version: VersionSpec | None = None) -> Found | None:
        """The tool that a call of `name` at `server` runs."""
        return await self._named(server, "tool", name, version)

    async def prompt(self, server: FastMCP[Any], name: str, version: VersionSpec | None = None) -> Found | None:
        """The prompt that `name` at `server` renders."""
        return await self._named(server, "prompt", name, version)

    def recall(self, server: FastMCP[Any], shape: str, name: str, version: VersionSpec | None = None) -> Found | None:
        """What was found for this name within the last second, if nothing has changed since."""
        if version is not None and version.eq is None:
            return None
        return self._recall(server, (id(server), shape, name, version.eq if version is not None else None))

    async def _named(self, server: FastMCP[Any], shape: str, name: str, version: VersionSpec | None) -> Found | None:
        kept = self.recall(server, shape, name, version)
        if kept is not None:
            return kept
        offered = await self._look(server, shape, name, version)
        if offered is None:
            return None
        found = await self.offered(server, offered)
        wanted = version.eq if version is not None else None
        if found is not None and (version is None or wanted == found.offered.version):
            self._keep(server, (id(server), shape, name, wanted), found)
        return found

    def seeking(self, server: FastMCP[Any], shape: str, *, recalled: bool) -> Callable[[Found], Awaitable[None]]:
        """What remains to be done for a hidden component, so that it costs as much as a name that nothing bears.

        Each server behind is asked as often. `recalled`: it was known, and nobody was asked yet.
        """

        async def seek(found: Found) -> None:
            name = f"{NOBODY_BEARS}{secrets.token_hex(8)}"
            if recalled:
                await self._look(server, shape, name, None)
            if shape != "resource":
                return
            with contextlib.suppress(Exception):
                if found.component.uri is None:
                    await server.get_resource_template(name, None)
                elif LOOKS_TWICE:
                    await server.list_resource_templates(run_middleware=False)

        return seek

    async def listed(self, server: FastMCP[Any], component: AnyComponent) -> Found | None:
        """`offered`, kept for a second."""
        key = (id(server), shape_of(component), name_of(component), component.version or "")
        kept = self._recall(server, key)
        if kept is not None:
            return kept
        found = await self.offered(server, component)
        if found is not None:
            self._keep(server, key, found)
        return found

    async def template(self, server: FastMCP[Any], uri_template: str) -> Found | None:
        """The template itself, or the exact resource, that a completion refers to."""
        templates = await server.list_resource_templates(run_middleware=False)
        named = [template for template in templates if template.uri_template == uri_template]
        if not named:
            return await self._named(server, "resource", uri_template, None)
        return await self.offered(server, max(named, key=version_sort_key))

    async def offered(self, server: FastMCP[Any], component: AnyComponent) -> Found | None:
        """What a component that `server` offers (in a list, say) leads to. For templates: the template itself."""
        shape, trail = shape_of(component), _Trail()
        at, current = server, component
        while True:
            trail.step(shape, current)
            trail.passes.add(key_of(at, current))
            level = current
            while isinstance(current, TransformedTool):
                trail.transforms.append(current)
                current = current.parent_tool
            if not isinstance(current, MOUNTED):
                return await self._found(server, component, at, level, current, trail)
            child, name = mount_target(current)
            below = await self._below(child, shape, name, current.version)
            if below is None:
                return None
            trail.labels.append(label_of(child, 0))
            at, current = child, below

    async def _below(self, child: FastMCP[Any], shape: str, name: str, version: str | None) -> AnyComponent | None:
        spec = VersionSpec(eq=version) if version else None
        if shape == "template":
            templates = await child.list_resource_templates(run_middleware=False)
            return next((t for t in templates if t.uri_template == name and t.version == version), None)
        return await self._look(child, shape, name, spec)

    async def _look(
        self, server: FastMCP[Any], shape: str, name: str, version: VersionSpec | None
    ) -> AnyComponent | None:
        """The server's own lookup. Whatever goes wrong in it, the component is unknown."""
        try:
            async with context_at(server):
                if shape == "prompt":
                    return await server.get_prompt(name, version)
                if shape == "resource":
                    return await server.get_resource(name, version)
                tool = await server.get_tool(name, version)
                hashed = parse_hashed_backend_name(name) if tool is None else None
                return await server.get_tool_by_hash(*hashed) if hashed is not None else tool
        except Exception as error:
            logger.warning("a %s cannot be looked up: %s", shape, type(error).__name__)
            return None

    # --- resources ------------------------------------------------------------------------------------------------

    async def resource(
        self, server: FastMCP[Any], uri: str, version: VersionSpec | None = None
    ) -> Found | Objection | None:
        """The resource that a read of `uri` at `server` reads: the exact one, else a template with its parameters."""
        if uri.startswith(RENDERED):
            rendered = await synthesize_prefab_resource_by_uri(server, uri)
            if rendered is not None:
                return await self._found(server, rendered, server, rendered, rendered, _Trail(names=[uri]))
        exact = await self._named(server, "resource", uri, version)
        if exact is not None:
            why = None if await self._entries(server, exact.offered) else file_objection(uri)
            return exact if why is None else Objection(why=why)
        try:
            async with context_at(server):
                template = await server.get_resource_template(uri, version)
        except Exception as error:
            logger.warning("a resource template cannot be looked up: %s", type(error).__name__)
            return None
        params = template.matches(uri) if template is not None else None
        if template is None or params is None:
            return None
        return await self._templated(server, template, params, uri)

    async def _templated(
        self, server: FastMCP[Any], template: ResourceTemplate, params: Mapping[str, Any], uri: str
    ) -> Found | Objection | None:
        why = objection(template, params, uri, remote=isinstance(template, ProxyTemplate))
        if why is not None:
            return Objection(why=why)
        if isinstance(template, FastMCPProviderResourceTemplate):
            child, inner = mount_target(template)
            spec = VersionSpec(eq=template.version) if template.version else None
            below = await self.resource(child, forward_uri(inner, dict(params), uri), spec)
            if not isinstance(below, Found):
                return below
            outer = await self._entries(server, template)
            component = self._seen(server, template, params, outer, below)
            passes = below.passes | {key_of(server, template)}
            return replace(below, offered=template, component=component, passes=passes)
        entries = await self._entries(server, template)
        component = self._seen(server, template, params, entries, None)
        key = key_of(server, template)
        return Found(
            component=component,
            key=key,
            server=server,
            offered=template,
            leaf=template,
            passes=frozenset((key,)),
            params=dict(params),
        )

    def _seen(
        self,
        server: FastMCP[Any],
        template: ResourceTemplate,
        params: Mapping[str, Any],
        entries: Sequence[Entry],
        below: Found | None,
    ) -> Component:
        """A templated read as rules see it: the template, the concrete URI, and what both are called further in."""
        leaf = below.component if below is not None else None
        values = _taken(template, params, server) if below is None else _taken(below.leaf, params, below.server)
        names = [*_names(entries), *spellings(template, params, values)]
        if leaf is not None:
            names += [leaf.name, *leaf.names, *((leaf.uri,) if leaf.uri else ())]
        own = normal_uri(template.uri_template)
        names.append(names.pop(names.index(leaf.names[-1] if leaf and leaf.names else own)) if names else own)
        return Component(
            kind=KIND_OF["template"],
            name=self._exposed(server, template, entries),
            names=tuple(dict.fromkeys(reversed(names)))[::-1],
            server=_path(entries) if leaf is None else "/".join(filter(None, (_path(entries) or leaf.server,))),
            version=template.version,
            digest=leaf.digest if leaf is not None else digest_of(template),
            uri=canonical(template, params),
        )

    # --- what was found -------------------------------------------------------------------------------------------

    async def _found(
        self,
        server: FastMCP[Any],
        offered: AnyComponent,
        at: FastMCP[Any],
        level: AnyComponent,
        leaf: AnyComponent,
        trail: _Trail,
    ) -> Found:
        entries = await self._entries(server, offered)
        leaf_name = spelled(shape_of(leaf), chain_of(leaf)[-1])
        names = dict.fromkeys((*_names(entries), *trail.names))
        names.pop(leaf_name, None)
        component = Component(
            kind=KIND_OF[shape_of(leaf)],
            name=self._exposed(server, offered, entries),
            names=(*names, leaf_name),
            server=_path(entries) or "/".join(trail.labels),
            version=offered.version,
            digest=digest_of(leaf),
        )
        self._known.meet(component)
        return Found(
            component=component,
            key=key_of(at, level),
            server=at,
            offered=offered,
            leaf=leaf,
            passes=frozenset(trail.passes | {key_of(at, level)}),
            transforms=tuple(trail.transforms),
        )

    async def _entries(self, server: FastMCP[Any], offered: AnyComponent) -> Sequence[Entry]:
        """The root's entries that a call of this component at this server belongs to; a new one is counted first."""
        hop = (id(server), _key(offered))
        entries = self._at(server, hop)
        if not entries and not self.census.missing:
            self.adopt(await counting.take(self.root))
            entries = self._at(server, hop)
        return entries

    def _at(self, server: FastMCP[Any], hop: tuple[int, Key]) -> Sequence[Entry]:
        if server is self.root:
            entry = self.census.entries.get(hop[1])
            return (entry,) if entry is not None else ()
        return self.census.by_hop.get(hop, ())

    def _exposed(self, server: FastMCP[Any], offered: AnyComponent, entries: Sequence[Entry]) -> str:
        """The public name: the root's own, or the one under which the root offers what a mounted server calls."""
        shape = shape_of(offered)
        if server is self.root:
            return spelled(shape, name_of(offered))
        if entries:
            return spelled(shape, name_of(entries[0].component))
        return f"{label_of(server, 0)}/{spelled(shape, name_of(offered))}"

    # --- what is kept ---------------------------------------------------------------------------------------------

    def _recall(self, server: FastMCP[Any], key: tuple[int, str, str, str | None]) -> Found | None:
        kept = self._kept.get(key)
        if kept is None or kept[0] < time.monotonic() or kept[1] != _signature(server):
            return None
        return kept[2]

    def _keep(self, server: FastMCP[Any], key: tuple[int, str, str, str | None], found: Found) -> None:
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[key] = (time.monotonic() + FRESH, _signature(server), found)


class Known:
    """The definitions that have been seen; a new one after the start is written down (THREATS J04)."""

    def __init__(self, audit: Any) -> None:
        self._audit = audit
        self._seen: set[tuple[str, str]] = set()
        self.settled = False

    def learn(self, census: Census) -> None:
        """Notes everything of a census, as known from the start."""
        settled, self.settled = self.settled, False
        for entry in census.entries.values():
            self.meet(counted(entry))
        self.settled = settled

    def meet(self, component: Component) -> None:
        """Notes a definition; after the start, with an audit event the first time."""
        mark = (component.key, component.digest)
        if mark in self._seen:
            return
        if len(self._seen) >= 16 * MOST:
            self._seen.clear()
        self._seen.add(mark)
        if not self.settled:
            return
        facts = {"kind": component.kind.value, "name": component.name, "digest": component.digest}
        try:
            self._audit.event("component", facts | ({"server": component.server} if component.server else {}))
        except AuditUnavailable:
            logger.error("a new component could not be recorded")


def counted(entry: Entry) -> Component:
    """A census entry as the component that a request for it finds."""
    shape, name, version = entry.key
    return Component(
        kind=KIND_OF[shape],
        name=spelled(shape, name),
        names=entry.names,
        server="/".join(entry.path),
        version=version,
        digest=digest_of(entry.core),
    )


def key_of(server: FastMCP[Any], component: AnyComponent) -> LeafKey:
    """What tells a component at one server from every other."""
    return id(server), *_key(component)


def _key(component: AnyComponent) -> Key:
    return shape_of(component), name_of(component), component.version


def _taken(leaf: AnyComponent, params: Mapping[str, Any], server: FastMCP[Any]) -> Mapping[str, Any]:
    """A template's parameters as its function gets them; nothing where it does not take them."""
    try:
        return coerced(leaf, params, server) if is_local(leaf) else EMPTY
    except ArgumentsInvalid:
        return EMPTY


def _names(entries: Sequence[Entry]) -> list[str]:
    return [name for entry in entries for name in entry.names]


def _path(entries: Sequence[Entry]) -> str:
    return "/".join(entries[0].path) if entries else ""


def _signature(server: FastMCP[Any]) -> object:
    """What changes when a server gets other providers, transforms or injected tools."""
    return (
        *map(id, server.providers),
        len(server._transforms),
        len(server.middleware),
        len(server.local_provider._components),
    )
