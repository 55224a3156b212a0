"""Compiles a redaction into nodes: at each place of a document, what leaves there and what goes on below."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ..errors import ResultWithheld
from ..model import Redaction
from .paths import Folded, States, advance, ended, fold, start

REMEMBERED: Final = 5_000
WORK: Final = 20_000_000
UNNAMED: Final = "\0"  # a key that only wildcards name: every one that no path spells


class Node:
    """Where the redaction's paths stand at one place of a document; what follows is worked out once, within bounds.

    `withheld` are the states of the paths that withhold; `keeps` has the states of each `keep` set that has not named
    this place yet. Keys that no path spells share one successor, so that documents cannot make the memory grow.
    """

    __slots__ = ("_folds", "_items", "_keys", "_machine", "_names", "keeps", "names", "numbered", "withheld")

    def __init__(self, machine: Machine, withheld: States, keeps: tuple[States, ...]) -> None:
        self.withheld = withheld
        self.keeps = keeps
        steps = {state[0] for states in (withheld, *keeps) for state in states if state}
        self._names = frozenset(step for step in steps if isinstance(step, str))
        self._folds = frozenset(step.key for step in steps if isinstance(step, Folded))
        self.names = _last_names(withheld)
        self.numbered = any(name.isdigit() for name in self._names | self._folds)
        self._machine = machine
        self._keys: dict[str, Node | None] = {}
        self._items: dict[str, Node | None] = {}

    @property
    def weight(self) -> int:
        """How many states the node holds."""
        return 1 + len(self.withheld) + sum(map(len, self.keeps))

    def key(self, key: str) -> Node | None:
        """The node under a key: `GONE` where it leaves, None where nothing below it does."""
        found = self._keys.get(key, UNSEEN)
        return self._known(key, self._keys, item=False) if found is UNSEEN else found

    def item(self, index: int | None) -> Node | None:
        """The node of an item of a list. Lists are walked: a path goes on in every item, and may name the item.

        None stands for an index that no path spells; it will do wherever the node is not `numbered`.
        """
        return self._known(UNNAMED if index is None else str(index), self._items, item=True)

    def _known(self, key: str, known: dict[str, Node | None], *, item: bool) -> Node | None:
        spelled = key in self._names
        name = key if spelled or (self._folds and fold(key) in self._folds) else UNNAMED
        found = known.get(name, UNSEEN)
        if found is UNSEEN:
            found = self._successor(name, item=item)
            if spelled or name == UNNAMED:
                known[name] = found
        return found

    def _successor(self, key: str, *, item: bool) -> Node | None:
        self._machine.spend(self.weight)
        withheld = advance(self.withheld, key)
        keeps = [advance(keep, key) for keep in self.keeps]
        if item:
            withheld = self.withheld | withheld
            keeps = [old | new for old, new in zip(self.keeps, keeps, strict=True)]
        if ended(withheld) or not all(keeps):
            return GONE
        left = tuple(keep for keep in keeps if not ended(keep))
        return self._machine.node(withheld, left) if withheld or left else None


def _last_names(states: States) -> frozenset[str | Folded] | None:
    """The last key that each path under way spells: what a text must name to hold what the path withholds.

    None where a path spells none any more, so that any key will do.
    """
    found = [
        next((step for step in reversed(state) if isinstance(step, str | Folded)), None) for state in states if state
    ]
    return None if None in found else frozenset(step for step in found if step is not None)


class Machine:
    """The nodes of one redaction. Equal nodes are one; past the bound they are made anew at each use."""

    __slots__ = ("_nodes", "_weight", "_work", "top")

    def __init__(self, redaction: Redaction) -> None:
        self._nodes: dict[tuple[States, tuple[States, ...]], Node] = {}
        self._weight = self._work = 0
        withheld = start(redaction.withhold)
        keeps = tuple(keep for keep in map(start, redaction.keep) if not ended(keep))
        everything = redaction.everything or ended(withheld) or not all(keeps)
        self.top: Node | None = GONE if everything else self.node(withheld, keeps) if withheld or keeps else None

    def begin(self) -> Node | None:
        """The node at the top of a document, at the start of a walk."""
        self._work = 0
        return self.top

    def spend(self, steps: int) -> None:
        """Counts what a walk costs. Raises `ResultWithheld` where paths were written to make it endless."""
        self._work += steps
        if self._work > WORK:
            raise ResultWithheld("the paths are too many for this result", code="result_too_large")

    def node(self, withheld: States, keeps: tuple[States, ...]) -> Node:
        """The node for these states."""
        found = self._nodes.get((withheld, keeps))
        if found is None:
            found = Node(self, withheld, keeps)
            if self._weight + found.weight <= REMEMBERED:
                self._weight += found.weight
                self._nodes[withheld, keeps] = found
        return found


@lru_cache(maxsize=128)
def compiled(redaction: Redaction) -> Machine:
    """The machine of a redaction; the last ones used are kept."""
    return Machine(redaction)


GONE: Final[Node] = Node.__new__(Node)
"""Stands for a place that leaves with all that is below it."""

UNSEEN: Final[Node] = Node.__new__(Node)
"""Stands for a successor that was not worked out yet."""
