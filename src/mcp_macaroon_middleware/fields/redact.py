"""Takes fields out of a document. It only removes; what it cannot walk with certainty is withheld whole (law L2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..errors import ResultWithheld
from ..model import Redaction
from .nodes import GONE, Node, compiled
from .spans import LEFT, cut_text
from .texts import embedded, is_unclear

MAX_DEPTH: Final = 200
MAX_VALUES: Final = 1_000_000

_MAPPINGS: Final = frozenset({dict, MappingProxyType})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def redact(document: Any, redaction: Redaction) -> tuple[Any, bool]:
    """The document without what the redaction withholds, as new plain data, and whether anything left it.

    Withheld keys and items are removed, in JSON inside texts too, which stay as they are spelled but for that, and
    where a repeated key leaves one at most. A text that may be data, and cannot be read as such to its end, leaves
    whole where a path could lead into it. The work is linear in the document for a given redaction. Raises
    `ResultWithheld` where the whole document is withheld, is nested deeper than `MAX_DEPTH`, has more than `MAX_VALUES`
    values, or holds what is no plain JSON data.
    """
    walk = _Walk()
    try:
        left = walk.cut(document, compiled(redaction).begin(), 0)
    except RecursionError:
        raise ResultWithheld("the result is nested too deep") from None
    if left is LEFT:
        raise ResultWithheld("the whole result is withheld", code="withheld")
    return left, walk.changed


def redact_text(text: str, redaction: Redaction) -> tuple[str | None, bool]:
    """A text that is JSON without what the redaction withholds, and whether anything left it; None where nothing stays.

    Each value of the text is a document of its own. What stays is spelled as it came. Raises as `redact` does.
    """
    walk = _Walk()
    try:
        left = walk.leaf(text, compiled(redaction).begin(), 0)
    except RecursionError:
        raise ResultWithheld("the result is nested too deep") from None
    return (None, True) if left is LEFT else (left, walk.changed)


def redact_document(document: Any, redaction: Redaction) -> Any:
    """A whole result without what the redaction withholds, where it has fields that can be told apart.

    Raises `ResultWithheld` as `redact` does, and with the code `no_fields` for a bare value: a redaction speaks of
    fields, and what a text without any says cannot be told.
    """
    if document is not None and not has_fields(document):
        raise ResultWithheld("the result has no fields that could be told apart", code="no_fields")
    return redact(document, redaction)[0]


def has_fields(document: Any) -> bool:
    """Whether something in plain data has a name that a path could tell apart; an empty list has nothing to hide."""
    if isinstance(document, list | tuple):
        return not document or any(map(has_fields, document))
    return isinstance(document, Mapping) or (isinstance(document, str) and embedded(document) is not None)


def may_hide(text: str, redaction: Redaction) -> bool:
    """Whether a text that is no data may hold what the redaction withholds, for a reader less strict than this one."""
    top = compiled(redaction).begin()
    return top is not None and (top is GONE or is_unclear(text, None if top.keeps else top.names))


def is_present(document: Any, path: str) -> bool:
    """Whether the path names anything in the document, or may do so; JSON inside texts counts.

    Raises `ResultWithheld` as above.
    """
    top = compiled(Redaction(withhold=(path,))).begin()
    waiting: list[tuple[Any, Node | None]] = [(document, top)]
    count = 0
    while waiting:
        value, node = waiting.pop()
        if node is GONE:
            return True
        if node is None:
            continue
        if isinstance(value, str):
            inside = embedded(value)
            if inside is None and is_unclear(value, node.names):
                return True
            waiting.extend((inner, node) for inner in inside or ())
        elif type(value) in _MAPPINGS or isinstance(value, Mapping):
            waiting.extend((child, node.key(str(key))) for key, child in value.items())
        elif isinstance(value, list | tuple):
            waiting.extend((item, node.item(index)) for index, item in enumerate(value))
        count += 1
        if count > MAX_VALUES:
            raise _too_large()
    return False


class _Walk:
    """One walk through one document; two Python frames a level, so `MAX_DEPTH` levels fit any stack."""

    __slots__ = ("_values", "changed")

    def __init__(self) -> None:
        self.changed = False
        self._values = MAX_VALUES

    def cut(self, value: Any, node: Node | None, depth: int) -> Any:
        """What is left of a value, `LEFT` if nothing is. Where no path leads (no node), it is copied as it is."""
        if node is GONE:
            self.changed = True
            return LEFT
        kind = type(value)
        if kind in _SCALARS or isinstance(value, str | int | float):
            return value if node is None else self.leaf(value, node, depth)
        if kind in _MAPPINGS or isinstance(value, Mapping):
            return self._mapping(value, node, depth)
        if isinstance(value, list | tuple):
            return self._sequence(value, node, depth)
        raise ResultWithheld(f"the result holds a {kind.__name__}, which is no JSON")

    def _mapping(self, value: Mapping[Any, Any], node: Node | None, depth: int) -> dict[str, Any]:
        self.enter(len(value), depth)
        left: dict[str, Any] = {}
        for key, child in value.items():
            if not isinstance(key, str):
                raise ResultWithheld("the result holds a key that is no text")
            after = None if node is None else node.key(key)
            kept = child if after is None and type(child) in _SCALARS else self.cut(child, after, depth + 1)
            if kept is not LEFT:
                left[key] = kept
        return left

    def _sequence(self, value: Sequence[Any], node: Node | None, depth: int) -> list[Any]:
        self.enter(len(value), depth)
        left: list[Any] = []
        each = None if node is None else node.item(None)
        for index, child in enumerate(value):
            after = node.item(index) if node is not None and node.numbered else each
            kept = child if after is None and type(child) in _SCALARS else self.cut(child, after, depth + 1)
            if kept is not LEFT:
                left.append(kept)
        return left

    def leaf(self, value: Any, node: Node | None, depth: int) -> Any:
        """A leaf stays where every `keep` set names it or what holds it. JSON in a text is walked; a text that may be
        data to somebody else leaves where a path leads on (law L2: what cannot be told is withheld).
        """
        if node is None:
            return value
        if isinstance(value, str):
            if embedded(value) is not None:
                left = cut_text(value, node, depth + 1, self)
                self.changed = self.changed or left is not value
                return left
            if node.withheld and is_unclear(value, node.names):
                self.changed = True
                return LEFT
        if not node.keeps:
            return value
        self.changed = True
        return LEFT

    def enter(self, values: int, depth: int) -> None:
        """Counts the values of a mapping or list. Raises `ResultWithheld` past the bounds."""
        if depth > MAX_DEPTH:
            raise ResultWithheld("the result is nested too deep")
        self._values -= values
        if self._values < 0:
            raise _too_large()


def _too_large() -> ResultWithheld:
    return ResultWithheld("the result has too many values to be redacted", code="result_too_large")
