"""Every component of a server and its mounts, each with all names on its way from the public one to the leaf's own.

It lists what providers and transforms say and runs no middleware and no component. FastMCP copies a component when a
namespace renames it, so the name underneath can only be learned here, by putting each component through its transforms.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastmcp import FastMCP
from fastmcp.resources.base import Resource
from fastmcp.resources.template import ResourceTemplate
from fastmcp.server.providers import Provider
from fastmcp.server.providers.wrapped_provider import _WrappedProvider
from fastmcp.server.transforms import Transform
from fastmcp.server.transforms.catalog import CatalogTransform
from fastmcp.tools.base import Tool
from fastmcp.tools.tool_transform import TransformedTool

from ...model import Kind
from ...rules import normal_uri
from .compat import MOUNTED, AnyComponent, is_remote, mount_target, mounted_server

logger: Final = logging.getLogger("mcp_macaroon_middleware")

LISTS: Final[Mapping[str, str]] = {
    "tool": "list_tools",
    "resource": "list_resources",
    "template": "list_resource_templates",
    "prompt": "list_prompts",
}
KIND_OF: Final[Mapping[str, Kind]] = {
    "tool": Kind.TOOL,
    "resource": Kind.RESOURCE,
    "template": Kind.RESOURCE,
    "prompt": Kind.PROMPT,
}
_GENERATED: Final = re.compile(r"[A-Za-z0-9_]+-[0-9a-f]{4}\Z")

Key = tuple[str, str, str | None]
"""What a component is (`tool`, `resource`, `template`, `prompt`), its name at a server, its version."""


def shape_of(component: AnyComponent) -> str:
    """`tool`, `resource`, `template` or `prompt`."""
    if isinstance(component, Tool):
        return "tool"
    if isinstance(component, Resource):
        return "resource"
    return "template" if isinstance(component, ResourceTemplate) else "prompt"


def name_of(component: AnyComponent) -> str:
    """The name by which a request asks for it: a name, a URI, or a URI template."""
    if isinstance(component, Resource):
        return str(component.uri)
    return component.uri_template if isinstance(component, ResourceTemplate) else component.name


def spelled(shape: str, name: str) -> str:
    """A name as rules compare it: URIs in their one spelling."""
    return normal_uri(name) if shape in ("resource", "template") else name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One component as a server offers it.

    `own` are its names at this server, the offered one first; `inner` those at the servers that it is mounted from,
    with and without `child/`. `core` is the component that really runs, `server` where it lives and `leaf` its own
    name there; `path` are the labels on the way, `hops` every (server, key) that a call to it passes.
    """

    component: AnyComponent
    core: AnyComponent
    own: tuple[str, ...]
    inner: tuple[str, ...] = ()
    server: FastMCP[Any]
    leaf: str
    path: tuple[str, ...] = ()
    hops: tuple[tuple[int, Key], ...] = ()

    @property
    def shape(self) -> str:
        """`tool`, `resource`, `template` or `prompt`."""
        return shape_of(self.component)

    @property
    def key(self) -> Key:
        """The component's key at the offering server."""
        return self.shape, name_of(self.component), self.component.version

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in the chain, the public one first, the leaf's own last."""
        found = dict.fromkeys(spelled(self.shape, name) for name in (*self.own, *self.inner))
        found.pop(self.leaf, None)
        return (*found, self.leaf)


@dataclass(slots=True)
class Census:
    """The components of one server, by key, with what could not be listed."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    by_hop: dict[tuple[int, Key], list[Entry]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every provider could be listed."""
        return not self.missing

    def add(self, entry: Entry) -> None:
        """Takes an entry; of two with one key, FastMCP answers with the first."""
        if entry.key not in self.entries:
            self.entries[entry.key] = entry
            for hop in entry.hops:
                self.by_hop.setdefault(hop, []).append(entry)


async def take(server: FastMCP[Any], *, remote: bool = True) -> Census:
    """The census of a server. Without `remote`, providers that may wait for a network are only noted as missing."""
    census = Census()
    taker = _Taker(census, remote=remote)
    for shape in LISTS:
        for entry in await taker.server(server, shape, ()):
            census.add(entry)
    return census


class _Taker:
    def __init__(self, census: Census, *, remote: bool) -> None:
        self._census = census
        self._remote = remote

    async def server(self, server: FastMCP[Any], shape: str, above: tuple[int, ...]) -> list[Entry]:
        """The entries of a server, after its own transforms."""
        if id(server) in above:
            return []
        found: list[Entry] = []
        for number, provider in enumerate(server.providers):
            found += await self._provider(server, provider, shape, (*above, id(server)), number)
        found = await self._transformed(server, server.transforms, shape, found)
        if shape == "tool":
            found = [*_injected(server), *found]
        return [replace(entry, hops=((id(server), entry.key), *entry.hops)) for entry in found]

    async def _provider(
        self, owner: FastMCP[Any], provider: Provider, shape: str, above: tuple[int, ...], number: int
    ) -> list[Entry]:
        if isinstance(provider, _WrappedProvider):
            found = await self._provider(owner, provider._inner, shape, above, number)
        elif (child := mounted_server(provider)) is not None:
            label = label_of(child, number)
            found = [_mounted(child, label, entry) for entry in await self.server(child, shape, above)]
        else:
            found = [await self._plain(owner, item) for item in await self._list(owner, provider, shape)]
        return await self._transformed(owner, provider.transforms, shape, found)

    async def _list(self, owner: FastMCP[Any], provider: Provider, shape: str) -> Sequence[Any]:
        if is_remote(provider) and not self._remote:
            self._note(f"{owner.name}: {provider!r}")
            return ()
        try:
            return list(await getattr(provider, f"_{LISTS[shape]}")())
        except Exception as error:  # FastMCP skips a provider that fails; so is it here, and said
            logger.warning("a provider of %r cannot be listed: %s", owner.name, type(error).__name__)
            self._note(f"{owner.name}: {provider!r} ({type(error).__name__})")
            return ()

    def _note(self, text: str) -> None:
        if text not in self._census.missing:
            self._census.missing.append(text)

    async def _plain(self, owner: FastMCP[Any], component: AnyComponent) -> Entry:
        """A provider's own component; an alias of another tool bears the other's names too."""
        own = list(chain_of(component))
        last = innermost(component)
        if not isinstance(last, MOUNTED):
            shape = shape_of(component)
            return Entry(component=component, core=last, own=tuple(own), server=owner, leaf=spelled(shape, own[-1]))
        child, name = mount_target(last)
        for entry in await self.server(child, shape_of(last), (id(owner),)):
            if name_of(entry.component) == name:
                mounted = _mounted(child, label_of(child, 0), entry)
                return replace(mounted, component=component, own=tuple(own), hops=entry.hops)
        return Entry(component=component, core=last, own=(*own, name), server=child, leaf=name)

    async def _transformed(
        self, owner: FastMCP[Any], transforms: Sequence[Transform], shape: str, entries: list[Entry]
    ) -> list[Entry]:
        for transform in transforms:
            lister = getattr(transform, LISTS[shape])
            added = await _added(lister)
            names = {name_of(item) for item in added}
            if not isinstance(transform, CatalogTransform):
                entries = [
                    renamed for entry in entries if (renamed := await _renamed(lister, entry, names)) is not None
                ]
            entries += [await self._plain(owner, item) for item in added]
        return entries


async def _added(lister: Any) -> Sequence[AnyComponent]:
    """What a transform adds of its own to any list."""
    try:
        return list(await lister([]))
    except Exception:  # a catalog that needs a request to be listed
        return ()


async def _renamed(lister: Any, entry: Entry, added: set[str]) -> Entry | None:
    """The entry as the transform lists it; None where it drops it."""
    listed = [item for item in await lister([entry.component]) if name_of(item) not in added]
    if not listed:
        return None
    component = listed[0]
    own = dict.fromkeys((*chain_of(component), *entry.own)) if component is not entry.component else entry.own
    if name_of(component) == entry.own[0]:
        return replace(entry, component=component)
    return replace(entry, component=component, own=(name_of(component), *(n for n in own if n != name_of(component))))


def _mounted(child: FastMCP[Any], label: str, entry: Entry) -> Entry:
    """A child's entry as its parent's provider offers it, before the parent's transforms."""
    below = tuple(name for name in entry.inner if "/" in name and spelled(entry.shape, name) == name)
    labelled = [f"{label}/{name}" for name in (*entry.own, *below)]
    return Entry(
        component=_wrapped(child, entry.component),
        core=entry.core,
        own=(name_of(entry.component),),
        inner=tuple(dict.fromkeys((*labelled, *entry.own, *entry.inner))),
        server=entry.server,
        leaf=entry.leaf,
        path=(label, *entry.path),
        hops=entry.hops,
    )


def _wrapped(child: FastMCP[Any], component: AnyComponent) -> AnyComponent:
    wrappers: Sequence[Any] = MOUNTED
    wrapped: AnyComponent = wrappers[("tool", "resource", "prompt", "template").index(shape_of(component))].wrap(
        child, component
    )
    return wrapped


def _injected(server: FastMCP[Any]) -> Iterable[Entry]:
    for tool in server._injected_tools():
        own = tuple(chain_of(tool))
        yield Entry(component=tool, core=innermost(tool), own=own, server=server, leaf=own[-1])


def innermost(component: AnyComponent) -> AnyComponent:
    """What a transformed tool stands for in the end, in its own server."""
    while isinstance(component, TransformedTool):
        component = component.parent_tool
    return component


def chain_of(component: AnyComponent) -> list[str]:
    """The names that a component itself carries: its own, those that it transforms, a remote one's real name."""
    names = [name_of(component)]
    while isinstance(component, TransformedTool):
        component = component.parent_tool
        names.append(name_of(component))
    for attribute in ("_backend_name", "_backend_uri", "_backend_uri_template"):
        real = getattr(component, attribute, None)
        if isinstance(real, str):
            names.append(real)
    return list(dict.fromkeys(names))


def label_of(server: FastMCP[Any], number: int) -> str:
    """The name of a mounted server in `child/name`; a generated name gives way to its place among the mounts."""
    return f"mount{number}" if _GENERATED.match(server.name) else server.name


__all__ = ["Census", "Entry", "Key", "label_of", "name_of", "shape_of", "spelled", "take"]
