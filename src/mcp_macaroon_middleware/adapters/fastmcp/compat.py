"""The parts of FastMCP that are not public and that the guard stands on, in one place, with a self-test at the start.

An upgrade that takes one of them away is noticed before anything is served, never in the middle of a request.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from fastmcp import FastMCP
from fastmcp.prompts.base import Prompt
from fastmcp.resources.base import Resource
from fastmcp.resources.template import ResourceTemplate
from fastmcp.server.middleware import Middleware
from fastmcp.server.providers import LocalProvider, Provider
from fastmcp.server.providers.fastmcp_provider import (
    FastMCPProvider,
    FastMCPProviderPrompt,
    FastMCPProviderResource,
    FastMCPProviderResourceTemplate,
    FastMCPProviderTool,
)
from fastmcp.server.providers.proxy import ProxyPrompt, ProxyProvider, ProxyResource, ProxyTemplate, ProxyTool
from fastmcp.server.providers.wrapped_provider import _WrappedProvider
from fastmcp.server.transforms import Transform
from fastmcp.tools.base import Tool
from fastmcp.tools.tool_transform import TransformedTool

from ...errors import BindError

AnyComponent = Tool | Resource | ResourceTemplate | Prompt
Mounted = FastMCPProviderTool | FastMCPProviderResource | FastMCPProviderPrompt | FastMCPProviderResourceTemplate
MOUNTED: Final = (
    FastMCPProviderTool,
    FastMCPProviderResource,
    FastMCPProviderPrompt,
    FastMCPProviderResourceTemplate,
)
REMOTE: Final = (ProxyTool, ProxyResource, ProxyTemplate, ProxyPrompt)
GUARDED: Final = "macaroon_guarded"
TASKS: Final = "macaroon_tasks"
C = TypeVar("C", Tool, Resource, ResourceTemplate, Prompt)


def mounted_server(provider: Provider) -> FastMCP[Any] | None:
    """The server that a provider mounts, under any transforms; None if it mounts none."""
    while isinstance(provider, _WrappedProvider):
        provider = provider._inner
    if isinstance(provider, FastMCP):
        return provider
    return provider.server if isinstance(provider, FastMCPProvider) else None


def is_remote(provider: Provider) -> bool:
    """Whether asking the provider for its components may wait for a network or a process."""
    while isinstance(provider, _WrappedProvider):
        provider = provider._inner
    return isinstance(provider, ProxyProvider)


def forget_remote(provider: Provider) -> None:
    """Drops what a proxy keeps of its server's lists, so that the next look-up asks for them."""
    while isinstance(provider, _WrappedProvider):
        provider = provider._inner
    if isinstance(provider, ProxyProvider):
        provider._tools_cache = provider._resources_cache = None
        provider._templates_cache = provider._prompts_cache = None


def mount_target(component: Mounted) -> tuple[FastMCP[Any], str]:
    """The server that a mounted component leads to, and its name there."""
    if isinstance(component, FastMCPProviderResource):
        name = component._original_uri
    elif isinstance(component, FastMCPProviderResourceTemplate):
        name = component._original_uri_template
    else:
        name = component._original_name
    if component._server is None or name is None:
        raise BindError("a mounted component does not say what it stands for")
    return component._server, name


def is_pure(tool: TransformedTool) -> bool:
    """Whether the transform only renames and fixes arguments, with no code of its own."""
    return tool.fn is tool.forwarding_fn


def with_parent(tool: TransformedTool, parent: Tool) -> TransformedTool:
    """A copy that forwards to `parent`. FastMCP's forwarding function keeps the parent in a closure."""
    forwarding = _rebound(tool.forwarding_fn, "parent_tool", parent)
    fn = forwarding if is_pure(tool) else tool.fn
    return tool.model_copy(update={"parent_tool": parent, "forwarding_fn": forwarding, "fn": fn})


def _rebound(function: Callable[..., Any], variable: str, value: Any) -> Callable[..., Any]:
    names = function.__code__.co_freevars
    if variable not in names or function.__closure__ is None:
        raise BindError("FastMCP's transformed tools keep their parent in another way than this version knows")
    cells = tuple(
        types.CellType(value) if name == variable else cell
        for name, cell in zip(names, function.__closure__, strict=True)
    )
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def is_guarded(component: AnyComponent) -> bool:
    """Whether this is a copy that the last gate made."""
    return GUARDED in type(component).__dict__


def task_mode(component: AnyComponent) -> str:
    """What the component's author said of background tasks, before the gate forbade them."""
    mode: str = getattr(type(component), TASKS, None) or component.task_config.mode
    return mode


def self_test() -> None:
    """Raises `BindError` that names what is gone."""
    missing = [what for what, there in _EXPECTED if not there()]
    if missing:
        raise BindError(
            f"this version of FastMCP lacks what the guard stands on: {', '.join(missing)}", code="fastmcp_changed"
        )
    _transform_test()


def _has(owner: Any, *names: str) -> Callable[[], bool]:
    return lambda: all(hasattr(owner, name) for name in names)


def _fields(model: Any, *names: str) -> Callable[[], bool]:
    return lambda: all(name in model.model_fields for name in names)


def _private(model: Any, *names: str) -> Callable[[], bool]:
    return lambda: all(name in model.__private_attributes__ for name in names)


def _phase_variable() -> bool:
    from fastmcp.server.middleware import middleware

    return hasattr(middleware, "_dispatch_phase")


def _request_parts() -> bool:
    from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx

    names = FastMCPRequestContext.__dataclass_fields__
    return fastmcp_request_ctx is not None and {"_srctx", "request", "protocol_version", "session"} <= set(names)


def _doors() -> bool:
    from .doors import works

    return works()


def _server_parts() -> bool:
    server: FastMCP[Any] = FastMCP("self-test")
    hints = getattr(server._mcp_server, "cache_hints", None)
    names = ("_transforms", "providers", "middleware", "_injected_tools", "_extension_methods", "_completion_handler")
    return isinstance(hints, dict) and all(hasattr(server, name) for name in names)


def _boundary() -> bool:
    from mcp.server.request_state import RequestStateBoundary

    server: FastMCP[Any] = FastMCP("self-test")
    chain = getattr(server._mcp_server, "middleware", None)
    return hasattr(server, "_request_state_security") and any(isinstance(m, RequestStateBoundary) for m in chain or ())


_EXPECTED: Final[Sequence[tuple[str, Callable[[], bool]]]] = (
    ("FastMCPProviderTool._server", _private(FastMCPProviderTool, "_server", "_original_name")),
    ("FastMCPProviderResource._server", _private(FastMCPProviderResource, "_server", "_original_uri")),
    ("FastMCPProviderPrompt._server", _private(FastMCPProviderPrompt, "_server", "_original_name")),
    (
        "FastMCPProviderResourceTemplate._server",
        _private(FastMCPProviderResourceTemplate, "_server", "_original_uri_template"),
    ),
    ("TransformedTool", _fields(TransformedTool, "parent_tool", "fn", "forwarding_fn", "transform_args")),
    ("Tool._run", _has(Tool, "_run", "run")),
    ("Resource._read", _has(Resource, "_read", "read")),
    ("ResourceTemplate._read", _has(ResourceTemplate, "_read", "read", "matches")),
    ("Prompt._render", _has(Prompt, "_render", "render")),
    ("Provider lists", _has(Provider, "_list_tools", "_list_resources", "_list_resource_templates", "_list_prompts")),
    ("Transform lists", _has(Transform, "list_tools", "get_tool")),
    ("Middleware", _has(Middleware, "__call__", "check_resource_access")),
    ("LocalProvider", _has(LocalProvider, "_list_tools")),
    ("the dispatch phase", _phase_variable),
    ("the request context", _request_parts),
    ("the server's parts", _server_parts),
    ("the doors of a running component", _doors),
    ("the boundary of request states", _boundary),
)


def _transform_test() -> None:
    """A transformed tool and a copy with another class must work as they do today."""

    def probe(a: int) -> int:
        return a

    parent = Tool.from_function(probe)
    with_parent(Tool.from_tool(parent, name="renamed"), parent)
    copy = parent.model_copy()
    base = type(parent)
    copy.__class__ = type(base.__name__, (base,), {"__module__": __name__})
    if not isinstance(copy, base) or copy.name != parent.name:
        raise BindError("FastMCP's tools cannot be given a guarded class", code="fastmcp_changed")
