"""`field_access`: which fields of a result the caller may see. It names paths; the engine takes them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from ..plugin import (
    Action,
    Check,
    Edit,
    EnforcerType,
    Params,
    Phase,
    RuleError,
    Settings,
    Verdict,
    is_present,
    parse_path,
)

_WILD: Final = {"*": "each", "**": "anywhere"}


def _path(path: str) -> str:
    try:
        parse_path(path)
    except RuleError as error:
        raise ValueError(str(error)) from None
    return path


class Fields(Params):
    """Dotted paths: `*` one level, `**` any depth, lists are walked, `a\\.b` a key with a dot, `(?i)a` in any case."""

    fields: tuple[Annotated[str, AfterValidator(_path)], ...] = ()


class FieldSettings(Settings):
    """`unstructured`: what happens, under a field rule, to what has no fields: plain text, images, blobs."""

    unstructured: Literal["withhold", "pass"] = "withhold"


def field_access(check: Check[Fields]) -> Verdict:
    """`deny` withholds the named fields, `only` all others; `allow` states what is meant to be seen, no more.

    `elicit` asks before the named fields are shown, and only if the result has one of them. Where it has none nobody is
    asked, and what has no fields to tell apart is held as under `deny`.
    """
    edits = _edits(check.params, check.action)
    present = _present(check) if check.asks else []
    if not present:
        return Verdict.allow(edits=edits)
    words = ", ".join(_words(field) for field in present)
    return check.refuse("field_approval", f"Show {words}?", fields=present, edits=edits)


def _words(path: str) -> str:
    """A path as people read it: `owner.email` is `owner → email`."""
    steps = [str(getattr(step, "key", getattr(step, "value", step))) for step in parse_path(path).steps]
    return " → ".join(_WILD.get(step, step) for step in steps)


def _present(check: Check[Fields]) -> list[str]:
    documents = check.result.documents if check.result is not None else ()
    return [field for field in check.params.fields if any(is_present(document, field) for document in documents)]


def _edits(params: Fields, action: Action) -> Sequence[Edit]:
    if action is Action.DENY:
        return (Edit(withhold=params.fields),)
    return (Edit(keep=params.fields),) if action is Action.ONLY else ()


def _misused(params: Any, action: Action, phase: Phase) -> str | None:
    return None if params.fields else "name at least one field, for example field_access:deny:owner.email"


TYPE: Final = EnforcerType(
    name="field_access",
    check=field_access,
    params=Fields,
    actions=frozenset(Action),
    phases=frozenset({Phase.AFTER}),
    attenuates=True,
    constant=True,
    reads_arguments=False,
    idle=frozenset({Action.ALLOW}),
    settings=FieldSettings,
    validate=_misused,
    may_withhold=_edits,
    summary="Which fields of a result the caller may see.",
)
