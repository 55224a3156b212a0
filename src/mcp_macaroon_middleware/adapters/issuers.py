"""Which issuers can name the callers of one server, and which rules name a subject without saying whose.

Two issuers may give one subject to two people. Where several can bring a subject, a rule that names none would speak of
all of them, so that it must say which it means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..config.runtime import Runtime
from ..core.binding import PlanSettings
from ..core.plan import Plan
from ..model import Rule, Selector
from .callers import source_of

VERIFIERS = ("token_verifier", "_token_validator")
"""Where providers of FastMCP keep what verifies their tokens."""


def issuers_of(auth: Any, runtime: Runtime) -> tuple[str, ...]:
    """The issuers that a user's credential can come from at this server, each once; "" for tokens that name none.

    Callers from this machine (`local`) are told apart by their kind, and count for none.
    """
    settings = runtime.settings.identity
    ours = getattr(auth, "bearers", None) is not None
    other = auth.other if ours else auth
    found = list(_provided(other, settings.issuer)) if other is not None else []
    if runtime.bearers is not None:
        found.append(settings.token_namespace or "")
    return tuple(dict.fromkeys(found))


def _provided(auth: Any, named: str | None) -> Iterator[str]:
    """The issuers of a provider: those that it verifies, else the name that its callers bear here."""
    sources = getattr(auth, "_sources", None)
    if sources:
        names = getattr(auth, "_source_ids", None) or [""] * len(sources)
        for source, name in zip(sources, names, strict=False):
            yield from _verified(source) or (f"{source_of(auth)}:{name}",)
        return
    yield from _verified(auth) or (named or source_of(auth),)


def _verified(auth: Any) -> tuple[str, ...]:
    for each in (auth, *(getattr(auth, name, None) for name in VERIFIERS)):
        issuer = getattr(each, "issuer", None)
        if isinstance(issuer, str) and issuer:
            return (issuer,)
        if isinstance(issuer, list | tuple) and issuer:
            return tuple(str(one) for one in issuer)
    return ()


def problems_of(plan: Plan, issuers: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with rules that name a subject without its issuer, where several issuers can bring one."""
    if len(issuers) < 2:
        return
    shown = ", ".join(repr(issuer) for issuer in issuers if issuer)
    unnamed = "; name the issuer of tokens that name none:  identity: {token_namespace: NAME}" if "" in issuers else ""
    for rule in plan.rules:
        subjects = sorted(set(_unsaid(rule, plan.settings)))
        if subjects:
            yield (
                f"{rule.text}: the subject {', '.join(map(repr, subjects))} may be another issuer's user too; write  "
                f"issuer: NAME  beside it, one of {shown}, or  issuer: any  for whoever bears that name{unnamed}"
            )


def _unsaid(rule: Rule, settings: PlanSettings) -> Iterator[str]:
    for selector in (rule.for_, rule.except_):
        if selector is not None:
            yield from _subjects(selector, settings.roles, frozenset())


def _subjects(selector: Selector, roles: Mapping[str, Selector], seen: frozenset[str]) -> Iterator[str]:
    if selector.subject and not selector.issuer:
        yield from selector.subject
    if not selector.issuer:
        for role in selector.role:
            if role in roles and role not in seen:
                yield from _subjects(roles[role], roles, seen | {role})
