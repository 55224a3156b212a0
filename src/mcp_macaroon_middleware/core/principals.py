"""Tells whether a rule's `for` and `except` include a principal; what cannot be told counts against the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..model import RequestContext, Rule, Selector
from ..rules import claim_text


def applies(rule: Rule, request: RequestContext, roles: Mapping[str, Selector], *, exact: bool = True) -> bool | None:
    """Whether the rule speaks of this principal; None where that cannot be told.

    A granting rule then does not apply and a restricting one does. The three values follow Kleene's logic: for and not
    except. An `except` frees what the rule names: without `exact`, another spelling of it, it frees nobody.
    """
    included = True if rule.for_ is None else selects(rule.for_, request, roles)
    if included is False:
        return False
    excluded = False if rule.except_ is None or not exact else selects(rule.except_, request, roles)
    if excluded is True:
        return False
    return None if included is None or excluded is None else True


def selects(selector: Selector, request: RequestContext, roles: Mapping[str, Selector]) -> bool | None:
    """Whether every key of the selector matches; None where one cannot be told and none is known not to."""
    return _all(_keys(selector, request, roles))


def _keys(selector: Selector, request: RequestContext, roles: Mapping[str, Selector]) -> Iterable[bool | None]:
    if selector.subject:
        yield request.principal.subject in selector.subject if request.principal.subject else None
    if selector.client:
        yield request.client in selector.client if request.client is not None else None
    for name, wanted in selector.claim:
        yield _claim(request.claims, name, wanted)
    if selector.role:
        yield _any(selects(roles[role], request, roles) if role in roles else None for role in selector.role)


def _claim(claims: Mapping[str, object], name: str, wanted: tuple[str, ...]) -> bool | None:
    """A claim that is absent or has no comparable value cannot be told."""
    value = claims.get(name)
    if value is None:
        return None
    texts = [claim_text(item) for item in (value if isinstance(value, list | tuple) else (value,))]
    if any(text in wanted for text in texts if text is not None):
        return True
    return None if None in texts else False


def _all(values: Iterable[bool | None]) -> bool | None:
    known = True
    for value in values:
        if value is False:
            return False
        known = known and value is not None
    return True if known else None


def _any(values: Iterable[bool | None]) -> bool | None:
    known = True
    for value in values:
        if value is True:
            return True
        known = known and value is not None
    return False if known else None
