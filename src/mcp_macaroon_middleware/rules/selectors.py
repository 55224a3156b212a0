"""Which principals a rule speaks of: `for`, `except` and roles, as data. The core tells whether one matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RuleError
from ..model import Selector
from .parts import suggestion


def parse_selector(value: Any, key: str = "for") -> Selector:
    """Reads `for:`, `except:` or a role: `subject`, `role`, `client` (text or list), `claim: {name: value(s)}`."""
    if not isinstance(value, Mapping) or not value:
        raise RuleError(f"{key} names principals: {{subject: …, role: …, client: …, claim: {{name: value}}}}")
    known = ("subject", "role", "claim", "client")
    for name in value:
        if name not in known:
            raise RuleError(f"unknown key {name!r} under {key}", hint=suggestion(str(name), known).lstrip("; "))
    claims = value.get("claim", {})
    if not isinstance(claims, Mapping) or not all(isinstance(name, str) for name in claims):
        raise RuleError(f"claim under {key} is a mapping: claim: {{department: finance}}")
    if "claim" in value and not claims:
        raise RuleError(f"claim under {key} names at least one claim")

    def some(name: str) -> tuple[str, ...]:
        return some_texts(value[name], name) if name in value else ()

    return Selector(
        subject=some("subject"),
        role=some("role"),
        client=some("client"),
        claim=tuple((name, some_texts(wanted, name, scalars=True)) for name, wanted in claims.items()),
    )


def claim_text(value: Any) -> str | None:
    """A claim's scalar as selectors compare it; None for what is not a scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return None


def read_texts(value: Any, key: str, *, scalars: bool = False) -> tuple[str, ...]:
    """A text or a list of texts, as a tuple; with `scalars` numbers and switches too. Raises `RuleError`."""
    items: Sequence[Any] = value if isinstance(value, list | tuple) else (value,)
    texts = tuple(item if isinstance(item, str) else claim_text(item) if scalars else None for item in items)
    if any(not text for text in texts):
        raise RuleError(f"{key} is a text or a list of texts")
    return tuple(text for text in texts if text)


def some_texts(value: Any, key: str, *, scalars: bool = False) -> tuple[str, ...]:
    """At least one text: an empty list would select everybody."""
    texts = read_texts(value, key, scalars=scalars)
    if not texts:
        raise RuleError(f"{key} is empty; name at least one")
    return texts


def selector_mapping(selector: Selector) -> dict[str, Any]:
    """A selector as the long form writes it."""
    mapping: dict[str, Any] = {
        key: list(texts)
        for key, texts in (("subject", selector.subject), ("role", selector.role), ("client", selector.client))
        if texts
    }
    if selector.claim:
        mapping["claim"] = {name: list(wanted) for name, wanted in selector.claim}
    return mapping
