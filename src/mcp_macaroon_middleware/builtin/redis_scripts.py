"""The Lua that runs inside the server, one script for each primitive of the `redis` store. None leaves a key without
a TTL, and none uses any clock but the server's.

Keys: `KEYS[1]` is the audience's prefix and never a key itself, `KEYS[2]` its index (live keys in their order),
`KEYS[3]` when each of those ends, in milliseconds; `KEYS[4]` and on are values. Counters (`add`) have no index.
A value is its version, 32 characters, and the caller's bytes. Numbers stay below 2^53, where Lua's are exact.

Writes come after whatever may fail, so that a script does all of its work or none. A script that has nothing to write
deletes a key that is never there: that costs nothing, and a read-only replica refuses it, so that nothing is ever
answered from a copy that may be old.
"""

from __future__ import annotations

from typing import Final

from .redis_counting import ADD, SLOTS
from .redis_lua import ASIDE, NOW, Script

__all__ = ["ADD", "CHECK", "GET", "PUT", "SCAN", "SLOTS", "SWAP", "TAKE", "VERSION", "Script"]

VERSION: Final = 32
"""How many characters of a stored value are its version."""

_INDEX: Final = (
    ASIDE
    + """
for i = 2, 3 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'zset' and kind ~= 'none' then move(KEYS[i]) end
end

local function answer(value)
  if #aside > 0 then return {value, aside} end
  return value
end
"""
)
"""Makes sure that the index can be written to, before anything else is."""

_VALUES: Final = (
    NOW
    + _INDEX
    + """
local function sweep()
  local past = math.floor(now / 1000) - 1
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', past, 'LIMIT', 0, 16)) do
    if redis.call('EXISTS', KEYS[1] .. 'v:' .. key) == 0 then
      redis.call('ZREM', KEYS[2], key)
      redis.call('ZREM', KEYS[3], key)
    end
  end
end

local function set(key, value, ttl)
  redis.call('ZADD', KEYS[2], 0, key)
  redis.call('ZADD', KEYS[3], math.floor(now / 1000) + ttl, key)
  for i = 2, 3 do
    if redis.call('PTTL', KEYS[i]) < ttl + 1000 then redis.call('PEXPIRE', KEYS[i], ttl + 1000) end
  end
  redis.call('SET', KEYS[4], value, 'PX', ttl)
  sweep()
end
"""
)

CHECK: Final = Script("return redis.call('TIME')")

GET: Final = Script(
    """
local found = {}
for i = 2, #KEYS do found[i - 1] = redis.call('GET', KEYS[i]) end
redis.call('DEL', KEYS[1])
return found
"""
)
"""Keys: the prefix, then the values."""

PUT: Final = Script(
    _VALUES
    + """
set(ARGV[1], ARGV[2], tonumber(ARGV[3]))
return answer(1)
""",
    writes=True,
)
"""Arguments: the key, its new value, the ttl in milliseconds."""

SWAP: Final = Script(
    f"local there = redis.call('GETRANGE', KEYS[4], 0, {VERSION - 1})"
    + _VALUES
    + """
if there ~= ARGV[4] then
  redis.call('DEL', KEYS[1])
  return answer(0)
end
set(ARGV[1], ARGV[2], tonumber(ARGV[3]))
return answer(1)
""",
    writes=True,
)
"""Arguments: those of `PUT`, then the version that must be there, empty for none."""

TAKE: Final = Script(
    "local found = redis.call('GET', KEYS[4])"
    + _INDEX
    + """
redis.call('DEL', KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return answer(found)
""",
    writes=True,
)
"""Argument: the key."""

SCAN: Final = Script(
    _INDEX
    + """
local from, most, room = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, gone, seen, size, last, full = {}, {}, 0, 0, false, false
repeat
  local keys = redis.call('ZRANGEBYLEX', KEYS[2], from, ARGV[2], 'LIMIT', 0, 100)
  for _, key in ipairs(keys) do
    full = #found >= 2 * most or size >= room or seen >= 2000
    if full then break end
    seen, last = seen + 1, key
    local value = redis.call('GET', KEYS[1] .. 'v:' .. key)
    if value then
      found[#found + 1], found[#found + 2] = key, value
      size = size + #value
    else
      gone[#gone + 1] = key
    end
  end
  if last then from = '(' .. last end
until full or #keys < 100
for _, key in ipairs(gone) do
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
end
redis.call('DEL', KEYS[1])
return {full and last, found, aside}
"""
)
"""Arguments: the first and the last key in the notation of ZRANGEBYLEX, how many entries, how many bytes of them.

The answer: the cursor, keys and values in turns, and the names of what was moved aside."""
