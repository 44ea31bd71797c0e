-- Takes records out of this prefix for `saas queue move`, one batch in each call. A batch is stored in the list `moving`, where
-- no worker finds its jobs, until a later call confirms that it has arrived at the new place. So an interrupted move continues
-- with the same batch.
-- ARGV:
--   step (settings, jobs, ended, keys, finish)
--   new id for a move, used if no move has begun
--   the last batch that has arrived, as `id of the move:number`; '' if none has
--   longest time since the last heartbeat of a running worker (ms)
--   argument of the step: '' in its first call, then the fourth value that the previous call returned
-- Returns {id of the move, number of the batch, records, argument of the next call of the step}. The fourth value is 'end' after
-- the last call of a step, and 'workers' if the step `jobs` is refused because workers are running. After the step `finish`, it
-- is the number of jobs that are left, or 'end' if none are.
local step, silence, argument = ARGV[1], tonumber(ARGV[4]), ARGV[5]
local MAX_RECORDS, MAX_BYTES, MAX_EXAMINED = 250, 4194304, 5000
local FIELDS = { 'att', 'crash', 'err', 'unknown', 'group', 'key', 'waits' }
local moving, state, t = P .. ':moving', P .. ':move', now()
local records, bytes, examined = 0, 0, 0

local function add(record, size)
  rc('RPUSH', moving, cmsgpack.pack(record))
  records, bytes = records + 1, bytes + size
end
local function is_full() return records >= MAX_RECORDS or bytes >= MAX_BYTES or examined >= MAX_EXAMINED end

-- Takes a job out. The caller has removed the id from its list or set. A job without an envelope was canceled or deleted, and
-- is skipped.
local function take_job(id, q, place, at)
  examined = examined + 1
  local envelope = rc('HGET', P .. ':jobs', id)
  if not envelope then return end
  local record = { kind = 'job', id = id, queue = q, place = place, at = at, envelope = envelope,
    dependents = rc('LRANGE', P .. ':then:' .. id, 0, -1) }
  for _, field in ipairs(FIELDS) do record[field] = rc('HGET', P .. ':' .. field, id) or nil end
  local unique = record.key and P .. ':uniq:' .. record.key
  if unique and rc('GET', unique) == id then record.unique_ms = rc('PTTL', unique) end
  add(record, #envelope + 40 * #record.dependents)
  release_keys({ id })
  delete_jobs({ id })
  rc('DEL', P .. ':then:' .. id)
  rc('HDEL', P .. ':then', id)
end

local function take_waiting(q, place)
  local set = P .. ':' .. place .. ':' .. q
  while not is_full() do
    local found = rc('ZRANGE', set, 0, 0, 'WITHSCORES')
    if #found == 0 then return end
    rc('ZREM', set, found[1])
    take_job(found[1], q, place, found[2])
  end
end

local function take_ready(q)
  while not is_full() do
    local id = take(q, 1, 0)[1]
    if not id then return end
    take_job(id, q, 'ready')
  end
end

-- Takes the jobs of workers that no longer send heartbeats, and counts the crash as `tick` does. A lease without `|` belongs to
-- RQ (Python), and stays.
local function take_running(q)
  local wip = P .. ':wip:' .. q
  for _, lease in ipairs(rc('ZREVRANGE', wip, 0, 99)) do
    local ids, holder = jobs_of(lease)
    for _, id in ipairs(ids) do
      if is_full() then return end
      if string.find(holder, AHEAD .. '|', 1, true) then rc('HSETNX', P .. ':crash', id, 0)
      else
        rc('HINCRBY', P .. ':crash', id, 1)
        rc('HSET', P .. ':err', id, cjson.encode({ message = 'The worker that ran this job died', detail = holder, at = t }))
      end
      rc('HDEL', P .. ':run', id)
      count_running(q, { id }, -1)
      cancel_requested({ id }, t)
      take_job(id, q, 'ready')
    end
    if string.find(lease, '|', 1, true) then rc('ZREM', wip, lease) end
  end
end

-- Returns the queues of this engine. RQ (Python) may use the same set with other members, which contain a colon.
local function own_queues()
  local names = {}
  for _, q in ipairs(rc('SMEMBERS', P .. ':queues')) do
    if not string.find(q, ':', 1, true) then names[#names + 1] = q end
  end
  return names
end

local steps = {}

function steps.settings()
  local record = { kind = 'settings', queues = own_queues(), paused = rc('SMEMBERS', P .. ':paused'),
    limits = rc('HGETALL', P .. ':limits'), cron = rc('HGETALL', P .. ':cron'), stats = {} }
  local stats = rc('HGETALL', P .. ':stats')
  for i = 1, #stats, 2 do
    if not string.find(stats[i], ':running$') then
      record.stats[#record.stats + 1], record.stats[#record.stats + 2] = stats[i], stats[i + 1]
      rc('HDEL', P .. ':stats', stats[i])
    end
  end
  if #record.queues + #record.cron > 0 then add(record, 0) end
  return 'end'
end

function steps.jobs()
  if #rc('ZRANGEBYSCORE', P .. ':alive', t - silence, '+inf', 'LIMIT', 0, 1) > 0 then return 'workers' end
  if process_notifications(500, t) then return 'more' end
  local queues = own_queues()
  -- Deferred jobs are moved before all others, so that they have arrived when the jobs that they wait for end.
  for _, q in ipairs(queues) do take_waiting(q, 'deferred') end
  for _, q in ipairs(queues) do
    take_ready(q)
    take_waiting(q, 'scheduled')
    take_waiting(q, 'failed')
    take_running(q)
  end
  return (records > 0 or is_full()) and 'more' or 'end'
end

-- Takes the states and outcomes of ended jobs.
function steps.ended()
  for _, kind in ipairs({ STATE, OUTCOME }) do
    while not is_full() do
      local key, last = unpack(rc('ZRANGE', P .. kind, 0, 0, 'WITHSCORES'))
      if not key then break end
      for _, field in ipairs(rc('HRANDFIELD', key, MAX_RECORDS)) do
        if is_full() then break end
        local text, bucket = rc('HGET', key, field), string.sub(key, #P + #kind + 1)
        add({ kind = 'record', of = kind, bucket = bucket, last = last, field = field, text = text }, #text)
        rc('HDEL', key, field)
      end
      if rc('EXISTS', key) == 0 then forget_bucket(kind, key) end
    end
  end
  return records > 0 and 'more' or 'end'
end

-- Takes the keys that belong to no job or may outlive their job: unique keys, the token buckets of rate limits, and the time up
-- to which states were deleted early.
function steps.keys()
  local pattern = string.gsub(P, '[%*%?%[%]%^\\]', '\\%0') .. ':*'
  local page = rc('SCAN', argument == '' and '0' or argument, 'MATCH', pattern, 'COUNT', 1000, 'TYPE', 'string')
  for _, key in ipairs(page[2]) do
    local name = string.sub(key, #P + 2)
    local is_limit = string.find(name, '^rate:') or string.find(name, '^owner:%-?%d+:pace$')
    if is_limit or string.find(name, '^uniq:') or name == 'forgotten' then
      local value, ttl = rc('GET', key), rc('PTTL', key)
      if value and ttl > 0 then add({ kind = 'key', name = name, value = value, ttl = ttl }, #value) end
      rc('DEL', key)
    end
  end
  return page[1] == '0' and 'end' or page[1]
end

function steps.finish()
  local left = rc('HLEN', P .. ':jobs')
  if left == 0 and rc('EXISTS', P .. STATE, P .. OUTCOME) == 0 then
    for _, q in ipairs(own_queues()) do
      rc('SREM', P .. ':queues', q)
      rc('DEL', P .. ':wake:' .. q)
    end
    for _, name in ipairs({ 'paused', 'limits', 'stats', 'cron', 'alive', 'card', 'tick', 'grace', 'held', 'move', 'bytes' }) do
      rc('DEL', P .. ':' .. name)
    end
  end
  return left == 0 and 'end' or integer(left)
end

rc('HSETNX', state, 'id', ARGV[2])
rc('HSETNX', state, 'batch', 1)
local id, batch = unpack(rc('HMGET', state, 'id', 'batch'))
if id .. ':' .. batch == ARGV[3] then
  rc('DEL', moving)
  batch = integer(rc('HINCRBY', state, 'batch', 1))
end
local next = argument
if rc('EXISTS', moving) == 0 then next = steps[step]() end
return { id, batch, rc('LRANGE', moving, 0, -1), next }
