"""Which part of a redis store a key lies in, and under which names; on one server there is one part. It asks nobody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

PARTS: Final = 64
"""On a cluster: parts for keys with a tag, beside the one for keys without. Each lies whole in one hash slot."""


@dataclass(frozen=True, slots=True)
class Part:
    """The names of one part: what its keys begin with, its index, and when each of its keys ends."""

    base: bytes
    index: bytes
    ends: bytes

    @property
    def common(self) -> tuple[bytes, bytes, bytes]:
        """What every script on this part is told first."""
        return self.base, self.index, self.ends


class Parts:
    """The parts of one audience: all in one, or spread over a cluster by what a key has between its first braces."""

    def __init__(self, audience: str, *, spread: bool) -> None:
        name = quote(audience, safe="", errors="surrogatepass")
        names = [f"{name}/server", *(f"{name}/{number}" for number in range(PARTS))] if spread else [name]
        self._all: Final = tuple(_part(f"mcpm:{{{each}}}:".encode()) for each in names)

    @property
    def server(self) -> Part:
        """The part of what is nobody's in particular."""
        return self._all[0]

    @property
    def all(self) -> tuple[Part, ...]:
        """Every part."""
        return self._all

    def of(self, key: str) -> Part:
        """The part that `key` lies in."""
        if len(self._all) == 1:
            return self._all[0]
        tag = _tag(key)
        if tag is None:
            return self._all[0]
        digest = hashlib.sha256(tag.encode("utf-8", "surrogatepass")).digest()
        return self._all[1 + digest[0] % PARTS]

    def under(self, prefix: str) -> tuple[Part, ...]:
        """The parts in which keys that begin with `prefix` may lie."""
        return (self.of(prefix),) if _tag(prefix) is not None else self._all


def _part(base: bytes) -> Part:
    return Part(base, base + b"i", base + b"x")


def _tag(key: str) -> str | None:
    """What is between the first braces; None if there are none, or nothing in them."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else None
