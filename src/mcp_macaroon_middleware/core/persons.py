"""Tells whether two principals are surely two persons, and whether an answer's facts can be written down as they are.

Two different texts prove nothing by themselves: one person has many names. Only an authority that named both can tell.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final, get_args

from ..model import Answer, Principal
from ..model.approvals import Ending

MOST: Final = 1000
"""Characters of one part of a principal that an approver may name."""
ENDS: Final = get_args(Ending)


def are_two(caller: Principal, other: Principal | None, same_as: Mapping[str, str]) -> bool:
    """Whether one authority (kind, namespace, tenant) named both of them, with two different subjects.

    `same_as` maps the namespace of an approver's people to that of callers whom the operator says it names alike. What
    one person could be named twice (letter case, Unicode forms, blanks) does not count as two.
    """
    if other is None:
        return False
    one, two = _folded(caller.subject), _folded(other.subject)
    return bool(one and two) and one != two and _one_authority(caller, other, same_as)


def _one_authority(caller: Principal, other: Principal, same_as: Mapping[str, str]) -> bool:
    if (caller.kind, caller.namespace, caller.tenant) == (other.kind, other.namespace, other.tenant):
        return caller.kind != "anonymous"
    persons = {caller.kind, other.kind} <= {"user", "local"}
    tenant = other.tenant is None or other.tenant == caller.tenant
    return persons and tenant and same_as.get(other.namespace) == caller.namespace


def is_sound(answer: Answer) -> bool:
    """Whether every field of an answer is of its kind, so that each can stand in the record as it was given.

    Choices belong to an answer alone, and whoever answered is a principal: nothing of it is read and forgotten.
    """
    if answer.ending not in ENDS or not isinstance(answer.choices, tuple):
        return False
    if answer.choices and answer.ending != "answered":
        return False
    return answer.by is None or _is_principal(answer.by)


def _is_principal(by: object) -> bool:
    if not isinstance(by, Principal):
        return False
    parts = (by.kind, by.namespace, by.subject, *((by.tenant,) if by.tenant is not None else ()))
    return all(isinstance(part, str) and len(part) <= MOST for part in parts)


def _folded(subject: str) -> str:
    return unicodedata.normalize("NFKC", subject).casefold().strip()
