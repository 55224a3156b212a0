"""The texts that a token's caveats may be: `time<…`, `branch<…`, or a rule. It reads them; the engine judges rules."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ..errors import RuleError, TokenInvalid
from ..rules import TIME, format_expiry, parse_expiry, parse_rule

BRANCH: Final = "branch<"
COUNTING: Final = frozenset({"rate_limit", "allow_attempts"})
"""The policies here that count: what they keep lies in the store, so a token bears few of them."""
MOST_COUNTING: Final = 2

_BRANCH: Final = re.compile(r"branch<([A-Za-z0-9_-]{22})\Z")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Caveats:
    """A token's caveats, read: its earliest end, its branches in order, its rules with the branches before each.

    `ends` says of each rule when the last token that bears it ends: the one that was cut off right behind it.
    """

    expires: datetime | None
    branches: tuple[str, ...]
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    ends: tuple[datetime, ...] = ()


def read(texts: tuple[bytes, ...]) -> Caveats:
    """Sorts verified caveats. A malformed `time<` or `branch<` raises `TokenInvalid`; any other text is a rule.

    A rule that cannot be read is left for the engine, where it prohibits everything.
    """
    expires: datetime | None = None
    branches: list[str] = []
    rules: list[tuple[str, tuple[str, ...]]] = []
    ends: list[datetime] = []
    waiting = 0  # rules that stand before any end: no token counts that was cut off before there is one
    for raw in texts:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise TokenInvalid("token_caveat") from None
        if text.startswith(TIME):
            end = _instant(text)
            ends += [end] * waiting
            waiting, expires = 0, end if expires is None else min(expires, end)
        elif text.startswith(BRANCH):
            branches.append(_branch(text))
        else:
            rules.append((text, tuple(branches)))
            if expires is None:
                waiting += 1
            else:
                ends.append(expires)
    return Caveats(expires=expires, branches=tuple(branches), rules=tuple(rules), ends=tuple(ends))


def writable(text: str) -> str:
    """The caveat as it is written. Raises `RuleError` for one that would prohibit everything."""
    if text.startswith(TIME):
        return format_expiry(parse_expiry(text[len(TIME) :]))
    if text.startswith(BRANCH):
        raise RuleError("branch<… is written by attenuate itself", length=len(BRANCH))
    return parse_rule(text, in_token=True).text


def new_branch() -> str:
    """A fresh `branch<…` caveat."""
    return BRANCH + secrets.token_urlsafe(16)


def _instant(text: str) -> datetime:
    try:
        return parse_expiry(text[len(TIME) :])
    except RuleError:
        raise TokenInvalid("token_caveat") from None


def _branch(text: str) -> str:
    match = _BRANCH.match(text)
    if match is None:
        raise TokenInvalid("token_caveat")
    return match[1]
