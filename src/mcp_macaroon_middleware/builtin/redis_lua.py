"""What the Lua of the `redis` store shares: the script, the server's time, and where keys go that nobody here wrote.

A key that holds what this store did not write is never believed and never deleted: it is renamed to
`{audience's prefix}q:{SHA-1 of its name}`, where it lies for a week, for whoever wants to look at it.
"""

from __future__ import annotations

import hashlib
from typing import Final

ASIDE_FOR: Final = 7 * 86_400 * 1000
"""Milliseconds that a broken key is kept aside."""


class Script:
    """A script, the digest by which the server knows it, and whether it may change what is stored."""

    __slots__ = ("digest", "source", "writes")

    def __init__(self, source: str, *, writes: bool = False) -> None:
        self.source: Final = source
        self.writes: Final = writes
        self.digest: Final = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # EVALSHA's own digest


NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
"""

ASIDE: Final = f"""
local aside = {{}}

local function move(key)
  local name = KEYS[1] .. 'q:' .. redis.sha1hex(key)
  redis.call('RENAME', key, name)
  redis.call('PEXPIRE', name, {ASIDE_FOR})
  aside[#aside + 1] = name
end
"""
"""`move` puts a key out of the way; `aside` are the names under which they lie now."""
