"""HTTP as the adapters read and write it: bodies, arguments, refusals, questions. It decides nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope

from ..errors import ArgumentsInvalid
from ..model import Challenge, Refusal
from .asgi_fields import Fields

LARGEST: Final = 1 << 20
"""Bytes of a request's body that rules may look at."""
ANY: Final = Fields()
"""A route that takes whatever is sent."""
NO_STORE: Final = {"Cache-Control": "no-store"}
UNAVAILABLE: Final = frozenset({"store_unavailable", "audit_unavailable", "busy", "internal", "not_ready"})


class TooLarge(ArgumentsInvalid):
    """A request's body is larger than may be looked at."""

    def __init__(self) -> None:
        super().__init__("The body is too large.")


async def whole(receive: Receive, limit: int) -> bytes:
    """The request's body. Raises `TooLarge`, and `ClientDisconnect` for one that never ends."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
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


async def arguments(
    request: Request, params: Mapping[str, Any], body: bytes | FormData, fields: Fields = ANY
) -> dict[str, Any]:
    """What rules see of a request as one set of arguments: what its route declares, as the endpoint gets it.

    A route that declares nothing (of another framework), or hands the whole request to its code, may take every name
    of the query and of a JSON body; of any other route a name that it does not declare satisfies no rule.
    Raises `ArgumentsInvalid` for what is not certain: a name that stands in two places with different values.
    """
    found: dict[str, Any] = dict(params)
    free = not fields.dependants or fields.reads_request
    if fields.dependants:
        for more in fields.params(request):
            _join(found, more)
    document = await _document(request, body, fields, free)
    try:
        for more in await fields.body(document) if fields.of_body else ():
            _join(found, more)
        if document is not None:
            _join(found, _beyond(found, document, fields.names("body_params"), free))
    finally:
        if isinstance(document, FormData) and document is not body:
            await document.close()  # read for the rules alone; the endpoint reads its own
    _join(found, _beyond(found, _query(request.scope), fields.names("query_params"), free))
    return found


async def _document(request: Request, body: bytes | FormData, fields: Fields, free: bool) -> Any:
    """The body as the route reads it: a form, a JSON object, or None for one that nobody looks at."""
    if not isinstance(body, bytes):
        return body
    if fields.takes_form:
        try:
            return await Request(request.scope, again(body, request.receive)).form()
        except (HTTPException, MultiPartException, ValueError):
            raise ArgumentsInvalid("the body is no form") from None
    looked_at = bool(fields.of_body) or free
    return _json(request.scope, body) if looked_at and body.strip() else None


def _beyond(
    found: Mapping[str, Any], values: Mapping[str, Any], declared: Container[str], free: bool
) -> dict[str, Any]:
    """What a part of a request holds beside what is declared for it; where it is not `free`, only a second value of a
    name that is declared elsewhere. What a form has uploaded is no value that rules could look at.
    """
    more = {name: each for name, each in values.items() if name not in declared and not isinstance(each, UploadFile)}
    return more if free else {name: each for name, each in more.items() if name in found}


def _query(scope: Scope) -> dict[str, Any]:
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
    return query


def _join(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds values. Of two that are the same as texts, that which is no text stays."""
    for name, value in more.items():
        if name in found and found[name] != value and str(found[name]) != str(value):
            raise ArgumentsInvalid(f"{name!r} is given twice, with different values")
        if name not in found or isinstance(found[name], str):
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
    return JSONResponse({"code": "unauthenticated"}, 401, headers=NO_STORE | _scheme(invalid=invalid))


def _scheme(*, invalid: bool) -> dict[str, str]:
    return {"WWW-Authenticate": 'Bearer error="invalid_token"' if invalid else "Bearer"}


def refused(refusal: Refusal, challenges: Iterable[Challenge] = ()) -> Response:
    """A refusal as JSON: 429 where waiting helps, 503 where trying later may, 401 for a token's end, 403 otherwise."""
    facts: dict[str, Any] = {"code": refusal.code, "message": refusal.reason}
    if refusal.policy is not None:
        facts["policy"] = refusal.policy
    headers, status = dict(NO_STORE), 503 if refusal.code in UNAVAILABLE else 403
    if refusal.code == "token_expired":
        headers, status = headers | _scheme(invalid=True), 401
    if refusal.retry_after is not None:
        seconds = max(1, math.ceil(min(refusal.retry_after, 2**31)))
        facts["retry_after"], status = seconds, 429
        headers["Retry-After"] = str(seconds)
    asked = [question(challenge) for challenge in challenges]
    if asked:
        facts["challenges"] = asked
    return JSONResponse(facts, status, headers=headers)


def invalid(error: ArgumentsInvalid) -> Response:
    """What is wrong with a request's arguments: 413 for a body that is too large, else 400."""
    status = 413 if isinstance(error, TooLarge) else 400
    return JSONResponse({"code": error.code, "message": str(error)}, status, headers=NO_STORE)


def withheld(status: int) -> Response:
    """In place of a response that may not leave. The status of an error stays; there is nothing else of it."""
    message = {"code": "withheld", "message": "The answer cannot be shown."}
    return JSONResponse(message, status if status >= 400 else 403, headers=NO_STORE)


def question(challenge: Challenge) -> dict[str, Any]:
    """A challenge as a client shows it: the message, and for each question what may be chosen."""
    return {
        "id": challenge.id,
        "message": challenge.message,
        "choices": [{choice.name: choice.title for choice in offers} for offers in challenge.choices],
        "expires": challenge.expires.isoformat() if challenge.expires is not None else None,
    }


def choices(request: Request, body: bytes) -> list[str]:
    """What a person chose, from `{"choices": ["once"]}` as JSON: no page of another site can post that.

    Raises `ArgumentsInvalid` for anything else.
    """
    given = parsed(body) if is_json(request) else None
    listed = given.get("choices") if isinstance(given, dict) else None
    if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
        raise ArgumentsInvalid('Post {"choices": ["once"]} as JSON.')
    return listed


def is_json(request: Request) -> bool:
    """Whether a request says that its body is JSON, and nothing else."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"
