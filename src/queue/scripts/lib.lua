-- What every script begins with. KEYS[1] is the prefix; all other keys are made from it, so that with a
-- hash tag as prefix everything lies in one slot. Time is the server's alone.
local P, rc = KEYS[1], redis.call
local CHUNK = 1000 -- `unpack` fails near 8,000
local DAY = 86400000
local function now() local t = rc('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local function wake(q) rc('ZADD', P .. ':wake:' .. q, 0, '1') end
local function count(q, what, n) rc('HINCRBY', P .. ':stats', q .. ':' .. what, n) end
local function whole(n) return string.format('%.0f', n) end
-- The queue of a job, without reading the rest of its envelope where that can be helped.
local function queue_of(envelope)
  local q = string.match(envelope, '^{"v":%d+,"task":"[^"\\]*","queue":"([^"\\]*)"')
  if q then return q end
  local ok, decoded = pcall(cjson.decode, envelope)
  return ok and type(decoded) == 'table' and decoded.queue or ''
end

-- The queue among whose failed a job is, if it is. An envelope that cannot be read does not tell which.
local function failed_in(id, envelope)
  local q = queue_of(envelope)
  for _, name in ipairs(q ~= '' and { q } or rc('SMEMBERS', P .. ':queues')) do
    if rc('ZSCORE', P .. ':failed:' .. name, id) then return name end
  end
end

-- The jobs that a lease (`token|id,id`) still holds, and what is noted of their holder. RQ, which may have used these
-- keys before, kept other things under this name.
local function held(lease)
  local ids, noted, bar = {}, nil, string.find(lease or '', '|', 1, true)
  if not bar then return ids end
  local token = string.sub(lease, 1, bar)
  for id in string.gmatch(string.sub(lease, bar + 1), '[^,]+') do
    local holder = rc('HGET', P .. ':run', id)
    if holder and string.sub(holder, 1, bar) == token then ids[#ids + 1], noted = id, holder end
  end
  return ids, noted
end

-- Outcomes lie in buckets of an eighth of their time to live. `buckets` lists them by expiry, so that `tick`
-- can free each without blocking; the expiry on the key itself is for when no one ticks.
local function keep(t, ttl, pairs_)
  ttl = math.max(8000, math.min(ttl, 366 * DAY)) -- whatever a task asks for, nothing here may raise
  local slice = math.ceil(ttl / 8)
  local slot = math.floor(t / slice)
  local key, expiry = P .. ':done:' .. whole(ttl) .. ':' .. whole(slot), (slot + 1) * slice + ttl
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

-- Jobs with a group wait in a list of their own, and the groups take turns: `turns` names each that has jobs
-- once, and '' for the jobs without one.
local function group_list(q, group) return P .. ':group:' .. q .. ':' .. group end
local function join(q, group, id, front)
  local list, turns = group_list(q, group), P .. ':turns:' .. q
  if rc(front and 'LPUSH' or 'RPUSH', list, id) == 1 then
    if rc('EXISTS', turns) == 0 then rc('RPUSH', turns, '') end
    rc('RPUSH', turns, group)
  end
end
local function has_ready(q) return rc('EXISTS', P .. ':queue:' .. q, P .. ':turns:' .. q) > 0 end
-- Puts jobs where workers take them from: behind the others, or in front with the last of `ids` first.
local function ready(q, ids, front)
  local groups = rc('EXISTS', P .. ':group') == 1 and rc('HMGET', P .. ':group', unpack(ids)) or {}
  local plain = {}
  for i, id in ipairs(ids) do
    if groups[i] then join(q, groups[i], id, front) else plain[#plain + 1] = id end
  end
  if #plain > 0 then rc(front and 'LPUSH' or 'RPUSH', P .. ':queue:' .. q, unpack(plain)) end
  wake(q)
end
-- Takes up to `want` (at most CHUNK) ids out of a queue.
local function take(q, want)
  local list, turns = P .. ':queue:' .. q, P .. ':turns:' .. q
  if rc('EXISTS', turns) == 0 then return rc('LPOP', list, want) or {} end
  local ids = {}
  while #ids < want do
    local group = rc('LPOP', turns)
    if not group then break end
    local from = group == '' and list or group_list(q, group)
    ids[#ids + 1] = rc('LPOP', from) or nil
    -- '' stays for as long as there is a group.
    if rc('EXISTS', group == '' and turns or from) == 1 then rc('RPUSH', turns, group) end
  end
  if #ids < want then
    for _, id in ipairs(rc('LPOP', list, want - #ids) or {}) do ids[#ids + 1] = id end
  end
  return ids
end

-- Frees the keys that keep others like these jobs out.
local function free_keys(ids)
  if rc('EXISTS', P .. ':key') == 0 then return end
  for i, key in ipairs(rc('HMGET', P .. ':key', unpack(ids))) do
    if key and rc('GET', P .. ':uniq:' .. key) == ids[i] then rc('DEL', P .. ':uniq:' .. key) end
  end
  rc('HDEL', P .. ':key', unpack(ids))
end
local ON_RECORD = { ':att', ':crash', ':err', ':prog', ':group', ':key', ':waits', ':unknown' }
local function forget(ids)
  rc('HDEL', P .. ':jobs', unpack(ids))
  rc('SREM', P .. ':cancel', unpack(ids))
  for _, key in ipairs(ON_RECORD) do rc('HDEL', P .. key, unpack(ids)) end
end

-- Among the failed. `errors` has the text of each.
local function bury(q, ids, errors, t)
  local died, texts = {}, {}
  for i, id in ipairs(ids) do
    died[2 * i - 1], died[2 * i] = t, id
    texts[2 * i - 1], texts[2 * i] = id, errors[i]
  end
  rc('HSET', P .. ':err', unpack(texts))
  rc('ZADD', P .. ':failed:' .. q, unpack(died))
  rc('SREM', P .. ':cancel', unpack(ids))
  free_keys(ids)
  count(q, 'failed', #ids)
end

-- Jobs that wait for others: `waits` has for each how many it still waits for, `then:<id>` who waits for that job,
-- and `then` how many these are. What became of it is told through a list, so that a thousand who wait for one
-- block nobody.
local function tell(ids, good)
  if rc('EXISTS', P .. ':then') == 0 then return end
  for i, waiting in ipairs(rc('HMGET', P .. ':then', unpack(ids))) do
    if waiting then rc('RPUSH', P .. ':told', (good and '+' or '-') .. ids[i]) end
  end
  rc('HDEL', P .. ':then', unpack(ids))
end
local function told(id, good, t)
  local left, policy = string.match(rc('HGET', P .. ':waits', id) or '', '^(%d+)|(%a+)$')
  if not left then return end
  local q = queue_of(rc('HGET', P .. ':jobs', id) or '')
  if not good and policy ~= 'any' then
    rc('HDEL', P .. ':waits', id)
    rc('ZREM', P .. ':deferred:' .. q, id)
    bury(q, { id }, { cjson.encode({ message = 'A job that this one waited for did not finish', at = t }) }, t)
    tell({ id }, false)
  elseif left + 0 > 1 then
    rc('HSET', P .. ':waits', id, whole(left - 1) .. '|' .. policy)
  else
    local due = tonumber(rc('ZSCORE', P .. ':deferred:' .. q, id) or 0)
    rc('HDEL', P .. ':waits', id)
    rc('ZREM', P .. ':deferred:' .. q, id)
    if due > t then rc('ZADD', P .. ':scheduled:' .. q, due, id) else ready(q, { id }) end
  end
end
-- Tells up to `most` of those who wait. Returns whether there are more.
local function hear(most, t)
  while most > 0 do
    local word = rc('LINDEX', P .. ':told', 0)
    if not word then return false end
    local waiting = P .. ':then:' .. string.sub(word, 2)
    local ids = rc('LPOP', waiting, most) or {}
    for _, id in ipairs(ids) do told(id, string.sub(word, 1, 1) == '+', t) end
    most = most - math.max(#ids, 1)
    if rc('EXISTS', waiting) == 0 then rc('LPOP', P .. ':told') end
  end
  return rc('EXISTS', P .. ':told') == 1
end

-- Ends a job that does not run and has not failed. From a list it is pulled from either end; one that lies too
-- deep for that stays there as a mere id, which a fetch passes over.
local DEPTH = 10000
local function pull(list, id)
  if rc('LPOS', list, id, 'RANK', -1, 'MAXLEN', DEPTH) then return rc('LREM', list, -1, id) end
  if rc('LPOS', list, id, 'MAXLEN', DEPTH) then return rc('LREM', list, 1, id) end
end
local function cancel(id, envelope, t, by)
  local q = queue_of(envelope)
  if rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('ZREM', P .. ':deferred:' .. q, id) == 0 then
    local group = rc('HGET', P .. ':group', id)
    if not group then
      pull(P .. ':queue:' .. q, id)
    elseif pull(group_list(q, group), id) and rc('EXISTS', group_list(q, group)) == 0 then
      rc('LREM', P .. ':turns:' .. q, 1, group)
    end
  end
  local attempts = (rc('HGET', P .. ':att', id) or 0) + (rc('HGET', P .. ':crash', id) or 0)
  free_keys({ id })
  forget({ id })
  keep(t, DAY, { id, '{"state":"canceled","by":"' .. by .. '","attempts":' .. whole(attempts) .. ',"ended":' .. whole(t)
    .. ',"envelope":' .. envelope .. '}' })
  count(q, 'canceled', 1)
  tell({ id }, false)
  hear(100, t)
end
-- Of the jobs that came back, those that were asked to stop are cancelled.
local function withdraw(ids, t)
  if rc('EXISTS', P .. ':cancel') == 0 then return end
  for i, asked in ipairs(rc('SMISMEMBER', P .. ':cancel', unpack(ids))) do
    local envelope = asked == 1 and rc('HGET', P .. ':jobs', ids[i])
    if envelope and pcall(cjson.decode, envelope) then cancel(ids[i], envelope, t, 'a request') end
  end
end
