"""Accepts tokens as credentials: signature, discharges, conditions, revocation. It judges no rule of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import TokenInvalid
from ..model import Principal
from ..plugin.contract import Clock
from ..tokens import KeyRing, ThirdParty, VerifiedToken, verify
from .revocation import Revocations

PREFIX: Final = "mm_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A token that counts, and whom it stands for."""

    principal: Principal
    token: VerifiedToken = field(repr=False)


class Bearers:
    """Accepts the tokens of one audience. `namespace` is that of tokens which name none."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        audience: str,
        revocations: Revocations,
        clock: Clock,
        parties: Mapping[str, ThirdParty] | None = None,
        namespace: str = "",
    ) -> None:
        self._keys = keys
        self.audience: Final = audience
        self.revocations: Final = revocations
        self._clock = clock
        self.parties: Final = dict(parties or {})
        self._namespace = namespace

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
        return Bearer(principal=principal, token=token)

    def principal_of(self, token: VerifiedToken) -> Principal:
        """Whom a token stands for: the same across everything that was narrowed from it."""
        return Principal(
            kind="user", namespace=token.namespace or self._namespace, subject=token.subject, tenant=token.tenant
        )


def is_token(text: str) -> bool:
    """Whether a credential bears our prefix: then nobody else may decide about it."""
    return text.startswith(PREFIX)
