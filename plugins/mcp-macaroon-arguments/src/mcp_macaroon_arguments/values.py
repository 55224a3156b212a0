"""`argument_allowlist`: an argument has one of the values that the rule lists, and no other."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

from pydantic import Field, field_validator

from mcp_macaroon_middleware.plugin import Check, Params, Verdict, enforcer, glob_matches

from .finding import Absent, items, names_of_rule, refusing, wanted

_BITS: Final = 1024


class Allowed(Params):
    """The argument, by name (`filter.owner` for a nested one), and its values; `*` in them is any run of characters."""

    named: ClassVar[frozenset[str]] = frozenset({"absent"})

    argument: str = Field(min_length=1, description="The argument's name; dots lead to nested ones.")
    patterns: tuple[str, ...] = Field(min_length=1, description="Values; * stands for any run of characters.")
    absent: Absent | None = Field(default=None, description="What it means to leave it out: refuse, default or pass.")

    @field_validator("patterns", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """The long form may list numbers and booleans as they are."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(text_of(item) if isinstance(item, bool | int | float) else item for item in value)


@enforcer("argument_allowlist", params=Allowed, attenuates=True, names=names_of_rule)
@refusing
def argument_allowlist(check: Check[Allowed]) -> Verdict:
    """An argument has only the listed values; `elicit` asks for others."""
    argument = check.params.argument
    for found in wanted(check, argument, check.params.absent):
        for item in items(found.value):
            text = text_of(item)
            if text is None or not any(glob_matches(pattern, text) for pattern in check.params.patterns):
                reason = f"Go on with this {argument}?" if check.asks else f"This {argument} is not allowed."
                return check.refuse("argument_not_allowed", reason)
    return Verdict.allow()


def text_of(value: Any) -> str | None:
    """A single value as patterns are compared with it: texts as they are, numbers and booleans as in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() <= _BITS:
        return str(value)
    return repr(value) if isinstance(value, float) and math.isfinite(value) else None
