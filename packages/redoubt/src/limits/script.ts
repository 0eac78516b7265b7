import { defineScript } from '../redis.ts'
import { counted } from './window.ts'

/*
 * The arithmetic of window.ts in Redis. A key holds the numbers of `Use`: newest tenth, its units, all units, oldest tenth,
 * then tenth and units of those before, oldest first, each as a double. struct reads and writes those of one tenth in 0.24 µs; as
 * text, as which they stood here before, it took 0.86. Units counted in the
 * tenth in which the key was written last overwrite its first 32 bytes, and leave its expiry as it is.
 */

/**
 * KEYS: each name once. ARGV[1]: for each demand two characters, the number of its name and that of its terms, plus 64
 * where a decision begins. ARGV[2…]: terms, quota, width and cost of each. One decision after the other, each over all its demands,
 * counts all or none. Returns the time, and for each decision whether it is allowed, then for each of its demands the
 * units used and the oldest tenth, and where it is refused, the milliseconds to wait.
 */
export const take = defineScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local texts = redis.call('MGET', unpack(KEYS))
local byte, sub, floor, pack, unpack = string.byte, string.sub, math.floor, struct.pack, struct.unpack
local function advance(use, text, slot)
  local from, past, total, oldest, units = slot - ${counted}, {}, 0, 0, 0
  local function see(s, u)
    if u > 0 and s > from then
      total = total + u
      if s >= slot then units = units + u
      else
        past[#past + 1] = pack('<dd', s, u)
        if oldest == 0 then oldest = s end
      end
    end
  end
  local before = use[5] or sub(text, 33)
  for at = 1, #before - 15, 16 do see(unpack('<dd', before, at)) end
  see(use[1], use[2])
  if oldest == 0 and units > 0 then oldest = slot end
  use[1], use[2], use[3], use[4], use[5] = slot, units, total, oldest, table.concat(past)
end
local function waitFor(use, text, width, over)
  local sum, before = 0, use[5] or sub(text, 33)
  for at = 1, #before - 15, 16 do
    local s, u = unpack('<dd', before, at)
    sum = sum + u
    if sum >= over then return math.max((s + ${counted}) * width - now, 1) end
  end
  if sum + use[2] >= over then return math.max((use[1] + ${counted}) * width - now, 1) end
  return ${counted} * width
end
local quotas, widths, costs, slots = {}, {}, {}, {}
for p = 1, (#ARGV - 1) / 3 do
  quotas[p], widths[p], costs[p] = ARGV[3 * p - 1] + 0, ARGV[3 * p] + 0, ARGV[3 * p + 1] + 0
  slots[p] = floor(now / widths[p])
end
local codes, uses, out, o, at = ARGV[1], {}, {now}, 1, 1
while at < #codes do
  local from, allowed = at, 1
  local k, p = byte(codes, at, at + 1)
  p = p - 64
  repeat
    local slot, use = slots[p], uses[k]
    if not use then
      local text = texts[k]
      if text and #text >= 32 then
        use = {unpack('<dddd', text)}
        use[5] = nil
      else use = {slot, 0, 0, 0, ''} end
      uses[k] = use
    end
    if use[1] ~= slot or (use[4] > 0 and use[4] <= slot - ${counted}) then advance(use, texts[k], slot) end
    if use[3] + costs[p] > quotas[p] then allowed = 0 end
    at = at + 2
    k, p = byte(codes, at, at + 1)
  until not p or p > 64
  o = o + 1
  out[o] = allowed
  for i = from, at - 2, 2 do
    local k, p = byte(codes, i, i + 1)
    if p > 64 then p = p - 64 end
    local use, cost = uses[k], costs[p]
    if allowed == 1 then
      use[2], use[3], use[6] = use[2] + cost, use[3] + cost, widths[p]
      if use[4] == 0 then use[4] = use[1] end
      out[o + 1], out[o + 2] = use[3], use[4]
      o = o + 2
    else
      local over = use[3] + cost - quotas[p]
      out[o + 1], out[o + 2], out[o + 3] = use[3], use[4], over > 0 and waitFor(use, texts[k], widths[p], over) or 0
      o = o + 3
    end
  end
end
for k = 1, #KEYS do
  local use = uses[k]
  if use[6] then
    local head = pack('<dddd', use[1], use[2], use[3], use[4])
    if use[5] then redis.call('SET', KEYS[k], head .. use[5], 'PX', (use[1] + ${counted}) * use[6] - now)
    else redis.call('SETRANGE', KEYS[k], 0, head) end
  end
end
return out
`)

/** KEYS: names. ARGV: for each the tenth in which units were counted, and how many. What has expired stays so. */
export const giveBack = defineScript(`
local pack, unpack = struct.pack, struct.unpack
for i = 1, #KEYS do
  local text = redis.call('GET', KEYS[i])
  if text and #text >= 32 then
    local slot, cost = ARGV[2 * i - 1] + 0, ARGV[2 * i] + 0
    local newest, units, total, oldest = unpack('<dddd', text)
    local back = 0
    if newest == slot then
      back = math.min(cost, units)
      units = units - back
    else
      for at = 33, #text - 15, 16 do
        local s, u = unpack('<dd', text, at)
        if s == slot then
          back = math.min(cost, u)
          redis.call('SETRANGE', KEYS[i], at - 1, pack('<dd', s, u - back))
        end
      end
    end
    redis.call('SETRANGE', KEYS[i], 0, pack('<dddd', newest, units, total - back, oldest))
  end
end
return 1
`)
