"""`tool_access`: who may reach which component. The only policy whose `allow` lets something through."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from ..plugin import (
    Action,
    Check,
    EnforcerType,
    Params,
    Phase,
    RuleError,
    Target,
    Verdict,
    parse_target,
    target_matches,
)


def _pattern(name: str) -> str:
    try:
        parse_target(name)
    except RuleError as error:
        raise ValueError(str(error)) from None
    return name


class Names(Params):
    """For `only`: what stays reachable, written as targets are; the other actions take none."""

    names: tuple[Annotated[str, AfterValidator(_pattern)], ...] = ()


@lru_cache(maxsize=4096)
def _target(name: str) -> Target:
    return parse_target(name)


def tool_access(check: Check[Names]) -> Verdict:
    """`allow` passes, `deny` refuses, `elicit` asks, `only` refuses every component that it does not name.

    Names are compared with the public name (or URI) alone: what is let through is what the caller sees.
    """
    if check.action is Action.ALLOW:
        return Verdict.allow()
    if check.action is Action.ONLY and any(
        target_matches(_target(name), check.request.component, granting=True) for name in check.params.names
    ):
        return Verdict.allow()
    if not check.asks:
        return check.refuse("denied", "Access is not allowed.")
    return check.refuse("denied", f"Use {check.request.component.uri or check.request.component.name}?")


def _misused(params: Any, action: Action, phase: Phase) -> str | None:
    if action is Action.ONLY:
        return None if params.names else "only names what stays reachable, for example only:read_*"
    return f"{action.value} takes no params; name components in the rule's target" if params.names else None


TYPE: Final = EnforcerType(
    name="tool_access",
    check=tool_access,
    params=Names,
    actions=frozenset(Action),
    phases=frozenset({Phase.BEFORE}),
    grants=True,
    attenuates=True,
    hides=True,
    constant=True,
    reads_arguments=False,
    idle=frozenset({Action.ALLOW}),
    validate=_misused,
    summary="Who may reach which component.",
)
