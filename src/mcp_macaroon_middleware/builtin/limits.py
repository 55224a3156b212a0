"""`rate_limit` and `allow_attempts`: how often. They name the charge; the engine looks at it and charges it last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import BeforeValidator, Field, StrictInt, field_validator

from ..plugin import Action, Charge, Check, Effect, EnforcerType, Params, Phase, Verdict

UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
SHORT: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TEN_YEARS: Final = 10 * 365 * 86_400
MOST: Final = 1_000_000_000
Part = Literal["principal", "component", "client", "tenant", "token", "server"]
PARTS: Final = get_args(Part)

_LIMIT: Final = re.compile(r"([1-9][0-9]{0,8})/(?:([1-9][0-9]{0,5})([smhd])|(second|minute|hour|day))\Z")


def read_limit(text: str) -> tuple[int, int]:
    """`10/minute`, `100/hour`, `5/30s` as (calls, seconds). Raises `ValueError` for anything else."""
    match = _LIMIT.match(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no limit; write 10/minute, 100/hour, 5/30s (second, minute, hour, day; s, m, h, d)"
        )
    count, number, short, unit = match.groups()
    return int(count), UNITS[unit] if unit else int(number) * SHORT[short]


def _limit(limit: Any) -> str:
    if not isinstance(limit, str):
        raise ValueError(f"{limit!r} is no limit; write it as a text, for example '10/minute'")
    read_limit(limit)
    return limit


class Limits(Params):
    """One or more limits, all of which hold. By name also `per`: the parts that make up whose count it is, `cost`: the
    argument that says how much a call counts, a whole number; a call without it is refused. With `burst` a limit is a
    bucket: it holds that much, and is refilled evenly at the limit's rate.
    """

    named: ClassVar[frozenset[str]] = frozenset({"per", "cost", "burst"})

    per: tuple[Part, ...] = ("principal", "component")
    cost: str | None = None
    burst: Annotated[StrictInt, Field(ge=1, le=MOST)] | None = None
    limits: tuple[Annotated[str, BeforeValidator(_limit)], ...] = Field(min_length=1)

    @field_validator("limits", mode="before")
    @classmethod
    def _limits(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("per", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        parts = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not parts or len(set(parts)) != len(parts):
            raise ValueError(f"per names each part once: {', '.join(PARTS)}")
        return parts


class Attempts(Params):
    """The number of calls."""

    attempts: int = Field(ge=1, le=MOST)

    @field_validator("attempts", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]*", str(value)):
            raise ValueError("a whole number above 0")
        return int(value)


def rate_limit(check: Check[Limits]) -> Verdict:
    """Passes while every limit has room. The count is charged when the component runs, and never for a refusal.

    A cost that cannot be read or that no limit has room for is refused whatever the rule says: nobody is asked to agree
    to a call that can never be counted.
    """
    limits = dict.fromkeys(read_limit(limit) for limit in check.params.limits)
    cost = 1 if check.params.cost is None else _cost(check, check.params.cost)
    if cost is None:
        return Verdict.deny("cost_unknown", "The argument that says what this call costs is no whole number above 0.")
    if cost > (check.params.burst or min(limit for limit, _ in limits)):
        return Verdict.deny("cost_above_limit", "This call costs more than its limit; it can never succeed.")
    charges = [_charge(check, limit, check.params.per, amount=cost, burst=check.params.burst) for limit in limits]
    return Verdict.allow(charges=charges)


def _cost(check: Check[Limits], argument: str) -> int | None:
    cost = check.request.arguments.get(argument)
    return cost if isinstance(cost, int) and not isinstance(cost, bool) and cost > 0 else None


def allow_attempts(check: Check[Attempts]) -> Verdict:
    """Passes the first N calls of a principal on a component: a limit with a window of ten years."""
    limit = (check.params.attempts, TEN_YEARS)
    owner = ("principal", "component")
    return Verdict.allow(
        charges=[_charge(check, limit, owner, code="attempts_exhausted", reason="All attempts are used.")]
    )


def _charge(
    check: Check[Any],
    limit: tuple[int, int],
    per: Sequence[str],
    *,
    amount: int = 1,
    burst: int | None = None,
    code: str = "rate_limited",
    reason: str = "Too many calls; try again later.",
) -> Charge:
    count, seconds = limit
    spec = f"{count}/{seconds}" + (f" {burst}" if burst else "")
    return Charge(
        key=(check.rule.digest, spec, *(_part(check, part) for part in per)),
        amount=amount,
        limit=burst or count,
        window=seconds * (burst or count) / count,
        per_principal="principal" in per,
        refills=burst is not None,
        effect=Effect.ASK if check.asks else Effect.DENY,
        code=code,
        reason=reason if not check.asks else f"The limit of {count} in {seconds:,} seconds is reached. Go on?",
    )


def _part(check: Check[Any], part: str) -> str:
    request = check.request
    if part == "component":
        return request.component.key
    if part == "client":
        return request.client or ""
    if part == "tenant":
        return request.principal.tenant or ""
    if part == "token":
        return request.token_id or ""
    return "" if part == "server" else request.principal.key


def _reads_arguments(params: Any) -> bool:
    return isinstance(params, Limits) and params.cost is not None


def _names(params: Any, _: Any, __: Any) -> tuple[tuple[str, ...], ...]:
    return ((params.cost,),) if isinstance(params, Limits) and params.cost is not None else ()


def _counts_together(params: Any) -> bool:
    return isinstance(params, Limits) and "principal" not in params.per


def _type(name: str, check: Any, params: type[Params], summary: str) -> EnforcerType:
    return EnforcerType(
        name=name,
        check=check,
        params=params,
        actions=frozenset({Action.ALLOW, Action.ELICIT}),
        phases=frozenset({Phase.BEFORE}),
        attenuates=True,
        reads_arguments=_reads_arguments,
        names=_names,
        counts_together=_counts_together,
        stateful=True,
        summary=summary,
    )


RATE_LIMIT: Final = _type("rate_limit", rate_limit, Limits, "How often, in sliding windows.")
ALLOW_ATTEMPTS: Final = _type("allow_attempts", allow_attempts, Attempts, "How often at all.")
