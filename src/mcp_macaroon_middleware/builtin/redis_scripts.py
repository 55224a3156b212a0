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

import hashlib
from typing import Final

VERSION: Final = 32
"""How many characters of a stored value are its version."""

SLOTS: Final = 64
"""How many charges of a window are exact; see `memory`."""


class Script:
    """A script, the digest by which the server knows it, and whether it may change what is stored."""

    __slots__ = ("digest", "source", "writes")

    def __init__(self, source: str, *, writes: bool = False) -> None:
        self.source: Final = source
        self.writes: Final = writes
        self.digest: Final = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # EVALSHA's own digest


_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
"""

_VALUES: Final = (
    _NOW
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
return 1
""",
    writes=True,
)
"""Arguments: the key, its new value, the ttl in milliseconds."""

SWAP: Final = Script(
    _VALUES
    + f"""
if redis.call('GETRANGE', KEYS[4], 0, {VERSION - 1}) ~= ARGV[4] then
  redis.call('DEL', KEYS[1])
  return 0
end
set(ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 1
""",
    writes=True,
)
"""Arguments: those of `PUT`, then the version that must be there, empty for none."""

TAKE: Final = Script(
    """
local found = redis.call('GET', KEYS[4])
redis.call('DEL', KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return found
""",
    writes=True,
)
"""Argument: the key."""

SCAN: Final = Script(
    """
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
return {full and last, found}
"""
)
"""Arguments: the first and the last key in the notation of ZRANGEBYLEX, how many entries, how many bytes of them."""

ADD: Final = Script(
    _NOW
    + f"""
local windows, lines, asked, fits = {{}}, {{}}, {{}}, true

local function bucket(key, each)
  local full = tonumber(redis.call('GET', key) or 0)
  return {{each = each, full = full, total = math.max(0, math.ceil((full - now) / each - 1e-6)), charged = false}}
end

local function read(key)
  local window = {{charges = {{}}, total = 0, charged = false}}
  local raw = redis.call('GET', key)
  local flat = raw and cmsgpack.unpack(raw) or {{}}
  for i = 1, #flat, 2 do
    if flat[i] > now then
      window.charges[#window.charges + 1] = {{flat[i], flat[i + 1]}}
      window.total = window.total + flat[i + 1]
    end
  end
  return window
end

local function charge(window, amount, span)
  if window.each then
    window.full = math.ceil(math.max(window.full, now) + amount * window.each)
    window.total, window.charged = math.ceil((window.full - now) / window.each - 1e-6), true
    return
  end
  local charges, leaves = window.charges, now + span
  if #charges >= {SLOTS} then
    local slot = math.ceil(span / {SLOTS})
    local over = math.fmod(leaves, slot)
    if over > 0 then leaves = leaves + slot - over end
  end
  local last = charges[#charges]
  if last and last[1] >= leaves then
    last[2] = last[2] + amount
  else
    charges[#charges + 1] = {{leaves, amount}}
  end
  window.total, window.charged = window.total + amount, true
end

local function write(key, window)
  if window.each then
    local left = math.ceil((window.full - now) / 1000) + 1000
    redis.call('SET', key, string.format('%.0f', window.full), 'PX', left)
    return
  end
  local flat = {{}}
  for _, entry in ipairs(window.charges) do
    flat[#flat + 1], flat[#flat + 2] = entry[1], entry[2]
  end
  local ttl = math.ceil((flat[#flat - 1] - now) / 1000) + 1000
  redis.call('SET', key, cmsgpack.pack(flat), 'PX', ttl)
end

local function free_at(window, need)
  if window.each then return window.full - (window.total - need) * window.each end
  for _, entry in ipairs(window.charges) do
    need = need - entry[2]
    if need <= 0 then return entry[1] end
  end
  return now
end

local function retry_after()
  local latest = 0
  for _, line in ipairs(lines) do
    local wanted = asked[line.key]
    if wanted > line.limit then return -1 end
    local over = windows[line.key].total + wanted - line.limit
    if over > 0 then latest = math.max(latest, free_at(windows[line.key], over) - now) end
  end
  return latest
end

for i = 2, #KEYS do
  local at, key = 4 * (i - 2), KEYS[i]
  local line = {{key = key, amount = tonumber(ARGV[at + 1]), limit = tonumber(ARGV[at + 2])}}
  line.span = tonumber(ARGV[at + 3])
  local refills = ARGV[at + 4] == '1'
  windows[key] = windows[key] or (refills and bucket(key, line.span / math.max(line.limit, 1)) or read(key))
  lines[#lines + 1] = line
  asked[key] = (asked[key] or 0) + line.amount
  fits = fits and windows[key].total + asked[key] <= line.limit
end

local answer = {{fits and 1 or 0, fits and 0 or math.ceil(retry_after())}}
if fits then
  for _, line in ipairs(lines) do
    if line.amount > 0 then charge(windows[line.key], line.amount, line.span) end
  end
  for key, window in pairs(windows) do
    if window.charged then write(key, window) end
  end
end
redis.call('DEL', KEYS[1])
for _, line in ipairs(lines) do answer[#answer + 1] = windows[line.key].total end
return answer
""",
    writes=True,
)
"""Keys: the prefix, then one for each line. Arguments, for each: amount, limit, window in microseconds, 1 for a bucket.

A window holds when each charge leaves it; a bucket, when it is full again."""
