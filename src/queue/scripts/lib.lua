-- What every script begins with. KEYS[1] is the prefix; all other keys are made from it, so that with a
-- hash tag as prefix everything lies in one slot. Time is the server's alone.
local P, rc = KEYS[1], redis.call
local CHUNK = 1000 -- `unpack` fails near 8,000
local function now() local t = rc('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local function wake(q) rc('ZADD', P .. ':wake:' .. q, 0, '1') end
local function count(q, what, n) rc('HINCRBY', P .. ':stats', q .. ':' .. what, n) end
-- Outcomes lie in buckets of an eighth of their time to live. `buckets` lists them by expiry, so that `tick`
-- can free each without blocking; the expiry on the key itself is for when no one ticks.
local function keep(t, ttl, pairs_)
  ttl = math.max(8000, math.min(ttl, 366 * 86400000)) -- whatever a task asks for, nothing here may raise
  local slice = math.ceil(ttl / 8)
  local slot = math.floor(t / slice)
  local key, expiry = P .. ':done:' .. ttl .. ':' .. slot, (slot + 1) * slice + ttl
  if rc('EXISTS', key) == 0 then rc('ZADD', P .. ':buckets', expiry, key) end
  rc('HSET', key, unpack(pairs_))
  rc('PEXPIREAT', key, expiry + 60000)
end
local function outcome(id)
  for _, key in ipairs(rc('ZREVRANGE', P .. ':buckets', 0, -1)) do
    local text = rc('HGET', key, id)
    if text then return text end
  end
  return false
end
