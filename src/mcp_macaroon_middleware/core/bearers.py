"""Accepts tokens as credentials: signature, discharges, conditions, revocation. It judges no rule of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import TokenInvalid
from ..model import Principal
from ..plugin.contract import Clock
from ..tokens import KeyRing, Named, ThirdParty, VerifiedToken, holds, macaroons, named, verify
from .revocation import Revocations

PREFIX: Final = "mm_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A token that counts, and whom it stands for."""

    principal: Principal
    token: VerifiedToken = field(repr=False)
    text: str = field(default="", repr=False)


class Bearers:
    """Accepts the tokens of one audience. `namespace` is that of tokens which name none.

    `process` is the token that this process was started with: its own callers have that authority, or less.
    """

    def __init__(
        self,
        *,
        keys: KeyRing,
        audience: str,
        revocations: Revocations,
        clock: Clock,
        parties: Mapping[str, ThirdParty] | None = None,
        namespace: str = "",
        process: str | None = None,
    ) -> None:
        self._keys = keys
        self.audience: Final = audience
        self.revocations: Final = revocations
        self._clock = clock
        self.parties: Final = dict(parties or {})
        self._namespace = namespace
        self._process = process

    def __repr__(self) -> str:
        return f"Bearers(audience={self.audience!r})"

    async def accept(self, text: str, discharges: Sequence[str] = ()) -> Bearer:
        """The bearer of a token. Raises `TokenInvalid`; its code is for the audit. `StoreUnavailable` passes.

        Signatures are remembered; conditions and revocation are looked at every time, with one read of the store.
        """
        token = verify(
            self._keys,
            text,
            audience=self.audience,
            now=self._clock.now(),
            discharges=discharges,
            parties=self.parties,
        )
        principal = self.principal_of(token)
        fault = await self.revocations.fault(token, principal)
        if fault is not None:
            raise TokenInvalid(fault)
        return Bearer(principal=principal, token=token, text=text)

    async def own(self, text: str | None, discharges: Sequence[str] = ()) -> Bearer | None:
        """The bearer of a caller in this process or at its standard input; None for one who has no token at all.

        Where the process has a token, a request may bring one that was narrowed from it, and no other.
        """
        if text is None:
            return None if self._process is None else await self.accept(self._process, discharges)
        if self._process is not None and not narrows(text, self._process):
            raise TokenInvalid("token_not_narrowed")
        return await self.accept(text, discharges)

    def holds(self, text: str) -> None:
        """Raises `TokenInvalid` unless a token's chain, audience and end hold, its discharges and the store aside.

        It allows nothing: `accept` must follow.
        """
        holds(self._keys, text, audience=self.audience, now=self._clock.now())

    def named(self, text: str) -> Named:
        """Whom a token names; nothing of it is proved by that. Raises `TokenInvalid`."""
        return named(text)

    def principal_of(self, token: VerifiedToken) -> Principal:
        """Whom a token stands for: the same across everything that was narrowed from it."""
        return Principal(
            kind="user", namespace=token.namespace or self._namespace, subject=token.subject, tenant=token.tenant
        )


def narrows(text: str, parent: str) -> bool:
    """Whether a token was made from another by adding caveats, so that it can do no more. Neither is verified."""
    narrow, wide = macaroons.from_text(text), macaroons.from_text(parent)
    return narrow.identifier == wide.identifier and narrow.caveats[: len(wide.caveats)] == wide.caveats


def is_token(text: str) -> bool:
    """Whether a credential bears our prefix: then nobody else may decide about it."""
    return text.startswith(PREFIX)
