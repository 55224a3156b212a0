"""Many rules that speak of one component, found by who calls: at a cost that follows whom they name, not their number.

It proposes rules and never judges: whatever could apply is proposed, whatever surely does not is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ..model import RequestContext, Rule, Selector
from ..rules import ANY_ISSUER, read_claim, read_scopes
from .principals import client_of

FEW: Final = 8
"""So many rules are looked at one by one."""

Facet = tuple[str, str | tuple[str, ...]]
"""What of a caller is looked up: `("subject", "")`, `("claim", name)`."""


class Checked(Protocol):
    """What is bound of a rule."""

    @property
    def rule(self) -> Rule:
        """The rule."""

    @property
    def grants_only(self) -> bool:
        """Whether it restricts nothing."""


class Matching(Protocol):
    """A rule that matches a component."""

    @property
    def check(self) -> Checked:
        """The bound rule."""


M = TypeVar("M", bound=Matching)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of one facet of a caller. Without `whole` there may be more, or nothing is known."""

    texts: Iterable[str]
    whole: bool


class Crowd(tuple[M, ...]):
    """Matches in their order, with an index by who that is made when it is first needed."""

    _index: _Index | None = None

    def concerning(self, request: RequestContext, roles: Mapping[str, Selector]) -> Sequence[M]:
        """The matches that may speak of this caller, in their order. `roles` must be the same each time."""
        if len(self) <= FEW:
            return self
        index = self._index
        if index is None:
            index = self._index = _Index(self, roles)
        return [self[number] for number in index.candidates(request)]


class _Index:
    """Numbers of matches by the value of one facet that their `for` needs; the others are always proposed."""

    def __init__(self, matches: Sequence[Matching], roles: Mapping[str, Selector]) -> None:
        self._always: list[int] = []
        self._named: dict[Facet, dict[str, list[int]]] = {}
        self._in_doubt: dict[Facet, list[int]] = {}
        for number, match in enumerate(matches):
            selector = match.check.rule.for_
            anchors = list(_anchors(selector, roles)) if selector is not None else [None]
            if None in anchors:
                self._always.append(number)
                continue
            for facet, texts in (anchor for anchor in anchors if anchor is not None):
                self._add(facet, texts, number, grants=match.check.grants_only)

    def _add(self, facet: Facet, texts: Iterable[str], number: int, *, grants: bool) -> None:
        named = self._named.setdefault(facet, {})
        for text in texts:
            named.setdefault(text, []).append(number)
        if not grants:  # where the caller's side cannot be told, a rule that only grants does not apply
            self._in_doubt.setdefault(facet, []).append(number)

    def candidates(self, request: RequestContext) -> list[int]:
        found = set(self._always)
        for facet, named in self._named.items():
            for facts in _facts(facet, request):
                for text in facts.texts:
                    found.update(named.get(text, ()))
                if not facts.whole:
                    found.update(self._in_doubt.get(facet, ()))
        return sorted(found)


def _anchors(selector: Selector, roles: Mapping[str, Selector]) -> Iterator[tuple[Facet, tuple[str, ...]] | None]:
    """One facet with the values of which the caller must have one; several for roles, None where there is none."""
    if selector.subject:
        yield ("subject", ""), selector.subject
    elif selector.client:
        yield ("client", ""), selector.client
    elif selector.claim:
        name, wanted = selector.claim[0]
        yield ("claim", name), wanted
    elif selector.scope:
        yield ("scope", ""), selector.scope
    elif selector.role:
        for role in selector.role:
            known = roles.get(role)
            yield from _anchors(known, roles) if known is not None else (None,)
    elif selector.tenant:
        yield ("tenant", ""), selector.tenant
    elif selector.issuer and ANY_ISSUER not in selector.issuer:
        yield ("issuer", ""), selector.issuer
    else:
        yield None


def _facts(facet: Facet, request: RequestContext) -> Iterator[_Facts]:
    kind, name = facet
    if kind in ("claim", "scope"):
        readings = read_claim(request.claims, name) if kind == "claim" else read_scopes(request.claims)
        for reading in readings:
            yield _Facts(reading.texts, reading.whole)
        if not readings:
            yield _Facts((), False)
        return
    principal = request.principal
    text = {
        "subject": principal.subject,
        "client": client_of(request),
        "tenant": principal.tenant,
        "issuer": principal.namespace,
    }[kind]
    unknown = text is None or (not text and kind in ("subject", "issuer"))
    yield _Facts((), False) if unknown else _Facts((text or "",), True)
