"""`mint` and `attenuate` as programs use them: no caveat is written that the plugins here would not understand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import tokens
from ..errors import RuleError
from ..host.discovery import discover
from ..model import Rule
from .binding import PlanSettings, RuleProblem, bind_rule

if TYPE_CHECKING:
    from ..host.registry import Registry

CheckRule = Callable[[Rule], None]


def mint(keys: tokens.KeyRing, *, check: CheckRule | None = None, **fields: Any) -> str:
    """A new token; see `mcp_macaroon_middleware.tokens.mint` for its fields.

    A caveat that would prohibit everything is not written: `RuleError` says why. `check` replaces the look at the
    plugins that are installed here, for servers that have others.
    """
    return tokens.mint(keys, check=check or known_here, counts=counts_here, **fields)


def attenuate(
    token: str,
    *caveats: str,
    expires: timedelta | datetime | None = None,
    now: datetime | None = None,
    check: CheckRule | None = None,
) -> str:
    """The token with more caveats; it needs no key and can only narrow.

    A caveat that would prohibit everything is not written: `RuleError` says why. `check` replaces the look at the
    plugins that are installed here, for servers that have others: `check=lambda rule: None` looks at nothing.
    """
    return tokens.attenuate(token, *caveats, expires=expires, now=now, check=check or known_here, counts=counts_here)


def known_here(rule: Rule) -> None:
    """Raises `RuleError` for a rule that may not stand in a token, by the plugins that are installed here."""
    bound = bind_rule(rule, _registry(), PlanSettings(), {}, from_token=True)
    if isinstance(bound, RuleProblem):
        raise RuleError(bound.message, hint=bound.hint, code=bound.code)


def counts_here(rule: Rule) -> bool:
    """Whether the rule's policy keeps anything in the store, as far as the plugins that are installed here say."""
    provided = _registry().enforcers.get(rule.policy)
    if provided is None:
        return False
    return provided.contribution.stateful or provided.contribution.counts_together is not None


@lru_cache(maxsize=1)
def _registry() -> Registry:
    return discover().registry
