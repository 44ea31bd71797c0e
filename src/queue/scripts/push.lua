-- Enqueues jobs. Skips a job whose id is known: the job exists, the state of the ended job is still kept, or the id occurs
-- earlier in the same call. A push may be repeated, and the first attempt may arrive after the second.
-- ARGV:
--   queue
--   n: number of jobs
--   when the jobs are due (0: now, +ms: after a delay, ms: at this time)
--   front (1: jobs that are ready now go to the beginning of the list in which they wait, 0: to its end; see `make_ready`)
--   group ('' for none)
--   unique key ('' for none); this and the next four arguments are used only if n is 1
--   window of the unique key (ms)
--   on duplicate (first: keep the existing job, last: replace it)
--   number of dependencies
--   dependency policy (good: all must finish, any: they may also fail or be canceled)
--   limit of the owner's waiting and running jobs ('' for none)
--   limit of the total size of these jobs (bytes, '' for none)
--   limit of the jobs that the owner enqueues in an hour ('' for none)
--   age: '' for jobs that are not prepared (see `prepared.rs`). For prepared jobs, the time since the first push that may have
--     enqueued them (ms, 0 if this is the first push). Prepared jobs count for their owner, but no limit refuses them
-- then these lists:
--   n ids
--   n envelopes
--   ids of the dependencies
-- Returns the ids that were known; if a unique key rejects the job, the id of the job that has the key
-- Errors: `NOJOB <id>` for an unknown dependency; `QUOTA jobs`, `QUOTA bytes` or `QUOTA rate <ms to wait>` for a limit of the
--   owner; `FORGOTTEN <id>` for an unknown prepared job that may have ended, because its state may have been deleted
local q, n, when, front, group = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', ARGV[5]
local key, window, on_duplicate, waits, policy = ARGV[6], tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), ARGV[10]
local max_jobs, max_bytes = tonumber(ARGV[11]) or math.huge, tonumber(ARGV[12]) or math.huge
local max_rate, age = tonumber(ARGV[13]), tonumber(ARGV[14])
local IDS, TEXTS, PARENTS = 14, 14 + n, 14 + 2 * n
local t = now()
local due = string.sub(when, 1, 1) == '+' and t + tonumber(string.sub(when, 2)) or tonumber(when)
if due <= t then due = 0 end

-- A job cannot have ended before its id was created, so buckets that are older than all ids are not searched. The clock of the
-- client that created an id may be two minutes ahead of the clock of Redis. If it is further ahead, a repeated push is recognized
-- for at least two minutes after the end of the job.
local made = t - (age or 0)
for i = 1, n do
  local ms = string.match(ARGV[IDS + i], '^(%x%x%x%x%x%x%x%x%x%x%x%x)7')
  made = math.min(made, ms and tonumber(ms, 16) or 0)
end
local buckets, all = {}, rc('ZREVRANGE', P .. STATE, 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  if tonumber(all[i + 1]) >= made - 120000 then buckets[#buckets + 1] = all[i] end
end
local known, new, seen = {}, {}, {}
for base = 0, n - 1, CHUNK do
  local m = math.min(CHUNK, n - base)
  local have = rc('HMGET', P .. ':jobs', unpack(ARGV, IDS + base + 1, IDS + base + m))
  local fields = {}
  for i = 1, m do fields[i] = field_of(ARGV[IDS + base + i]) end
  for _, bucket in ipairs(buckets) do
    local ended = rc('HMGET', bucket, unpack(fields))
    for i = 1, m do have[i] = have[i] or ended[i] end
  end
  for i = 1, m do
    local id = ARGV[IDS + base + i]
    if have[i] or seen[id] then known[#known + 1] = id else seen[id], new[#new + 1] = true, base + i end
  end
end
if #new == 0 then return known end

-- States are kept for at least a day, unless `tick` deletes them early. `forgotten` is the latest time at which a job may have
-- ended whose state was deleted early. An unknown job may have ended if it may have been pushed before that time, or more than
-- a day ago, with a margin of two minutes.
if age and age > 0 and t - age - 120000 < math.max(t - DAY, tonumber(rc('GET', P .. ':forgotten') or 0)) then
  return redis.error_reply('FORGOTTEN ' .. ARGV[IDS + new[1]])
end
for i = 1, waits do
  local parent = ARGV[PARENTS + i]
  if rc('HEXISTS', P .. ':jobs', parent) == 0 and not find_record(STATE, parent) then return redis.error_reply('NOJOB ' .. parent) end
end
local first = key ~= '' and rc('GET', P .. ':uniq:' .. key)
if first and on_duplicate == 'first' then return { first } end
local account = account_of(group)
if account then
  local bytes = 0
  for _, i in ipairs(new) do bytes = bytes + #ARGV[TEXTS + i] end
  local what = not age and exceeded_limit(account, #new, bytes, max_jobs, max_bytes, t)
  if what then return redis.error_reply('QUOTA ' .. what) end
  if max_rate then
    local wait, full = pace_of(account, #new, max_rate, t)
    if wait > 0 and not age then return redis.error_reply('QUOTA rate ' .. integer(wait)) end
    rc('SET', account .. ':pace', string.format('%.3f', full), 'PX', 2 * HOUR)
  end
end
if key ~= '' then
  local envelope = first and rc('HGET', P .. ':jobs', first)
  if envelope and rc('HEXISTS', P .. ':run', first) == 0 and not failed_in(first, envelope) then
    cancel(first, envelope, t, 'a newer one')
  end
  rc('SET', P .. ':uniq:' .. key, ARGV[IDS + 1], 'PX', window)
  rc('HSET', P .. ':key', ARGV[IDS + 1], key)
end
-- Collects the dependencies that have not ended, and checks whether one has failed or was canceled. This is not done before,
-- because a dependency may be the job that was canceled above.
local missing, failed = {}, false
for i = 1, waits do
  local parent = ARGV[PARENTS + i]
  local envelope = rc('HGET', P .. ':jobs', parent)
  if not envelope then
    failed = failed or string.sub(find_record(STATE, parent) or '', 1, 1) ~= 'f'
  elseif failed_in(parent, envelope) then
    failed = true
  else
    missing[#missing + 1] = parent
  end
end

local defer = #missing > 0 or (failed and policy ~= 'any')
for base = 1, #new, CHUNK do
  local ids, texts, groups, dues, sizes = {}, {}, {}, {}, {}
  for f = base, math.min(base + CHUNK - 1, #new) do
    -- With `front`, LPUSH puts each job before the previous one, so the jobs are added in reverse order.
    local i = new[front and #new + 1 - f or f]
    local id, k = ARGV[IDS + i], #ids + 1
    ids[k] = id
    texts[2 * k - 1], texts[2 * k] = id, ARGV[TEXTS + i]
    groups[2 * k - 1], groups[2 * k] = id, group
    dues[2 * k - 1], dues[2 * k] = due, id
    sizes[2 * k - 1], sizes[2 * k] = id, #ARGV[TEXTS + i]
  end
  rc('HSET', P .. ':jobs', unpack(texts))
  if account then charge(account, sizes) end
  if group ~= '' then rc('HSET', P .. ':group', unpack(groups)) end
  if defer then rc('ZADD', P .. ':deferred:' .. q, unpack(dues))
  elseif due > 0 then rc('ZADD', P .. ':scheduled:' .. q, unpack(dues))
  else make_ready(q, ids, front) end
end
rc('SADD', P .. ':queues', q)
count(q, 'enqueued', #new)

if defer then
  local id = ARGV[IDS + 1]
  rc('HSET', P .. ':waits', id, math.max(#missing, 1) .. '|' .. policy)
  if failed and policy ~= 'any' then resolve_dependency(id, false, t) end
  for _, parent in ipairs(missing) do
    rc('RPUSH', P .. ':then:' .. parent, id)
    rc('HINCRBY', P .. ':then', parent, 1)
  end
end
return known
