"""Finds the rules that speak of a component, at a cost that follows what matches, not how many rules there are.

Literal targets are found by name; globs by their literal prefix, or, where they begin with `*`, by their literal
suffix. It never judges anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..model import Component, Kind, Target
from ..rules import folded, folded_names, glob_matches, is_address, names_of

_Bucket = list[tuple[str, int]]


class _Globs:
    """Globs of one kind, in buckets by a literal end."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, _Bucket] = {}
        self._by_suffix: dict[str, _Bucket] = {}
        self._prefix_lengths: tuple[int, ...] = ()
        self._suffix_lengths: tuple[int, ...] = ()

    def add(self, pattern: str, number: int) -> None:
        prefix, suffix = pattern.partition("*")[0], pattern.rpartition("*")[2]
        table, end = (self._by_prefix, prefix) if prefix or not suffix else (self._by_suffix, suffix)
        table.setdefault(end, []).append((pattern, number))

    def seal(self) -> None:
        self._prefix_lengths = tuple(sorted({len(end) for end in self._by_prefix}))
        self._suffix_lengths = tuple(sorted({len(end) for end in self._by_suffix}))

    def matches(self, name: str) -> Iterator[int]:
        for bucket in self._buckets(name):
            for pattern, number in bucket:
                if glob_matches(pattern, name):
                    yield number

    def _buckets(self, name: str) -> Iterator[_Bucket]:
        size = len(name)
        for length in self._prefix_lengths:
            if length <= size and (bucket := self._by_prefix.get(name[:length])) is not None:
                yield bucket
        for length in self._suffix_lengths:
            if length <= size and (bucket := self._by_suffix.get(name[size - length :])) is not None:
                yield bucket


class TargetIndex:
    """An immutable index over the targets of numbered rules. What folds is indexed when the first address comes."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = tuple(targets)
        self._folding: dict[Kind, TargetIndex] = {}
        self._everything: list[int] = []
        self._literal: dict[tuple[Kind, str], list[int]] = {}
        self._globs: dict[Kind, _Globs] = {kind: _Globs() for kind in Kind}
        for number, target in enumerate(self._targets):
            self._add(target, number)
        for globs in self._globs.values():
            globs.seal()

    def _add(self, target: Target, number: int) -> None:
        if target.kind is None:
            self._everything.append(number)
        elif target.is_glob:
            self._globs[target.kind].add(target.pattern, number)
        else:
            self._literal.setdefault((target.kind, target.pattern), []).append(number)

    def matches(self, component: Component) -> list[int]:
        """The numbers, in order, of all rules whose target matches any name of the component as it is written."""
        return sorted(self._matching(component.kind, set(names_of(component, granting=False))))

    def resembling(self, component: Component) -> list[int]:
        """The numbers of all rules whose target matches any spelling that could be the same as one of its names."""
        if not is_address(component):
            return NONE
        folding = self._folding.get(component.kind)
        if folding is None:
            own = [Target(kind=target.kind, pattern=folded(target.pattern)) for target in self._targets]
            folding = self._folding.setdefault(component.kind, TargetIndex(own))
        return sorted(folding._matching(component.kind, folded_names(component)))

    def _matching(self, kind: Kind, names: Iterable[str]) -> set[int]:
        found = set(self._everything)
        globs = self._globs[kind]
        for name in names:
            found.update(self._literal.get((kind, name), NONE))
            found.update(globs.matches(name))
        return found


NONE: Final[list[int]] = []
