"""Third parties: caveats that another service must discharge, their tickets, and the discharges themselves.

A ticket is sealed under the key that the server shares with that service, and holds the root key of the discharge. A
discharge counts only if its ticket opens under the key known for its location and the root keys are the same, so that
no holder can add a third party of his own and answer for it. Source: Birgisson et al., "Macaroons", NDSS 2014, 4.2.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import TokenInvalid
from ..rules import format_expiry
from . import caveats as caveat_texts
from . import macaroons
from .keys import KeyRing

MARK: Final = b"mt1"
NONCE: Final = 12
LONGEST: Final = timedelta(days=1)
_FIELDS: Final = {"r", "a", "c", "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a third party is asked: to vouch for `condition` about the token's `subject` at the server `audience`."""

    location: str
    audience: str
    subject: str
    condition: str
    root_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdParty:
    """A service that discharges caveats, and the secret shared with it. `condition` is what it is asked by default."""

    location: str
    key: KeyRing = field(repr=False)
    condition: str = ""

    def seal(self, ticket: Ticket) -> bytes:
        """The ticket, for this service's eyes and the server's."""
        facts = {
            "r": base64.b64encode(ticket.root_key).decode(),
            "a": ticket.audience,
            "c": ticket.condition,
            "s": ticket.subject,
        }
        nonce = os.urandom(NONCE)
        text = json.dumps(facts, sort_keys=True).encode()
        return MARK + nonce + self._cipher().encrypt(nonce, text, self.location.encode())

    def open(self, sealed: bytes) -> Ticket:
        """The ticket. Raises `TokenInvalid` for whatever was not sealed for this location under the shared key."""
        try:
            if sealed[:3] != MARK:
                raise ValueError
            nonce, rest = sealed[3 : 3 + NONCE], sealed[3 + NONCE :]
            facts: Mapping[str, Any] = json.loads(self._cipher().decrypt(nonce, rest, self.location.encode()))
            if set(facts) != _FIELDS or not all(isinstance(value, str) for value in facts.values()):
                raise ValueError
            root_key = base64.b64decode(facts["r"], validate=True)
        except (InvalidTag, ValueError, RecursionError):
            raise TokenInvalid("discharge_ticket") from None
        return Ticket(
            location=self.location,
            audience=facts["a"],
            subject=facts["s"],
            condition=facts["c"],
            root_key=root_key,
        )

    def _cipher(self) -> AESGCM:
        return AESGCM(self.key.derive("ticket", self.location))


def require(token: str, party: ThirdParty, *, subject: str, audience: str, condition: str | None = None) -> str:
    """The token with a caveat that `party` must discharge. It needs the secret shared with it, and no key of the token.

    `subject` and `audience` are told to the service with the `condition` (the party's own by default).
    """
    root_key = secrets.token_bytes(32)
    ticket = Ticket(
        location=party.location,
        audience=audience,
        subject=subject,
        condition=party.condition if condition is None else condition,
        root_key=root_key,
    )
    macaroon = macaroons.add_third_party(
        macaroons.from_text(token), location=party.location, root_key=root_key, ticket=party.seal(ticket)
    )
    return macaroons.to_text(macaroon)


def discharge(
    ticket: Ticket,
    sealed: bytes,
    *,
    expires: timedelta = timedelta(minutes=5),
    caveats: Sequence[str] = (),
    now: datetime | None = None,
) -> str:
    """What the service answers once it is satisfied: a discharge that ends after `expires` (a day at most).

    `caveats` are rules in string form; like a token's they can only narrow. The holder binds it to his token first.
    """
    if not timedelta(0) < expires <= LONGEST:
        raise ValueError("a discharge lives a day at most")
    end = (now or datetime.now(UTC)) + expires
    texts = [format_expiry(end), *(caveat_texts.writable(text) for text in caveats)]
    macaroon = macaroons.sign(ticket.root_key, location=ticket.location, identifier=sealed, caveats=texts)
    return macaroons.to_text(macaroon, macaroons.DISCHARGE)


def unmet(token: str, discharges: Iterable[str] = ()) -> tuple[tuple[str, bytes], ...]:
    """Location and sealed ticket of every third-party caveat that none of `discharges` answers. It needs no key.

    Nothing is verified: these are claims of whoever wrote the token. Raises `TokenInvalid` for what is no macaroon.
    """
    found = [macaroons.from_text(token), *(macaroons.from_text(text, macaroons.DISCHARGE) for text in discharges)]
    answered = {each.identifier for each in found[1:]}
    wanted: dict[bytes, str] = {}
    for each in found:
        for caveat in each.caveats:
            if caveat.vid is not None and caveat.identifier not in answered:
                wanted[caveat.identifier] = (caveat.location or b"").decode("utf-8", "replace")
    return tuple((location, ticket) for ticket, location in wanted.items())


def answers(discharge_text: str, sealed: bytes) -> datetime:
    """The end of a discharge that is for this ticket, as it says itself; nothing is verified. Raises `TokenInvalid`."""
    macaroon = macaroons.from_text(discharge_text, macaroons.DISCHARGE)
    if macaroon.identifier != sealed:
        raise TokenInvalid("discharge_ticket")
    texts = tuple(caveat.identifier for caveat in macaroon.caveats if caveat.vid is None)
    expires = caveat_texts.read(texts).expires
    if expires is None:
        raise TokenInvalid("discharge_invalid")
    return expires


def bind(token: str, discharges: Sequence[str]) -> tuple[str, ...]:
    """The discharges bound to this very token, as a request must send them. It needs no key."""
    root = macaroons.from_text(token)
    read = [macaroons.from_text(text, macaroons.DISCHARGE) for text in discharges]
    return tuple(macaroons.to_text(macaroons.bound(root, each), macaroons.DISCHARGE) for each in read)


def opener(parties: Mapping[str, ThirdParty], audience: str) -> macaroons.Opens:
    """What looks at each third-party caveat of a token: its ticket must open under the key known for its location."""

    def opens(location: bytes, sealed: bytes, derived: bytes) -> None:
        party = parties.get(location.decode("utf-8", "replace"))
        if party is None:
            raise TokenInvalid("discharge_unknown_party")
        ticket = party.open(sealed)
        same = hmac.compare_digest(macaroons.derived_key(ticket.root_key), derived)
        if not same or ticket.audience != audience:
            raise TokenInvalid("discharge_ticket")

    return opens
