"""HTTP as the ASGI adapter reads and writes it: bodies, arguments, routes, answers. It decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope

from ..errors import ArgumentsInvalid
from ..model import Challenge, Component, Kind, Refusal

LARGEST: Final = 1 << 20
"""Bytes of a request's body that rules may look at."""
UNAVAILABLE: Final = frozenset({"store_unavailable", "audit_unavailable", "busy", "internal", "not_ready"})


class TooLarge(Exception):
    """A request's body is larger than may be looked at."""


async def whole(receive: Receive, limit: int) -> bytes:
    """The request's body. Raises `TooLarge`."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        size += len(message.get("body", b""))
        if size > limit:
            raise TooLarge
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what comes after it."""
    sent = False

    async def receiving() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


def component(scope: Scope, routes: Sequence[Any]) -> tuple[Component, Mapping[str, Any], bool]:
    """What a request is for, by its route's template; the path's own parameters; whether any route was found."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    path = scope.get("path", "/")
    template, params = _route(scope, routes)
    exposed = f"{method} {template or path}"
    names = tuple(dict.fromkeys((exposed, f"{method} {path}")))
    return Component(kind=Kind.TOOL, name=exposed, names=names), params, template is not None


def _route(scope: Scope, routes: Sequence[Any], prefix: str = "") -> tuple[str | None, Mapping[str, Any]]:
    for route in routes:
        match, inner = route.matches(scope)
        if match is not Match.FULL:
            continue
        own, params = getattr(route, "path", ""), dict(inner.get("path_params", {}))
        nested = getattr(route, "routes", None)
        if nested:
            found, more = _route({**scope, **inner}, nested, prefix + own)
            return found, {**params, **more}
        return prefix + own, params
    return None, {}


def arguments(scope: Scope, params: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """Path, query and JSON body as one set of arguments. Raises `ArgumentsInvalid` for what is not certain.

    A name that stands in two places with different values could mean either, so it is refused.
    """
    found: dict[str, Any] = dict(params)
    try:
        pairs = parse_qsl(scope.get("query_string", b"").decode("ascii"), keep_blank_values=True, strict_parsing=False)
    except (ValueError, UnicodeDecodeError):
        raise ArgumentsInvalid("the query cannot be read") from None
    query: dict[str, Any] = {}
    for name, value in pairs:
        if name in query:
            query[name] = [*(query[name] if isinstance(query[name], list) else [query[name]]), value]
        else:
            query[name] = value
    _join(found, query)
    if body.strip():
        _join(found, _json(scope, body))
    return found


def _join(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in found and found[name] != value and str(found[name]) != str(value):
            raise ArgumentsInvalid(f"{name!r} is given twice, with different values")
        found[name] = value


def _json(scope: Scope, body: bytes) -> Mapping[str, Any]:
    kind = Request(scope).headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ArgumentsInvalid("the body is not JSON, so that rules cannot look at it")
    value = parsed(body)
    if not isinstance(value, dict):
        raise ArgumentsInvalid("the body is not a JSON object, so that rules cannot look at it")
    return value


def parsed(body: bytes) -> Any:
    """JSON without repeated keys. Raises `ArgumentsInvalid`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError
        return made

    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ArgumentsInvalid("the body is no JSON, or repeats a key") from None


def _no_constant(_: str) -> Any:
    raise ValueError


# --- answers ----------------------------------------------------------------------------------------------------------


def unauthorized(*, invalid: bool) -> Response:
    """401: without a credential no more than the scheme, with one that it is not valid. Source: RFC 6750, 3."""
    challenge = 'Bearer error="invalid_token"' if invalid else "Bearer"
    return JSONResponse(
        {"code": "unauthenticated"}, 401, headers={"WWW-Authenticate": challenge, "Cache-Control": "no-store"}
    )


def refused(refusal: Refusal, challenges: Iterable[Challenge] = ()) -> Response:
    """A refusal as JSON: 429 where waiting helps, 503 where trying later may, 403 otherwise."""
    facts: dict[str, Any] = {"code": refusal.code, "message": refusal.reason}
    if refusal.policy is not None:
        facts["policy"] = refusal.policy
    headers = {"Cache-Control": "no-store"}
    status = 503 if refusal.code in UNAVAILABLE else 401 if refusal.code == "token_expired" else 403
    if refusal.retry_after is not None:
        seconds = max(1, math.ceil(min(refusal.retry_after, 2**31)))
        facts["retry_after"], status = seconds, 429
        headers["Retry-After"] = str(seconds)
    asked = [question(challenge) for challenge in challenges]
    if asked:
        facts["challenges"] = asked
    return JSONResponse(facts, status, headers=headers)


def question(challenge: Challenge) -> dict[str, Any]:
    """A challenge as a client shows it: the message, and for each question what may be chosen."""
    return {
        "id": challenge.id,
        "message": challenge.message,
        "choices": [{choice.name: choice.title for choice in offers} for offers in challenge.choices],
        "expires": challenge.expires.isoformat() if challenge.expires is not None else None,
    }
