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

_BRANCH: Final = re.compile(r"branch<([A-Za-z0-9_-]{22})\Z")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Caveats:
    """A token's caveats, read: its earliest end, its branches in order, its rules with the branches before each."""

    expires: datetime | None
    branches: tuple[str, ...]
    rules: tuple[tuple[str, tuple[str, ...]], ...]


def read(texts: tuple[bytes, ...]) -> Caveats:
    """Sorts verified caveats. A malformed `time<` or `branch<` raises `TokenInvalid`; any other text is a rule.

    A rule that cannot be read is left for the engine, where it prohibits everything.
    """
    expires: datetime | None = None
    branches: list[str] = []
    rules: list[tuple[str, tuple[str, ...]]] = []
    for raw in texts:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise TokenInvalid("token_caveat") from None
        if text.startswith(TIME):
            ends = _instant(text)
            expires = ends if expires is None else min(expires, ends)
        elif text.startswith(BRANCH):
            branches.append(_branch(text))
        else:
            rules.append((text, tuple(branches)))
    return Caveats(expires=expires, branches=tuple(branches), rules=tuple(rules))


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
