"""Grants as macaroons of their own key: all facts in the signed identifier, no caveats. A user's token is never one.

A grant takes no caveats: whoever holds one could add them, so a macaroon with any is no grant (law L5, THREATS B10).
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from ..errors import KeyRingError, TokenInvalid
from ..model import SCOPES, Assurance, Grant, Phase, Principal
from . import macaroons
from .keys import KeyRing

VERSION: Final = 2
PURPOSE: Final = "grant"
_FIELDS: Final = {
    "v": "version",
    "t": "type",
    "n": "id",
    "k": "key_id",
    "a": "audience",
    "c": "caller",
    "p": "phase",
    "o": "component",
    "d": "definition",
    "r": "rule",
    "g": "arguments",
    "f": "field",
    "w": "approver",
    "s": "assurance",
    "u": "uses",
    "i": "issued_at",
    "e": "expires",
    "b": "by",
}
_TEXTS: Final = "nkacodrfwu"


def sign_grant(keys: KeyRing, grant: Grant) -> str:
    """The grant as a macaroon's text, under the derived key of `grant.key_id`."""
    key = keys.derive(PURPOSE, grant.audience, grant.key_id)
    return macaroons.to_text(macaroons.sign(key, location=grant.audience, identifier=_identifier(grant), caveats=()))


def read_grant(keys: KeyRing, text: str, *, audience: str) -> Grant:
    """The facts of a grant that this server signed. Raises `TokenInvalid` for anything else; expiry is not judged."""
    macaroon = macaroons.from_text(text)
    grant = _read(macaroon.identifier)
    if grant.audience != audience or macaroon.location != audience.encode() or macaroon.caveats:
        raise TokenInvalid("grant_invalid")
    try:
        key = keys.derive(PURPOSE, audience, grant.key_id)
    except KeyRingError:
        raise TokenInvalid("grant_invalid") from None
    macaroons.check_signature(key, macaroon)
    return grant


def _identifier(grant: Grant) -> bytes:
    """Canonical JSON: sorted keys, no space, ASCII. There is one text for one grant."""
    by = grant.by
    whom = None if by is None else [by.kind, by.namespace, by.subject, by.tenant]
    values: dict[str, Any] = {"version": VERSION, "type": PURPOSE, "by": whom}
    facts = {short: values[name] if name in values else getattr(grant, name) for short, name in _FIELDS.items()}
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _read(raw: bytes) -> Grant:
    try:
        facts = json.loads(raw)
    except (ValueError, RecursionError):
        raise TokenInvalid("grant_invalid") from None
    if not isinstance(facts, dict) or set(facts) != set(_FIELDS) or not _typed(facts):
        raise TokenInvalid("grant_invalid")
    values = {name: facts[short] for short, name in _FIELDS.items() if short not in "vt"}
    values |= {"phase": Phase(facts["p"]), "assurance": Assurance(facts["s"]), "by": _principal(facts["b"])}
    grant = Grant(**values)
    if _identifier(grant) != raw:
        raise TokenInvalid("grant_invalid")
    return grant


def _typed(facts: dict[str, Any]) -> bool:
    known = facts["v"] == VERSION and facts["t"] == PURPOSE
    texts = all(isinstance(facts[short], str) for short in _TEXTS)
    words = facts["u"] in SCOPES and facts["p"] in [phase.value for phase in Phase]
    sure = isinstance(facts["s"], int) and facts["s"] in [level.value for level in Assurance]
    times = all(_is_time(facts[short]) for short in "ie")
    return known and texts and words and sure and times and _is_whom(facts["b"]) and _is_text_or_none(facts["g"])


def _is_whom(value: Any) -> bool:
    parts = isinstance(value, list) and len(value) == 4
    return value is None or (parts and all(isinstance(part, str) for part in value[:3]) and _is_text_or_none(value[3]))


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _principal(whom: list[str] | None) -> Principal | None:
    if whom is None:
        return None
    kind, namespace, subject, tenant = whom
    return Principal(kind=kind, namespace=namespace, subject=subject, tenant=tenant)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
