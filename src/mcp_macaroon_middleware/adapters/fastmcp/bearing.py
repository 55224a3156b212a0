"""Tokens on their way in: from a request's credential, from its `_meta`, from the process. It judges no rule of theirs.

Over HTTP the credential is `Authorization: Bearer mm_…`, seen by `MacaroonAuth`; discharges come in the header
`Macaroon-Discharge` or in `_meta`. On stdio and in memory the token itself comes in `_meta`, or is the process's own.
A token in `_meta` beside a credential must have been narrowed from it, and takes its place for this one request, with
the discharges that come with it there: those of the header are bound to the credential.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastmcp.server.auth import AccessToken
from pydantic import PrivateAttr

from ...core.bearers import Bearer, Bearers, narrows
from ...errors import TokenInvalid

HEADER: Final = "Macaroon-Discharge"
TOKEN: Final = "mcp-macaroon/token"  # noqa: S105 (a name)
DISCHARGES: Final = "mcp-macaroon/discharges"
MOST: Final = 16
"""Discharges that a request may bring; more are refused before any is read."""


class MacaroonAccessToken(AccessToken):
    """A token as FastMCP carries it. `token` is a digest: nothing that reads this can pass the credential on.

    It counts for nothing by itself: the guard takes it up, with what the request brings besides.
    """

    _text: str = PrivateAttr("")
    _discharges: tuple[str, ...] = PrivateAttr(())
    _bearer: Bearer | None = PrivateAttr(None)
    _bearers: Bearers | None = PrivateAttr(None)


def access_token(
    text: str, discharges: Sequence[str], bearers: Bearers, bearer: Bearer | None, scopes: Sequence[str]
) -> MacaroonAccessToken:
    """The token as FastMCP carries it; `bearer` is None where its discharges or the store are still to be heard.

    Its client, issuer and subject are the same for everything narrowed from one token: FastMCP binds sessions and
    states to the three.
    """
    facts = bearers.named(text)
    made = MacaroonAccessToken(
        token="macaroon:" + hashlib.sha256(text.encode()).hexdigest(),
        client_id=facts.client or "macaroon",
        scopes=list(scopes),
        subject=facts.subject,
        claims={"sub": facts.subject, "iss": json.dumps(["macaroon", facts.namespace, facts.tenant])},
        expires_at=int(bearer.token.expires.timestamp()) if bearer is not None else None,
    )
    made._text, made._discharges, made._bearer, made._bearers = text, tuple(discharges), bearer, bearers
    return made


async def over_http(access: MacaroonAccessToken, meta: Mapping[str, Any] | None, bearers: Bearers | None) -> Bearer:
    """Who a token's credential stands for, with what the request's `_meta` adds. Raises `TokenInvalid`.

    `StoreUnavailable` passes.
    """
    if bearers is None or access._bearers is not bearers:
        raise TokenInvalid("token_foreign")
    text, discharges = sent(meta)
    if text is None and not discharges and access._bearer is not None:
        return access._bearer
    if text is not None and not narrows(text, access._text):
        raise TokenInvalid("token_not_narrowed")
    beside = access._discharges if text is None else ()
    return await bearers.accept(text or access._text, (*beside, *discharges))


async def from_here(meta: Mapping[str, Any] | None, bearers: Bearers | None) -> Bearer | None:
    """Who a caller on stdio or in memory is by a token; None if there is none. Raises `TokenInvalid`."""
    text, discharges = sent(meta)
    if bearers is None:
        if text is not None:
            raise TokenInvalid("token_not_accepted")
        return None
    return await bearers.own(text, discharges)


def sent(meta: Mapping[str, Any] | None) -> tuple[str | None, tuple[str, ...]]:
    """The token and the discharges in a request's `_meta`. Raises `TokenInvalid` for what is neither."""
    if not meta or not (TOKEN in meta or DISCHARGES in meta):
        return None, ()
    text, discharges = meta.get(TOKEN), meta.get(DISCHARGES, [])
    if text is not None and not isinstance(text, str):
        raise TokenInvalid("token_format")
    if not isinstance(discharges, list | tuple) or not all(isinstance(each, str) for each in discharges):
        raise TokenInvalid("discharge_invalid")
    if len(discharges) > MOST:
        raise TokenInvalid("discharge_too_many")
    return text, tuple(discharges)


def in_header(lines: Sequence[str]) -> tuple[str, ...]:
    """The discharges of every `Macaroon-Discharge` line, separated by commas. Raises `TokenInvalid` for too many."""
    found = tuple(part for each in ",".join(lines).split(",", MOST + 1) if (part := each.strip()))
    if len(found) > MOST:
        raise TokenInvalid("discharge_too_many")
    return found
