"""Says in words what a token says of itself. It needs no key, so it proves nothing: nothing may be decided by it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import TokenInvalid
from . import caveats, macaroons
from .credentials import named
from .sentences import moment, quoted, sentence, spelled

UNCHECKED: Final = "signature not checked: no key; this is what the token says of itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One caveat in words. `kind` is `end`, `branch`, `rule`, `third party`, or `broken` where it cannot be read.

    `text` is the caveat as it was written, hidden characters and all; `words` is a sentence that hides nothing, and so
    is what people should see. `ends` is the instant of an `end`, `branch` the id of a `branch`; `location` and `ticket`
    belong to a `third party`.
    """

    kind: str
    words: str = field(repr=False)
    text: str = field(default="", repr=False)
    ends: datetime | None = None
    branch: str | None = None
    location: str | None = None
    ticket: bytes | None = field(default=None, repr=False)

    def as_document(self) -> dict[str, Any]:
        """The statement as plain JSON values; what it does not have is left out."""
        facts: dict[str, Any] = {"kind": self.kind, "text": self.text, "words": self.words}
        facts["ends"] = self.ends.isoformat() if self.ends is not None else None
        facts["branch"], facts["location"] = self.branch, self.location
        facts["ticket"] = ticket_text(self.ticket) if self.ticket is not None else None
        return {name: value for name, value in facts.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a token says of itself, unverified: whoever has a token of that server could have written any of it.

    `expires` is its earliest end, None where it names none (then no server accepts it). `branches` in their order;
    revoking the `id`, or one of them, revokes everything after it. Its `repr` shows no caveat.
    """

    id: str
    key_id: str
    audience: str
    subject: str
    namespace: str
    tenant: str | None
    client: str | None
    issued_at: datetime
    expires: datetime | None
    branches: tuple[str, ...]
    statements: tuple[Statement, ...] = field(repr=False)

    @property
    def lineage(self) -> tuple[str, ...]:
        """The token's id and its branches: the last one is this very token's own."""
        return (self.id, *self.branches)

    @property
    def rules(self) -> tuple[str, ...]:
        """The caveats that are rules, as they were written, in order."""
        return tuple(each.text for each in self.statements if each.kind == "rule")

    @property
    def third_parties(self) -> tuple[Statement, ...]:
        """The caveats that other services must discharge."""
        return tuple(each for each in self.statements if each.kind == "third party")

    @property
    def ends(self) -> tuple[datetime, ...]:
        """Every end that it names, the first to come first."""
        return tuple(sorted(each.ends for each in self.statements if each.ends is not None))

    def person(self) -> str:
        """Whom it speaks for, in words."""
        named = (("issuer", self.namespace), ("tenant", self.tenant), ("client", self.client))
        more = [f"{name} {quoted(value)}" for name, value in named if value]
        return quoted(self.subject) + (f" ({', '.join(more)})" if more else "")

    def as_document(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "signature": "not checked",
            "id": self.id,
            "key_id": self.key_id,
            "audience": self.audience,
            "subject": self.subject,
            "issuer": self.namespace,
            "tenant": self.tenant,
            "client": self.client,
            "issued_at": self.issued_at.isoformat(),
            "expires": self.expires.isoformat() if self.expires is not None else None,
            "branches": list(self.branches),
            "caveats": [each.as_document() for each in self.statements],
        }


def inspect(text: str) -> Inspection:
    """What a token says of itself, in words and as data; it needs no key.

        print(inspect(token).expires)
        for statement in inspect(token).statements:
            print(statement.words)

    The signature is not checked, so decide nothing by it: `verify` does that. Raises `TokenInvalid` for what no server
    could read as a token; its text does not repeat the token.
    """
    macaroon = macaroons.from_text(text)
    facts = named(text)
    if macaroon.location != facts.audience.encode():
        raise TokenInvalid("token_audience")
    statements = _marked([_statement(caveat) for caveat in macaroon.caveats])
    return Inspection(
        id=facts.id,
        key_id=facts.key_id,
        audience=facts.audience,
        subject=facts.subject,
        namespace=facts.namespace,
        tenant=facts.tenant,
        client=facts.client,
        issued_at=datetime.fromtimestamp(facts.issued_at, UTC),
        expires=min((each.ends for each in statements if each.ends is not None), default=None),
        branches=tuple(each.branch for each in statements if each.branch is not None),
        statements=tuple(statements),
    )


def ticket_text(ticket: bytes) -> str:
    """A third party's ticket as text, for its eyes: base64url without padding."""
    return base64.urlsafe_b64encode(ticket).rstrip(b"=").decode()


def ticket_bytes(text: str) -> bytes:
    """The ticket that `ticket_text` wrote. Raises `TokenInvalid` for anything else."""
    try:
        ticket = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise TokenInvalid("discharge_ticket") from None
    if ticket_text(ticket) != text:
        raise TokenInvalid("discharge_ticket")
    return ticket


def _statement(caveat: macaroons.RawCaveat) -> Statement:
    text = caveat.identifier.decode("utf-8", "backslashreplace")
    if caveat.vid is not None:
        return _third_party(caveat)
    try:
        read = caveats.read((caveat.identifier,))
    except TokenInvalid:
        return Statement(
            kind="broken", text=text, words=f"Cannot be read, so no server accepts the token: {spelled(text)}"
        )
    if read.expires is not None:
        return Statement(kind="end", text=text, ends=read.expires, words=f"Ends at {moment(read.expires)}.")
    for branch in read.branches:
        words = "Narrowed from here on; revoking this branch revokes what follows and nothing before."
        return Statement(kind="branch", text=text, branch=branch, words=words)
    return Statement(kind="rule", text=text, words=sentence(read.rules[0][0]))


def _third_party(caveat: macaroons.RawCaveat) -> Statement:
    location = (caveat.location or b"").decode("utf-8", "backslashreplace")
    words = f"Counts only with a discharge from {quoted(location)}."
    return Statement(kind="third party", location=location, ticket=caveat.identifier, words=words)


def _marked(statements: list[Statement]) -> list[Statement]:
    """Where there are several ends, says which of them counts."""
    ends = [each for each in statements if each.ends is not None]
    if len(ends) < 2:
        return statements
    first = min(ends, key=lambda each: each.ends or datetime.max.replace(tzinfo=UTC))
    said = {True: " It is the first end, so it counts.", False: " Another end comes first."}
    return [each if each.ends is None else replace(each, words=each.words + said[each is first]) for each in statements]
