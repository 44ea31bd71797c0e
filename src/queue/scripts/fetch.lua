-- Fetches jobs for a worker: removes them from their queues, leases them, and marks them as running.
-- ARGV:
--   id of the worker
--   token that the worker has created for this fetch
--   length of the leases (ms)
--   maximum number of jobs for free slots
--   how many of these jobs may come from queues that are not reserved
--   how many jobs of one owner may run, in all workers together (0 for no limit)
--   how many jobs to take ahead of free slots
--   the reserved queue, which is served first, or ''
--   queues.. (in the order in which jobs are taken from them)
-- Returns {now, leases, ms until a rate limit allows another job}. The third value is 0 if this fetch has used up no rate limit,
--   and no used-up rate limit holds jobs back. Each lease is {queue, ids, envelopes, failures, crashes, mark}. The token of a
--   lease is `<token>.<index><mark>`, where `index` is its index in `leases`, from 0
-- Jobs that are taken ahead of free slots have leases of their own, with the mark AHEAD; for other leases the mark is ''. If the
-- worker crashes, jobs with the mark may not have started.
local worker, token, lease, max, others = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local owner_max, ahead, RESERVED = tonumber(ARGV[6]), tonumber(ARGV[7]), 8
local t, out, paused, retry_after = now(), {}, {}, 0
-- The worker has received no answer to this fetch and has called `release`, so it would not run the jobs.
if rc('EXISTS', P .. ':void:' .. token) == 1 then return { t, out, 0 } end
for _, q in ipairs(rc('SMEMBERS', P .. ':paused')) do paused[q] = true end
local limited = rc('EXISTS', P .. ':limits') == 1

-- Returns how many of `room` jobs the limits of a queue allow (none if negative); a function that takes the tokens of fetched
-- jobs, nil without a rate limit; and whether the queue has a limit. A rate limit is a bucket of `n` tokens that refills in `per`
-- ms (GCRA, ITU-T I.371); `full` is the time at which the bucket is full again.
local function capacity(q, room)
  local concurrency, rate = unpack(rc('HMGET', P .. ':limits', q .. ':concurrency', q .. ':rate'))
  local free = room
  if concurrency then free = math.min(free, concurrency - (rc('HGET', P .. ':stats', q .. ':running') or 0)) end
  if not rate then return free, nil, concurrency end
  local n, per = string.match(rate, '^(%d+)/(%d+)$')
  local gap, key = per / n, P .. ':rate:' .. q
  local full = math.min(math.max(t, tonumber(rc('GET', key) or 0)), t + per)
  local tokens = math.floor((t + per - full) / gap + 0.000001)
  return math.min(free, tokens), function(taken)
    full = full + taken * gap
    rc('SET', key, string.format('%.3f', full), 'PX', 2 * per)
    if taken == tokens then
      local wait = math.max(1, math.ceil(full + gap - per - t))
      retry_after = retry_after == 0 and wait or math.min(retry_after, wait)
    end
  end, true
end

-- Leases jobs that were removed from their queue. Skips jobs that were canceled or deleted. Returns the number of leased jobs.
local function lease_jobs(q, ids, mark)
  local envelopes, live, texts = rc('HMGET', P .. ':jobs', unpack(ids)), {}, {}
  for i = 1, #ids do
    if envelopes[i] then live[#live + 1], texts[#texts + 1] = ids[i], envelopes[i] end
  end
  if #live == 0 then return 0 end
  local mine, run = token .. '.' .. #out .. mark, {}
  local holder = mine .. '|' .. worker .. '|' .. integer(t)
  for i = 1, #live do run[2 * i - 1], run[2 * i] = live[i], holder end
  rc('HSET', P .. ':run', unpack(run))
  count_running(q, live, 1)
  rc('ZADD', P .. ':wip:' .. q, t + lease, mine .. '|' .. table.concat(live, ','))
  local failures, crashes = rc('HMGET', P .. ':att', unpack(live)), rc('HMGET', P .. ':crash', unpack(live))
  out[#out + 1] = { q, live, texts, failures, crashes, mark }
  return #live
end

-- Removes and returns jobs without a group, to be taken ahead of free slots. A job whose worker has crashed stays in the queue:
-- it is taken only for a free slot, because a crash counts only for jobs that were fetched for a slot. The jobs behind it stay,
-- to keep the order.
local function take_ahead(q)
  local list = P .. ':queue:' .. q
  local ids = rc('LPOP', list, math.min(ahead, CHUNK)) or {}
  if #ids == 0 or rc('EXISTS', P .. ':crash') == 0 then return ids end
  local crashes, unsuspected = rc('HMGET', P .. ':crash', unpack(ids)), #ids
  for i = #ids, 1, -1 do
    if crashes[i] then unsuspected = i - 1 end
  end
  for _ = unsuspected + 1, #ids do rc('LPUSH', list, table.remove(ids)) end
  return ids
end

for a = ARGV[RESERVED] == '' and RESERVED + 1 or RESERVED, #ARGV do
  local q, room = ARGV[a], a == RESERVED and max or math.min(max, others)
  local free, spend, has_limit = room, nil, false
  if limited and not paused[q] then free, spend, has_limit = capacity(q, room) end
  local taken, held = 0, false
  while taken < free and not paused[q] do
    local want = math.min(free - taken, CHUNK)
    local ids
    ids, held = take(q, want, owner_max)
    local popped = #ids
    if popped == 0 then break end
    taken = taken + lease_jobs(q, ids, '')
    if popped < want then break end
  end
  if held then rc('SADD', P .. ':held', q) end
  if ahead > 0 and taken >= free and a ~= RESERVED and not paused[q] then
    -- Jobs of a queue with a limit or with groups are not taken ahead: which of them is next is decided when a slot is free. If
    -- this queue has ready jobs, no jobs of the queues after it are taken ahead, because they would fill the slots.
    if has_limit or rc('EXISTS', P .. ':turns:' .. q) == 1 then
      if has_ready(q) then ahead = 0 end
    else
      local ids = take_ahead(q)
      if #ids > 0 then ahead = ahead - lease_jobs(q, ids, AHEAD) end
    end
  end
  local more = not paused[q] and not held and has_ready(q)
  if spend and (taken > 0 or more) then spend(taken) end
  -- Wakes no worker if a limit of the queue has allowed fewer than `room` jobs and is used up: it holds the remaining jobs
  -- back.
  if more and (taken < free or free == room) then wake(q) end
  max = max - taken
  if a ~= RESERVED then others = others - taken end
end
return { t, out, retry_after }
