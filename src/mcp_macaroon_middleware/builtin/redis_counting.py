"""The Lua that charges limits, inside the server: every line of an operation, or none.

A window holds when each charge leaves it, and the longest span of any of them; a bucket, when it is full again, and how
long it takes to fill. No charge lasts longer from now on than its window (and the 64th of it that charges may be
late), and no bucket takes longer to fill: what a clock that ran ahead wrote down ends within one window after it was
set right. A look is enough for that, so it writes where it has to.

A counter that holds anything else is moved aside and refuses this one operation, which charges nothing then; the next
one finds a fresh window, and never more than that.
"""

from __future__ import annotations

from typing import Final

from .redis_lua import ASIDE, NOW, Script

SLOTS: Final = 64
"""How many charges of a window are exact; see `memory`."""

_READ: Final = """
local function text(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return nil end
  return kind == 'string' and redis.call('GET', key)
end

local function bucket(key, span, limit)
  local found, full, longest = text(key), 0, span
  if found ~= nil then
    local ends, whole = string.match(found or '', '^(%d+) ?(%d*)$')
    if not ends or #found > 40 then return nil end
    full, longest = tonumber(ends), math.max(tonumber(whole) or 0, span)
  end
  local each, most = span / math.max(limit, 1), math.ceil(now + longest)
  local taken = {each = each, span = longest, full = math.min(full, most), changed = full > most}
  taken.total = math.max(0, math.ceil((taken.full - now) / each - 1e-6))
  return taken
end

local function numbers(found)
  local fine, flat = pcall(cmsgpack.unpack, found)
  if not fine or type(flat) ~= 'table' or #flat < 2 then return nil end
  for _, number in ipairs(flat) do
    if type(number) ~= 'number' or not (number >= 0 and number < 2^53 and number % 1 == 0) then return nil end
  end
  for i = 3, #flat - 1, 2 do
    if flat[i] < flat[i - 2] then return nil end
  end
  return flat
end

local function window(key, span)
  local found, charged = text(key), {charges = {}, total = 0, span = 0, changed = false}
  if found == nil then return charged end
  local flat = found and numbers(found)
  if not flat then return nil end
  charged.span = #flat % 2 == 1 and flat[#flat] or span
  local most = now + charged.span + math.ceil(charged.span / SLOTS)
  for i = 1, #flat - 1, 2 do
    local leaves, amount = math.min(flat[i], most), flat[i + 1]
    charged.changed = charged.changed or leaves < flat[i]
    if leaves > now then
      charged.charges[#charged.charges + 1] = {leaves, amount}
      charged.total = charged.total + amount
    end
  end
  return charged
end
"""

_CHARGE: Final = """
local function charge(there, amount, span)
  there.changed = true
  if there.each then
    there.full = math.ceil(math.max(there.full, now) + amount * there.each)
    there.total = math.ceil((there.full - now) / there.each - 1e-6)
    return
  end
  local charges, leaves = there.charges, now + span
  if #charges >= SLOTS then
    local slot = math.ceil(span / SLOTS)
    local over = math.fmod(leaves, slot)
    if over > 0 then leaves = leaves + slot - over end
  end
  local last = charges[#charges]
  if last and last[1] >= leaves then
    last[2] = last[2] + amount
  else
    charges[#charges + 1] = {leaves, amount}
  end
  there.total, there.span = there.total + amount, math.max(there.span, span)
end

local function write(key, there)
  local last, value
  if there.each then
    last, value = there.full, string.format('%.0f %.0f', there.full, there.span)
  else
    local flat = {}
    for _, entry in ipairs(there.charges) do
      flat[#flat + 1], flat[#flat + 2] = entry[1], entry[2]
    end
    last, flat[#flat + 1] = flat[#flat - 1], there.span
    value = cmsgpack.pack(flat)
  end
  local gone = math.min(math.ceil((last - now) / 1000) + 1000, math.ceil(there.lasts / 1000))
  redis.call('SET', key, value, 'PX', gone)
end

local function free_at(there, need)
  if there.each then return there.full - (there.total - need) * there.each end
  for _, entry in ipairs(there.charges) do
    need = need - entry[2]
    if need <= 0 then return entry[1] end
  end
  return now
end
"""

_ALL_OR_NONE: Final = """
local counters, lines, asked, fits = {}, {}, {}, true

local function there_is_room(line)
  local there = counters[line.key]
  return there and there.total + asked[line.key] <= line.limit
end

local function retry_after()
  local latest = 0
  for _, line in ipairs(lines) do
    local wanted = asked[line.key]
    if wanted > line.limit then return -1 end
    local over = counters[line.key].total + wanted - line.limit
    if over > 0 then latest = math.max(latest, free_at(counters[line.key], over) - now) end
  end
  return latest
end

for i = 2, #KEYS do
  local at, key = 5 * (i - 2), KEYS[i]
  local line = {key = key, amount = tonumber(ARGV[at + 1]), limit = tonumber(ARGV[at + 2])}
  line.span = tonumber(ARGV[at + 3])
  if counters[key] == nil then
    local there
    if ARGV[at + 4] == '1' then there = bucket(key, line.span, line.limit) else there = window(key, line.span) end
    if not there then move(key) end
    counters[key] = there or false
  end
  if counters[key] then counters[key].lasts = math.max(counters[key].lasts or 0, tonumber(ARGV[at + 5])) end
  lines[#lines + 1] = line
  asked[key] = (asked[key] or 0) + line.amount
  fits = fits and there_is_room(line)
end
if #aside > 0 then return {-1, aside} end

local answer = {fits and 1 or 0, fits and 0 or math.ceil(retry_after())}
if fits then
  for _, line in ipairs(lines) do
    if line.amount > 0 then charge(counters[line.key], line.amount, line.span) end
  end
end
for key, there in pairs(counters) do
  if there.changed then write(key, there) end
end
redis.call('DEL', KEYS[1])
for _, line in ipairs(lines) do answer[#answer + 1] = counters[line.key].total end
return answer
"""

ADD: Final = Script(f"{NOW}{ASIDE}local SLOTS = {SLOTS}\n{_READ}{_CHARGE}{_ALL_OR_NONE}", writes=True)
"""Keys: the prefix, then one for each line. Arguments, for each: amount, limit, window in microseconds, 1 for a bucket,
after how many microseconds it is gone whatever it holds.

The answer: 1 or 0, microseconds until it fits (-1: never), the sums; or -1 and the names of what was moved aside."""
