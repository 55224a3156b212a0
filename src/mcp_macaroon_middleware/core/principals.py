"""Tells whether a rule's `for` and `except` include a principal; what cannot be told counts against the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ..model import RequestContext, Rule, Selector
from ..rules import ANY_ISSUER, agreed, read_claim, read_scopes

SUBJECTS: Final = frozenset({"user", "local"})
"""The kinds of principals that `subject` names; machines and clients are named by `client`."""


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


def client_of(request: RequestContext) -> str | None:
    """The client program, or the machine that calls by itself."""
    if request.client is None and request.principal.kind == "client":
        return request.principal.subject or None
    return request.client


def _keys(selector: Selector, request: RequestContext, roles: Mapping[str, Selector]) -> Iterable[bool | None]:
    principal = request.principal
    if selector.subject:
        if not principal.subject:
            yield None
        else:
            yield principal.kind in SUBJECTS and principal.subject in selector.subject
    if selector.client:
        yield _among(client_of(request), selector.client)
    if selector.issuer and ANY_ISSUER not in selector.issuer:
        yield _among(principal.namespace or None, selector.issuer)
    if selector.tenant:
        yield _among(principal.tenant, selector.tenant)
    if selector.scope:
        yield agreed(read_scopes(request.claims), selector.scope)
    for name, wanted in selector.claim:
        yield agreed(read_claim(request.claims, name), wanted)
    if selector.role:
        yield _any(selects(roles[role], request, roles) if role in roles else None for role in selector.role)


def _among(text: str | None, wanted: tuple[str, ...]) -> bool | None:
    return text in wanted if text is not None else None


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
