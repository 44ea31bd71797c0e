-- The periodic work, except for `cron`: makes due jobs ready, recovers the jobs of crashed workers, notifies dependents, and
-- deletes old or excess records, failed jobs and entries of workers. Also wakes a worker for each queue with ready jobs, in case
-- a wake-up was lost. Each call does work that is due, so the schedulers of several workers may call the script at any time.
-- ARGV:
--   length of the leases (ms)
--   longest normal gap between two calls (ms)
--   number of crashes after which a job fails
--   base of the delay after a crash (ms)
--   random number below 2^32
--   how many failed jobs a queue keeps
--   how long a queue keeps failed jobs (ms)
--   2 if Redis refuses jobs, 1 if it is nearly full, else 0
--   how many outcomes are kept
--   how many bytes of outcomes are kept
--   how many states of ended jobs are kept
-- Returns:
--   number of due jobs that were made ready
--   number of jobs of crashed workers that are ready or scheduled again, or were canceled as requested before
--   number of jobs of crashed workers that have failed for good
--   1 if there is more to do now, else 0
--   ms until the jobs of crashed workers can be recovered if this call has postponed their recovery, else 0
--   number of outcomes or states that were deleted because Redis is nearly full
local lease, gap, max_crashes, backoff, jitter, max_failed, max_age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]),
  tonumber(ARGV[4]), ARGV[5] / 2 ^ 32, tonumber(ARGV[6]), tonumber(ARGV[7])
local t = now()
local last = tonumber(rc('GET', P .. ':tick') or t)
rc('SET', P .. ':tick', t)
-- A longer gap may mean that Redis was down, the machine was suspended or its clock has jumped, so that running workers could not
-- renew their leases. No job is recovered for the length of a lease, so that these workers can send a heartbeat.
if t - last > gap or last - t > 1000 then rc('SET', P .. ':grace', 1, 'PX', lease) end
local grace = rc('EXISTS', P .. ':grace') == 1
local promoted, recovered, died, more, retry_after, handled, suspects = 0, 0, 0, 0, 0, 0, 0
for _, q in ipairs(rc('SMEMBERS', P .. ':queues')) do
  local scheduled, wip = P .. ':scheduled:' .. q, P .. ':wip:' .. q
  local due = rc('ZRANGEBYSCORE', scheduled, '-inf', t, 'LIMIT', 0, CHUNK)
  if #due > 0 then
    make_ready(q, due)
    rc('ZREM', scheduled, unpack(due))
    promoted = promoted + #due
    if #due == CHUNK then more = 1 end
  end
  if last - t > 1000 then -- the clock went back: leases that would last for more than twice their length are shortened
    for _, m in ipairs(rc('ZRANGEBYSCORE', wip, '(' .. (t + 2 * lease), '+inf', 'LIMIT', 0, CHUNK)) do
      rc('ZADD', wip, 'XX', t + lease, m)
    end
  end
  local expired = rc('ZRANGEBYSCORE', wip, '-inf', t, 'LIMIT', 0, 50)
  if grace then
    if #expired > 0 then retry_after = math.max(1, rc('PTTL', P .. ':grace')) end
    expired = {}
  elseif #expired == 50 then more = 1 end
  for _, m in ipairs(expired) do
    local ids, holder = jobs_of(m)
    local ahead = holder and string.find(holder, AHEAD .. '|', 1, true)
    for _, id in ipairs(ids) do
      -- A job that was fetched ahead may not have started, so the crash does not count. An entry in `crash`, even of 0 crashes,
      -- keeps `fetch` from taking the job ahead again. Only a fetch for a free slot takes it, and then a crash counts.
      local crashes = 0
      if ahead then rc('HSETNX', P .. ':crash', id, 0) else crashes = rc('HINCRBY', P .. ':crash', id, 1) end
      rc('HDEL', P .. ':run', id)
      rc('HDEL', P .. ':prog', id)
      count_running(q, { id }, -1)
      handled = handled + 1
      local text = cjson.encode({ message = 'The worker that ran this job died', detail = holder, at = t })
      if crashes >= max_crashes then
        fail_jobs(q, { id }, { text }, t)
        notify_dependents({ id }, false)
        died = died + 1
      else
        -- A job whose worker has crashed for the first time is ready at once. Jobs whose workers have crashed more often are
        -- suspects: each of them in this call gets a longer delay than the previous one, up to a limit, so that the job that
        -- crashes its worker does not run together with the same jobs again.
        local delay = 0
        if crashes > 1 then
          delay = backoff * (2 ^ (crashes - 2) * (0.5 + jitter) + math.min(suspects * 0.3, 3))
          suspects = suspects + 1
        end
        if not ahead then rc('HSET', P .. ':err', id, text) end
        if delay == 0 then make_ready(q, { id }) else rc('ZADD', scheduled, math.floor(t + delay), id) end
        cancel_requested({ id }, t)
        recovered = recovered + 1
      end
    end
    rc('ZREM', wip, m)
    if handled >= CHUNK then
      more = 1
      break
    end
  end
  if has_ready(q) then wake(q) end
  local failed = P .. ':failed:' .. q
  local old = rc('ZRANGEBYSCORE', failed, '-inf', t - max_age, 'LIMIT', 0, 100)
  local excess = rc('ZCARD', failed) - max_failed
  if #old == 0 and excess > 0 then old = rc('ZRANGE', failed, 0, math.min(excess, 100) - 1) end
  if #old > 0 then
    rc('ZREM', failed, unpack(old))
    delete_jobs(old)
    if #old == 100 then more = 1 end
  end
end
-- Stores in `forgotten` the latest time at which a job may have ended whose state is deleted before it expires. `push` reads it.
-- Does nothing for outcomes.
local function record_loss(kind, ended)
  if kind ~= STATE then return end
  local latest = math.max(math.min(tonumber(ended), t), tonumber(rc('GET', P .. ':forgotten') or 0))
  rc('SET', P .. ':forgotten', integer(latest), 'PX', DAY)
end
-- Deletes the buckets of one kind of record that have expired, and the oldest buckets beyond the limits of this kind.
local function limit_records(kind, max_records, max_bytes)
  local keys = rc('ZREVRANGE', P .. kind, 0, -1, 'WITHSCORES')
  local records, bytes = 0, 0
  for i = 1, #keys, 2 do
    local n = rc('HLEN', keys[i])
    records, bytes = records + n, bytes + (rc('HGET', P .. ':bytes', keys[i]) or 0)
    -- A limit never deletes the newest bucket, whatever its size.
    local is_excess = i > 1 and (records > max_records or bytes > max_bytes)
    local ttl = string.match(keys[i], ':(%d+):[%d.]+$')
    local is_expired = keys[i + 1] + ttl <= t
    if is_excess and not is_expired then record_loss(kind, keys[i + 1]) end
    if is_excess or is_expired then forget_bucket(kind, keys[i]) end
  end
end
limit_records(OUTCOME, tonumber(ARGV[9]), tonumber(ARGV[10]))
limit_records(STATE, tonumber(ARGV[11]), math.huge)
local freed = 0
-- If Redis is nearly full, deletes records of the oldest bucket of outcomes, to make room for new jobs: all records if the
-- bucket was full or has at most CHUNK records, else CHUNK records. Deletes states for this purpose only if Redis refuses jobs
-- and there are no outcomes, because a repeated push may enqueue a job again if its state was deleted.
for _, kind in ipairs({ OUTCOME, ARGV[8] == '2' and STATE or nil }) do
  local key, ended = unpack(ARGV[8] ~= '0' and rc('ZRANGE', P .. kind, 0, 0, 'WITHSCORES') or {})
  if key and freed == 0 then
    record_loss(kind, ended)
    local n = rc('HLEN', key)
    if string.find(key, '%.%d+$') or n <= CHUNK then
      forget_bucket(kind, key)
      freed = math.max(n, 1)
    else
      freed = rc('HDEL', key, unpack(rc('HRANDFIELD', key, CHUNK)))
      local bytes = math.floor((rc('HGET', P .. ':bytes', key) or 0) * freed / n)
      if bytes > 0 then rc('HINCRBY', P .. ':bytes', key, -bytes) end
    end
  end
end
if process_notifications(500, t) then more = 1 end
for _, worker in ipairs(rc('ZRANGEBYSCORE', P .. ':alive', '-inf', t - math.max(60000, 2 * lease), 'LIMIT', 0, 100)) do
  rc('ZREM', P .. ':alive', worker)
  rc('HDEL', P .. ':card', worker)
end
return { promoted, recovered, died, more, retry_after, freed }
