"""Takes our credentials off a request once they are read: a proxied server or a component's code never gets them.

FastMCP passes a request's headers and `_meta` on to the servers that it proxies; a token is for this server alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fastmcp.server.dependencies import FastMCPRequestContext
from fastmcp.server.http import _current_http_request
from starlette.datastructures import Headers

from ...core.bearers import is_token
from .bearing import DISCHARGES, HEADER, TOKEN
from .copies import twin

KEPT: Final = "_macaroon_sent"
NOTHING: Final[Mapping[str, Any]] = {}


def brought(bound: FastMCPRequestContext | None) -> Mapping[str, Any]:
    """The token and discharges of a request's `_meta`, which loses them; the same however often it is asked."""
    if bound is None:
        return NOTHING
    known: Mapping[str, Any] | None = getattr(bound, KEPT, None)
    if known is not None:
        return known
    meta = bound.meta or {}
    found: dict[str, Any] = {key: meta[key] for key in (TOKEN, DISCHARGES) if key in meta}
    setattr(bound, KEPT, found)
    if found:
        left = {key: value for key, value in meta.items() if key not in found}
        source = bound._srctx
        bound.meta, bound._srctx = left, replace(source, params={**(source.params or {}), "_meta": left})
    return found


def again(bound: FastMCPRequestContext, **changes: Any) -> FastMCPRequestContext:
    """The same request with another session or other params: what was taken off stays off, and is known as before."""
    source = twin(bound._srctx, **changes)
    return twin(bound, session=source.session, _srctx=source, **{KEPT: brought(bound)})


def bare(bound: FastMCPRequestContext | None) -> None:
    """Takes our token and its discharges off the headers of the request in hand. Other credentials stay."""
    for request in (_current_http_request.get(), bound.request if bound is not None else None):
        if request is None:
            continue
        left = [(name, value) for name, value in request.scope["headers"] if not _is_ours(name, value)]
        if len(left) != len(request.scope["headers"]) or any(_is_ours(*pair) for pair in request.headers.raw):
            request.scope["headers"] = left
            request._headers = Headers(raw=left)


def _is_ours(name: bytes, value: bytes) -> bool:
    name = name.lower()
    if name == HEADER.lower().encode():
        return True
    return name == b"authorization" and is_token(value.decode("latin-1"))
