"""Takes fields out of a document. It only removes; what it cannot walk with certainty is withheld whole (law L2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..errors import ResultWithheld
from ..model import Redaction
from .nodes import GONE, Node, compiled
from .texts import Repeated, embedded, written

MAX_DEPTH: Final = 200
MAX_VALUES: Final = 1_000_000

_MAPPINGS: Final = frozenset({dict, MappingProxyType})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_LEFT: Final = object()  # what stands for a value that leaves


def redact(document: Any, redaction: Redaction) -> tuple[Any, bool]:
    """The document without what the redaction withholds, as new plain data, and whether anything left it.

    Withheld keys and items are removed, in JSON inside texts too, where a repeated key leaves one at most. Raises
    `ResultWithheld` where the whole document is withheld, is nested deeper than `MAX_DEPTH`, has more than `MAX_VALUES`
    values, or holds what is no plain JSON data. The work is linear in the document for a given redaction.
    """
    walk = _Walk()
    try:
        left = walk.cut(document, compiled(redaction).begin(), 0)
    except RecursionError:
        raise ResultWithheld("the result is nested too deep") from None
    if left is _LEFT:
        raise ResultWithheld("the whole result is withheld", code="withheld")
    return left, walk.changed


def is_present(document: Any, path: str) -> bool:
    """Whether the path names anything in the document; JSON inside texts counts. Raises `ResultWithheld` as above."""
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
            waiting.extend((inner, node) for inner in embedded(value) or ())
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
        """What is left of a value, `_LEFT` if nothing is. Where no path leads (no node), it is copied as it is."""
        if node is GONE:
            self.changed = True
            return _LEFT
        kind = type(value)
        if kind in _SCALARS or isinstance(value, str | int | float):
            return value if node is None else self._leaf(value, node, depth)
        if depth > MAX_DEPTH:
            raise ResultWithheld("the result is nested too deep")
        if kind in _MAPPINGS or isinstance(value, Mapping):
            return self._mapping(value, node, depth + 1)
        if isinstance(value, list | tuple):
            return self._sequence(value, node, depth + 1)
        raise ResultWithheld(f"the result holds a {kind.__name__}, which is no JSON")

    def _mapping(self, value: Mapping[Any, Any], node: Node | None, depth: int) -> dict[str, Any]:
        self._count(len(value))
        left: dict[str, Any] = {}
        for key, child in value.items():
            if not isinstance(key, str):
                raise ResultWithheld("the result holds a key that is no text")
            after = None if node is None else node.key(key)
            kept = child if after is None and type(child) in _SCALARS else self.cut(child, after, depth)
            if kept is not _LEFT:
                left[key] = kept
        return left

    def _sequence(self, value: Sequence[Any], node: Node | None, depth: int) -> list[Any]:
        self._count(len(value))
        left: list[Any] = []
        each = None if node is None else node.item(None)
        for index, child in enumerate(value):
            after = node.item(index) if node is not None and node.numbered else each
            kept = child if after is None and type(child) in _SCALARS else self.cut(child, after, depth)
            if kept is not _LEFT:
                left.append(kept)
        return left

    def _leaf(self, value: Any, node: Node, depth: int) -> Any:
        """A leaf stays where every `keep` set names it or what holds it; JSON in a text is walked."""
        inner = embedded(value) if isinstance(value, str) else None
        if inner is not None:
            return self._text(value, inner, node, depth)
        if not node.keeps:
            return value
        self.changed = True
        return _LEFT

    def _text(self, text: str, inner: Any, node: Node, depth: int) -> Any:
        """The text as it was if nothing leaves it, else written anew."""
        before, self.changed = self.changed, False
        kept = [self.cut(value, node, depth + 1) for value in inner]
        left = [value for value in kept if value is not _LEFT]
        rewrite = self.changed or any(map(_repeats, inner))
        self.changed = before or rewrite
        if not left:
            return _LEFT
        return written(left) if rewrite else text

    def _count(self, values: int) -> None:
        self._values -= values
        if self._values < 0:
            raise _too_large()


def _repeats(value: Any) -> bool:
    """Whether an object in the value was written with a key more than once; texts inside answer for themselves."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Repeated):
            return True
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _too_large() -> ResultWithheld:
    return ResultWithheld("the result has too many values to be redacted", code="result_too_large")
