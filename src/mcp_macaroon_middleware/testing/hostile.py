"""Values that a hostile or careless caller sends. They prove nothing by themselves; the suites feed them in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

CANARY: Final = "canary7f3a91"


def _deep(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    "",
    " ",
    "*",
    "..",
    "../../etc/passwd",
    "%2e%2e%2f",
    "a\x00b",
    "a\nb",
    "\ud800",
    "\u202e\u200b",
    "x" * 100_000,
    b"bytes",
    [],
    [None],
    {},
    {"": {"": None}},
    [[], {}, [{"a": [1]}]],
    _deep(100),
    object(),
)


def substituted(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`arguments` with each one in turn replaced by each hostile value, and left out; and whole odd argument sets."""
    for name in arguments:
        rest = {key: value for key, value in arguments.items() if key != name}
        yield rest
        for value in VALUES:
            yield {**rest, name: value}
    yield {}
    yield {**arguments, "": "x", "a:b": None, "\u202e": [], "__class__": {}, "x" * 1000: 1}


def with_canaries(value: Any) -> Any:
    """`value` with every text in it marked, so that a leak of any of them can be seen."""
    if isinstance(value, str):
        return value + CANARY
    if isinstance(value, Mapping):
        return {key: with_canaries(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_canaries(inner) for inner in value]
    return value
