"""Accepts tokens as credentials: signature, discharges, conditions, revocation. It judges no rule of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import TokenInvalid
from ..model import Principal
from ..plugin.contract import Clock
from ..tokens import KeyRing, Named, ThirdParty, VerifiedToken, holds, macaroons, named, verify
from .revocation import Revocations

PREFIX: Final = "mm_"
_OURS: Final = re.compile(rf"(?:\A|[^A-Za-z0-9._~+/=-]){PREFIX}")
"""Our prefix where a credential can begin: at the start, or after what no bearer token holds (RFC 6750, 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A token that counts, and whom it stands for."""

    principal: Principal
    token: VerifiedToken = field(repr=False)
    text: str = field(default="", repr=False)


class Bearers:
    """Accepts the tokens of one audience. `namespace` is that of tokens which name none.

    `process` is the token that this process was started with: whoever calls has that authority, or less, by whatever
    way he comes.
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
        Where the process has a token, one that was not narrowed from it does not count.
        """
        self._refuse_wider(text)
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

        A request that brings none has the process's own.
        """
        text = self._process if text is None else text
        return None if text is None else await self.accept(text, discharges)

    def holds(self, text: str) -> None:
        """Raises `TokenInvalid` unless a token's chain, audience and end hold, its discharges and the store aside.

        It allows nothing: `accept` must follow.
        """
        holds(self._keys, text, audience=self.audience, now=self._clock.now())

    def process_fault(self) -> str | None:
        """The code of why the process's own token can never count here, or None; discharges and store aside."""
        try:
            if self._process is not None:
                self.holds(self._process)
        except TokenInvalid as error:
            return error.code
        return None

    def _refuse_wider(self, text: str) -> None:
        if self._process is not None and not narrows(text, self._process):
            raise TokenInvalid("token_not_narrowed")

    def named(self, text: str) -> Named:
        """Whom a token names; nothing of it is proved by that. Raises `TokenInvalid`."""
        return named(text)

    def principal_of(self, token: VerifiedToken) -> Principal:
        """Whom a token stands for: the same across everything that was narrowed from it."""
        return Principal(
            kind="user", namespace=token.namespace or self._namespace, subject=token.subject, tenant=token.tenant
        )


def narrows(text: str, parent: str) -> bool:
    """Whether a token was made from another by adding caveats, so that it can do no more. Neither is verified.

    Nothing is made from a parent that is no token. Raises `TokenInvalid` for another text that is none.
    """
    if text == parent:
        return True
    narrow = macaroons.from_text(text)
    try:
        wide = macaroons.from_text(parent)
    except TokenInvalid:
        return False
    return narrow.identifier == wide.identifier and narrow.caveats[: len(wide.caveats)] == wide.caveats


def is_token(text: str) -> bool:
    """Whether a credential bears our prefix, whatever stands before it: then nobody else may see it or decide on it."""
    return _OURS.search(text) is not None
