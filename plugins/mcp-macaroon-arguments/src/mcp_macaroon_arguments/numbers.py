"""`argument_range`: a numeric argument lies between two bounds, both included."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final

from pydantic import Field, field_validator, model_validator

from mcp_macaroon_middleware.plugin import Check, Params, Verdict, enforcer

from .finding import Absent, items, names_of_rule, refusing, wanted

_BITS: Final = 1024


class Range(Params):
    """The argument, by name (`filter.limit` for a nested one), and its bounds; `*` is no bound."""

    named: ClassVar[frozenset[str]] = frozenset({"absent"})

    argument: str = Field(min_length=1, description="The argument's name; dots lead to nested ones.")
    minimum: Decimal | None = Field(default=None, description="The least value that passes; * for none.")
    maximum: Decimal | None = Field(default=None, description="The greatest value that passes; * for none.")
    absent: Absent | None = Field(default=None, description="What it means to leave it out: refuse, default or pass.")

    @field_validator("minimum", "maximum", mode="before")
    @classmethod
    def _bound(cls, value: Any) -> Decimal | None:
        if value is None or value == "*":
            return None
        try:
            bound = number_of(value) if not isinstance(value, str) else Decimal(value)
        except InvalidOperation:
            bound = None
        if bound is None or not bound.is_finite():
            raise ValueError("a bound is a number, or * for none")
        return bound

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.minimum is None and self.maximum is None:
            raise ValueError("give at least one bound")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"no number lies between {self.minimum} and {self.maximum}")
        return self


@enforcer("argument_range", params=Range, attenuates=True, names=names_of_rule)
@refusing
def argument_range(check: Check[Range]) -> Verdict:
    """A number lies within bounds; `elicit` asks for others. Booleans, texts and NaN are no numbers, and refused."""
    argument = check.params.argument
    for found in wanted(check, argument, check.params.absent):
        for item in items(found.value):
            if not _within(number_of(item), check.params):
                reason = f"Go on with this {argument}?" if check.asks else f"This {argument} is not within its bounds."
                return check.refuse("argument_out_of_range", reason)
    return Verdict.allow()


def _within(value: Decimal | None, params: Range) -> bool:
    if value is None:
        return False
    above = params.minimum is None or params.minimum <= value
    return above and (params.maximum is None or value <= params.maximum)


def number_of(value: Any) -> Decimal | None:
    """A number exactly as JSON writes it, so that 0.1 is not above a bound of 0.1; None for no finite number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value) if value.bit_length() <= _BITS else None
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else None
    return value if isinstance(value, Decimal) and value.is_finite() else None
