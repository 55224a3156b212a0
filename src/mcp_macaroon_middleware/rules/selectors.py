"""Which principals a rule speaks of: `for`, `except` and roles, as data. The core tells whether one matches."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..errors import RuleError
from ..model import Selector
from .claims import ClaimName, claim_text
from .parts import suggestion

SELECTOR_KEYS: Final = ("subject", "role", "claim", "client", "issuer", "tenant", "scope")
ANY_ISSUER: Final = "any"
"""Written as `issuer`: whoever vouches for the subject, said on purpose."""

_INVISIBLE: Final = frozenset({"Cf", "Cc", "Co", "Cn", "Cs", "Zs", "Zl", "Zp"})
_TEXT_KEYS: Final = ("subject", "role", "client", "issuer", "tenant", "scope")


def parse_selector(value: Any, key: str = "for") -> Selector:
    """Reads `for:`, `except:` or a role: texts or lists of them, and `claim: {name: value(s)}`, or as a list of paths.

    Raises `RuleError`, for values too that look like globs or cannot be seen: all are compared whole.
    """
    if not isinstance(value, Mapping) or not value:
        raise RuleError(f"{key} names principals: {{subject: …, role: …, client: …, claim: {{name: value}}}}")
    for name in value:
        if name not in SELECTOR_KEYS:
            raise RuleError(f"unknown key {name!r} under {key}", hint=suggestion(str(name), SELECTOR_KEYS).lstrip("; "))
    texts = {name: whole_texts(value[name], name, under=key) for name in _TEXT_KEYS if name in value}
    return Selector(**texts, claim=_claims(value["claim"], key) if "claim" in value else ())


def read_texts(value: Any, key: str, *, scalars: bool = False) -> tuple[str, ...]:
    """A text or a list of texts, as a tuple; with `scalars` numbers and switches too. Raises `RuleError`."""
    items: Sequence[Any] = value if isinstance(value, list | tuple) else (value,)
    texts = tuple(item if isinstance(item, str) else claim_text(item) if scalars else None for item in items)
    if any(not text for text in texts):
        raise RuleError(f"{key} is a text or a list of texts")
    return tuple(text for text in texts if text)


def whole_texts(value: Any, key: str, *, under: str = "", scalars: bool = False) -> tuple[str, ...]:
    """At least one text, each to be compared whole: an empty list would select everybody."""
    texts = read_texts(value, key, scalars=scalars)
    if not texts:
        raise RuleError(f"{key} is empty; name at least one")
    for text in texts:
        fault = name_fault(text)
        if fault is not None:
            raise RuleError(f"{key}{f' under {under}' if under else ''}: {text!a} {fault}")
    return texts


def name_fault(text: str) -> str | None:
    """Why a text cannot name a principal or be a claim's value, or None. What people see is what is compared."""
    if "*" in text:
        return "is no glob: subjects are compared whole; use a role or a claim"
    if text != text.strip():
        return "has white space at an end; it is compared whole"
    if any(character != " " and unicodedata.category(character) in _INVISIBLE for character in text):
        return "has a character that cannot be seen; it is compared whole"
    return None


def selector_mapping(selector: Selector) -> dict[str, Any]:
    """A selector as the long form writes it."""
    mapping: dict[str, Any] = {}
    for key in _TEXT_KEYS:
        texts = getattr(selector, key)
        if texts:
            mapping[key] = list(texts)
    names = [name for name, _ in selector.claim]
    if selector.claim and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        mapping["claim"] = {name: list(wanted) for name, wanted in selector.claim}
    elif selector.claim:
        mapping["claim"] = [
            {"path": name if isinstance(name, str) else list(name), "is": list(wanted)}
            for name, wanted in selector.claim
        ]
    return mapping


def _claims(value: Any, key: str) -> tuple[tuple[ClaimName, tuple[str, ...]], ...]:
    if isinstance(value, list | tuple):
        named = tuple(_by_path(item, key) for item in value)
    elif isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        named = tuple((name, wanted) for name, wanted in value.items())
    else:
        raise RuleError(f"claim under {key} is a mapping: claim: {{department: finance}}")
    if not named:
        raise RuleError(f"claim under {key} names at least one claim")
    return tuple((name, whole_texts(wanted, str(name), under=key, scalars=True)) for name, wanted in named)


def _by_path(item: Any, key: str) -> tuple[ClaimName, Any]:
    if not isinstance(item, Mapping) or set(item) != {"path", "is"}:
        raise RuleError(f"a list of claims under {key} reads  claim: [{{path: [realm_access, roles], is: ops}}]")
    path = item["path"]
    if isinstance(path, str) and path:
        return path, item["is"]
    if isinstance(path, list | tuple) and path and all(isinstance(part, str) and part for part in path):
        return tuple(path), item["is"]
    raise RuleError(f"path under {key} is the list of names that lead to the claim")
