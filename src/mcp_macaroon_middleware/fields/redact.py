"""Takes fields out of a document. It only removes; what it cannot walk with certainty is withheld whole (law L2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ..errors import ResultWithheld
from ..model import Redaction
from .paths import States, advance, embedded, ended, start

MAX_DEPTH: Final = 200
MEMO: Final = 512

_GONE: Final = object()
_NO_KEY: Final = "\0"  # stands for every position in a list that no path names


def redact(document: Any, redaction: Redaction) -> tuple[Any, bool]:
    """The document without what the redaction withholds, as new plain data, and whether anything left it.

    Withheld keys and items are removed. Raises `ResultWithheld` where the whole document is withheld, is nested deeper
    than `MAX_DEPTH`, or is no plain JSON data. The work is linear in the document for a given redaction.
    """
    node = _compiled(redaction)
    if node is None:
        raise ResultWithheld("the whole result is withheld", code="withheld")
    walk = _Walk()
    result = walk.value(document, node, 0)
    if result is _GONE:
        raise ResultWithheld("the whole result is withheld", code="withheld")
    return result, walk.changed


class _Node:
    """Where the redaction's paths stand at one place of a document. Its successors are remembered, within bounds.

    `withheld` are the states of the paths that withhold; `keeps` has the states of each `keep` set that has not named
    this place yet. A place that no path can change any more has no node.
    """

    __slots__ = ("_after", "keeps", "withheld")

    def __init__(self, withheld: States, keeps: tuple[States, ...]) -> None:
        self.withheld = withheld
        self.keeps = keeps
        self._after: dict[tuple[str, bool], Any] = {}

    def key(self, key: str) -> Any:
        """The node under a key, None where nothing changes below, `_GONE` where the key is withheld."""
        return self._known(key, item=False)

    def item(self, index: int) -> Any:
        """The same for an item of a list. Lists are walked: a path goes on in every item, and may name the item."""
        number = str(index)
        return self._known(number if self._names(number) else _NO_KEY, item=True)

    def _names(self, number: str) -> bool:
        return any(at < len(path) and path[at] == number for path, at in (*self.withheld, *sum(self.keeps, ())))

    def _known(self, key: str, *, item: bool) -> Any:
        mark = (key, item)
        if mark in self._after:
            return self._after[mark]
        found = self._successor(key, item=item)
        if len(self._after) < MEMO:
            self._after[mark] = found
        return found

    def _successor(self, key: str, *, item: bool) -> Any:
        withheld = advance(self.withheld, key)
        keeps = [advance(keep, key) for keep in self.keeps]
        if item:
            withheld = tuple(dict.fromkeys(self.withheld + withheld))
            keeps = [tuple(dict.fromkeys(old + new)) for old, new in zip(self.keeps, keeps, strict=True)]
        if ended(withheld) or any(not keep for keep in keeps):
            return _GONE
        left = tuple(keep for keep in keeps if not ended(keep))
        return _Node(withheld, left) if withheld or left else None


@lru_cache(maxsize=512)
def _compiled(redaction: Redaction) -> _Node | None:
    """The node at the top; None where everything is withheld."""
    withheld = start(redaction.withhold)
    if redaction.everything or ended(withheld):
        return None
    keeps = [start(keep) for keep in redaction.keep]
    return _Node(withheld, tuple(keep for keep in keeps if not ended(keep)))


class _Walk:
    """One walk through one document."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        self.changed = False

    def value(self, value: Any, node: _Node, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ResultWithheld("the result is nested too deep")
        if isinstance(value, Mapping):
            return self._mapping(value, node, depth)
        if isinstance(value, list | tuple):
            return self._sequence(value, node, depth)
        if isinstance(value, str):
            return self._text(value, node, depth)
        if value is not None and not isinstance(value, bool | int | float):
            raise ResultWithheld(f"the result holds a {type(value).__name__}, which is no JSON")
        return self._leaf(value, node)

    def _leaf(self, value: Any, node: _Node) -> Any:
        """A leaf stays only where every `keep` set names it or what holds it."""
        if not node.keeps:
            return value
        self.changed = True
        return _GONE

    def _mapping(self, value: Mapping[Any, Any], node: _Node, depth: int) -> Any:
        left: dict[str, Any] = {}
        for key, child in value.items():
            if not isinstance(key, str):
                raise ResultWithheld("the result holds a key that is no text")
            kept = self._child(child, node.key(key), depth)
            if kept is not _GONE:
                left[key] = kept
        return left

    def _sequence(self, value: Any, node: _Node, depth: int) -> Any:
        kept = (self._child(item, node.item(index), depth) for index, item in enumerate(value))
        return [item for item in kept if item is not _GONE]

    def _child(self, child: Any, node: Any, depth: int) -> Any:
        if node is None:
            return child
        if node is _GONE:
            self.changed = True
            return _GONE
        return self.value(child, node, depth + 1)

    def _text(self, value: str, node: _Node, depth: int) -> Any:
        """JSON inside a text is walked too, and written anew, so that no second spelling of a key survives."""
        inner = embedded(value)
        if inner is None:
            return self._leaf(value, node)
        left = self.value(inner, node, depth + 1)
        self.changed = self.changed or left != inner
        return json.dumps(left, ensure_ascii=False, separators=(",", ":"))
