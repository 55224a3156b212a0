"""Where a redaction's paths stand at one place of a schema: what may leave there, and what is never there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..model import Redaction
from .nodes import UNNAMED
from .paths import Folded, States, Wild, advance, advance_any, ended, parse_path, start

LONE: Final = "result"
"""The only member of what may be a wrapped result or an object with this one field."""

NOBODY_KNOWS: Final = object()
"""Stands for a place of which the schema does not say enough: it admits anything."""

Keeps = tuple[States, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The paths under way at one place. Equal standings at one place of a schema make one definition.

    `withheld` and `keeps` are those of what may leave, `gone` and `shown` those of what always does. `hidden`: the
    place may leave as a whole, so that its schema tells its structure and no value. `loose`: one standing for every
    place, of the paths' every rest; it says less and never grows. `inner`: paths that begin anew inside a lone
    `result`.
    """

    withheld: States = frozenset()
    keeps: Keeps = ()
    gone: States = frozenset()
    shown: Keeps = ()
    hidden: bool = False
    loose: bool = False
    inner: States = frozenset()

    @classmethod
    def first(cls, redaction: Redaction, never: Redaction, *, twofold: bool = False) -> Standing:
        """At the top of a result. `twofold`: a lone `result` may be a wrapper, inside of which paths begin as well."""
        withheld = start(redaction.withhold)
        return cls(
            withheld=withheld,
            keeps=_pending(map(start, redaction.keep)),
            gone=start(never.withhold),
            shown=_pending(map(start, never.keep)),
            inner=withheld if twofold else frozenset(),
        )

    @classmethod
    def anywhere(cls, never: Redaction) -> Standing | None:
        """One standing that is wide enough for every place; None where no such standing tells what is never there."""
        if never.keep:
            return None
        steps = [parse_path(path).steps for path in never.withhold]
        rests = frozenset(path[begin:] for path in steps for begin in range(len(path)))
        return cls(gone=rests, hidden=True, loose=True)

    @property
    def is_idle(self) -> bool:
        """Whether nothing can leave here or below."""
        return not (self.withheld or self.keeps or self.hidden)

    @property
    def is_positional(self) -> bool:
        """Whether a path that keeps may go on through the position of an item, not only through what the item holds."""
        return any(map(_spells_items, self.keeps))

    def may_leave(self, name: str) -> bool:
        """Whether the key may be missing. One that only leads to what is kept leaves if it is no object."""
        kept = all(ended(advance(keep, name)) for keep in self.keeps)
        return self.loose or not kept or ended(advance(self.withheld, name))

    def key(self, name: str) -> Standing | None:
        """Under a key; None where it is never there."""
        withheld = advance(self.withheld, name)
        return self._below(
            withheld | self.inner if name == LONE else withheld,
            [advance(keep, name) for keep in self.keeps],
            advance(self.gone, name),
            [advance(keep, name) for keep in self.shown],
        )

    def unnamed(self) -> Standing | object | None:
        """Under any key that the schema does not spell; `NOBODY_KNOWS` where it depends on the very key."""
        keeps = [advance(keep, UNNAMED) for keep in self.keeps]
        if any(advance_any(keep) != exact for keep, exact in zip(self.keeps, keeps, strict=True)):
            return NOBODY_KNOWS
        gone, shown = advance(self.gone, UNNAMED), [advance_any(keep) for keep in self.shown]
        return self._below(advance_any(self.withheld), keeps, gone, shown)

    def item(self) -> Standing | None:
        """In the items of a list, through which paths go on."""
        withheld = self.withheld | advance_any(self.withheld)
        return self._below(withheld, self.keeps, self.gone | advance(self.gone, UNNAMED), self.shown)

    def _below(
        self, withheld: States, keeps: Sequence[States], gone: States, shown: Sequence[States]
    ) -> Standing | None:
        if ended(gone) or not all(shown):
            return None
        if self.loose:
            return self
        return Standing(
            withheld=withheld - {()},
            keeps=_pending(keeps),
            gone=gone,
            shown=_pending(shown),
            hidden=self.hidden or ended(withheld) or not all(keeps),
        )

    def concealed(self) -> Standing:
        """The same, where the place itself may leave."""
        return replace(self, hidden=True)


def _pending(keeps: Iterable[States]) -> Keeps:
    return tuple(keep for keep in keeps if not ended(keep))


def _spells_items(states: States) -> bool:
    steps = [state[0] for state in states if state]
    names = [step.key if isinstance(step, Folded) else step for step in steps if not isinstance(step, Wild)]
    return Wild.ONE in steps or any(name.isdigit() for name in names)
