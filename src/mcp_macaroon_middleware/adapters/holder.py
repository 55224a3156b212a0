"""A holder's side: a token, narrower ones made from it, and the discharges that its third-party caveats need.

It asks only the services that the holder has named: a token may name any place, and is never trusted to choose one.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..core.holders import CheckRule, attenuate
from ..errors import DischargeRefused, TokenInvalid
from ..tokens import answers, bind, named, unmet

VARIABLE: Final = "MACAROON_TOKEN"
MARGIN: Final = timedelta(seconds=5)
MOST: Final = 16
LARGEST: Final = 64 * 1024

Fetch = Callable[[bytes], Awaitable[str]]
"""Gets the discharge for a sealed ticket from one service. Raises `DischargeRefused`."""


class Holder:
    """A token in somebody's hand. `services` are those that may be asked for discharges, by location."""

    def __init__(self, token: str, *, services: Mapping[str, str | Fetch] | None = None) -> None:
        named(token)  # a text that is no token is told at once
        self.token: Final = token
        self._services = {
            location: via_http(service) if isinstance(service, str) else service
            for location, service in (services or {}).items()
        }
        self._known: dict[bytes, tuple[str, datetime]] = {}
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(subject={named(self.token).subject!r})"

    @classmethod
    def from_environment(cls, variable: str = VARIABLE, **options: Any) -> Any:
        """The token that an environment variable holds. Raises `TokenInvalid` where there is none."""
        token = os.environ.get(variable, "").strip()
        if not token:
            raise TokenInvalid("token_missing", f"the environment variable {variable} holds no token")
        return cls(token, **options)

    @property
    def current(self) -> str:
        """The token that counts here and now."""
        return self.token

    def narrow(self, *caveats: str, expires: timedelta | datetime | None = None, check: CheckRule | None = None) -> str:
        """A narrower token than the current one, for a sub-agent or for one call.

        It needs no key; see `attenuate` for what it raises.
        """
        return attenuate(self.current, *caveats, expires=expires, check=check)

    async def discharges(self, token: str | None = None) -> tuple[str, ...]:
        """The discharges that the current token, or one narrowed from it, needs, bound to it.

        They are fetched once while they last. Raises `DischargeRefused` for a service that does not, or that the
        holder has not named.
        """
        token = token or self.current
        found: dict[bytes, str] = {}
        async with self._lock:
            while missing := unmet(token, tuple(found.values())):
                if len(found) >= MOST:
                    raise DischargeRefused("the token needs more discharges than a request may bring")
                location, ticket = missing[0]
                found[ticket] = await self._discharge(location, ticket)
        return bind(token, tuple(found.values()))

    async def _discharge(self, location: str, ticket: bytes) -> str:
        kept = self._known.get(ticket)
        if kept is not None and kept[1] - MARGIN > datetime.now(UTC):
            return kept[0]
        fetch = self._services.get(location)
        if fetch is None:
            hint = f"if you trust it, name it: services={{{location!r}: URL}}"
            raise DischargeRefused(f"the token needs a discharge of {location!r}, which is not named; {hint}")
        text = await fetch(ticket)
        try:
            ends = answers(text, ticket)
        except TokenInvalid:
            raise DischargeRefused(f"{location!r} answered with something that is no discharge of it") from None
        if len(self._known) >= MOST * MOST:
            self._known.clear()
        self._known[ticket] = (text, ends)
        return text


def via_http(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0, client: Any = None) -> Fetch:
    """Asks a discharge service by `POST url`, with `headers` as the holder's credential there; `timeout` in seconds.

    A redirect within the url's own origin is followed once (a slash that was missing), any other one never. `client` is
    an `httpx2.AsyncClient` to ask with.
    """

    async def fetch(ticket: bytes) -> str:
        import httpx2

        body = {"ticket": base64.urlsafe_b64encode(ticket).decode("ascii").rstrip("=")}
        try:
            if client is not None:
                response = await _posted(client, url, json=body, headers=headers, timeout=timeout)
            else:
                async with httpx2.AsyncClient() as own:
                    response = await _posted(own, url, json=body, headers=headers, timeout=timeout)
        except httpx2.HTTPError as error:
            raise DischargeRefused(f"the discharge service cannot be reached: {type(error).__name__}") from None
        return _text_of(response)

    return fetch


async def _posted(client: Any, url: str, **more: Any) -> Any:
    response = await client.post(url, follow_redirects=False, **more)
    following = response.next_request
    if following is None or following.method != "POST" or following.url.origin != response.request.url.origin:
        return response
    return await client.send(following, follow_redirects=False)


def _text_of(response: Any) -> str:
    facts: Any = None
    if len(response.content) <= LARGEST:
        try:
            facts = response.json()
        except ValueError:
            facts = None
    text = facts.get("discharge") if isinstance(facts, dict) else None
    if response.status_code == 200 and isinstance(text, str):
        return text
    raise _refusal(response.status_code, facts if isinstance(facts, dict) else {})


def _refusal(status: int, facts: Mapping[str, Any]) -> DischargeRefused:
    """What a service answered instead, with the questions that a person must answer first."""
    code, asked = facts.get("code"), facts.get("challenges")
    code = code if isinstance(code, str) and code.isidentifier() else ""
    challenges = [each for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    message = f"the discharge service refused: {status} {code}".strip()
    return DischargeRefused(message, status=status, refusal=code, challenges=tuple(challenges[:MOST]))
