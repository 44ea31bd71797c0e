-- The common beginning of the scripts in this folder; `scripts.rs` puts it before each of them. KEYS[1] is the prefix of all
-- keys. On Redis Cluster the prefix contains a hash tag, so that all keys are in one slot. Times are in milliseconds since the
-- epoch, by the clock of Redis. Ids and envelopes may have times by the clock of the client that created the job.
local P, rc = KEYS[1], redis.call
-- Maximum number of jobs whose ids are arguments of one command. Each job needs up to two arguments, and `unpack` fails at about
-- 8,000 values.
local CHUNK = 1000
local HOUR, DAY = 3600000, 86400000
local AHEAD = '+' -- the last character of the token of a lease whose jobs were fetched before there were free slots for them
local function now() local t = rc('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local function wake(q) rc('ZADD', P .. ':wake:' .. q, 0, '1') end
local function count(q, what, n) rc('HINCRBY', P .. ':stats', q .. ':' .. what, n) end
local function integer(n) return string.format('%.0f', n) end
-- Returns the name of the queue in an envelope; '' if none is found. The pattern avoids parsing the JSON of most envelopes.
local function queue_of(envelope)
  local q = string.match(envelope, '^{"v":%d+,"task":"[^"\\]*","queue":"([^"\\]*)"')
  if q then return q end
  local ok, decoded = pcall(cjson.decode, envelope)
  local named = ok and type(decoded) == 'table' and decoded.queue
  return type(named) == 'string' and named or ''
end

-- Returns the name of the queue in which a job has failed; nil if the job has not failed. If the envelope names no
-- queue, the failed jobs of all queues are searched.
local function failed_in(id, envelope)
  local q = queue_of(envelope)
  for _, name in ipairs(q ~= '' and { q } or rc('SMEMBERS', P .. ':queues')) do
    if rc('ZSCORE', P .. ':failed:' .. name, id) then return name end
  end
end

-- Returns the ids of the jobs that a lease (`token|id,id,..`) still holds, and their holder (`token|worker|started at`), nil if
-- there are no such jobs. A lease without `|` holds no jobs: RQ (Python) stores ids of jobs under the same key.
local function jobs_of(lease)
  local ids, found, bar = {}, nil, string.find(lease or '', '|', 1, true)
  if not bar then return ids end
  local token = string.sub(lease, 1, bar)
  for id in string.gmatch(string.sub(lease, bar + 1), '[^,]+') do
    local holder = rc('HGET', P .. ':run', id)
    if holder and string.sub(holder, 1, bar) == token then ids[#ids + 1], found = id, holder end
  end
  return ids, found
end

-- The records of jobs that have finished or were canceled, by kind. The outcome of a job, with the result, is kept for at
-- least the RESULT_TTL of the job, or an hour if the job was canceled while it waited. The state is kept for at least a day, so
-- that a repeated push finds that the job has ended. `tick` deletes records earlier if there are too many, or if Redis is nearly
-- full. The state is `f` (finished) or `c` (canceled), the id of the owner and, after `|`, the scope. A prepared job that was
-- canceled before it was pushed has a state, and no outcome.
-- A bucket is a hash with the records of one kind and TTL that were stored in a period of an eighth of this TTL. A full bucket is
-- renamed, and another one begins. For each kind, a sorted set has the names of the buckets, with the latest time at which a
-- record may have been stored in the bucket. `tick` deletes a bucket one TTL after this time. If no scheduler runs, the bucket
-- expires at least a minute later.
local STATE, OUTCOME = ':ended', ':done'
-- A bucket is full from this number of records or, for outcomes, from this size of their texts. The numbers are just below a
-- power of two, at which Redis doubles the hash table. Buckets of states are larger, because a push searches all buckets in which
-- its jobs may have ended.
local BUCKET_RECORDS, BUCKET_BYTES = { [STATE] = 520000, [OUTCOME] = 65000 }, 8 * 1024 * 1024
-- Returns the field of a job in a bucket: its id. To save memory, an id of 32 digits is stored without the first 12, which are
-- the time of a UUIDv7.
local function field_of(id) return #id == 32 and string.sub(id, 13) or id end
local function forget_bucket(kind, key)
  rc('UNLINK', key)
  rc('ZREM', P .. kind, key)
  rc('HDEL', P .. ':bytes', key)
end
-- Stores records of one kind, STATE or OUTCOME, for `ttl` ms from the time `t`: at least 8 s, at most 366 days. `records` is a
-- list: field, text, field, text, .. `bytes` is the size of the texts, which is counted for outcomes only; 0 for states.
local function store(kind, t, ttl, records, bytes)
  ttl = math.max(8000, math.min(ttl, 366 * DAY)) -- jobs may have any RESULT_TTL, and no command below may raise an error
  local slice = math.ceil(ttl / 8)
  local slot = math.floor(t / slice)
  local key, last = P .. kind .. ':' .. integer(ttl) .. ':' .. integer(slot), (slot + 1) * slice
  rc('HSET', key, unpack(records))
  local total, n = bytes > 0 and rc('HINCRBY', P .. ':bytes', key, bytes) or 0, rc('HLEN', key)
  -- Each call adds the bucket to the sorted set: `find_record` and `tick` find no other buckets.
  if rc('ZADD', P .. kind, 'NX', last, key) == 1 or n == #records / 2 then
    rc('PEXPIREAT', key, last + ttl + 60000)
  end
  if n < BUCKET_RECORDS[kind] and total < BUCKET_BYTES then return end
  -- Renames the full bucket, so that the next record starts a new bucket under the old name.
  local full = key .. '.' .. integer(t)
  if rc('RENAMENX', key, full) == 0 then return end
  rc('ZREM', P .. kind, key)
  rc('ZADD', P .. kind, t, full)
  if bytes > 0 then rc('HSET', P .. ':bytes', full, total) end
  rc('HDEL', P .. ':bytes', key)
end
-- Returns the text of a job's record of one kind, or false if there is none.
local function find_record(kind, id)
  local field = field_of(id)
  for _, key in ipairs(rc('ZREVRANGE', P .. kind, 0, -1)) do
    local text = rc('HGET', key, field)
    if text then return text end
  end
  return false
end

-- Owners. A job with an owner and no scope is in the group `owner:<id>`. The hash `<prefix>:owner:<id>`, the account of the
-- owner, has the size in bytes of each job that waits or runs, by id, and the sums `jobs`, `bytes` and `running`. `counted` is
-- the time of the last correction by `recount`. The list `<prefix>:owner:<id>:failed` has the ids of the owner's failed jobs.
-- Scopes. The group of a job with a scope is `scope:<scope>|owner:<id>`, or `scope:<scope>` without an owner. When a job of a
-- scope becomes ready, it is added to the list of the group `scope:<scope>`. If its owner is at the limit of running jobs when
-- it is first in this list, `take` sets the job aside: it moves the job to the list of the group `scope:<scope>|owner:<id>`, so
-- that the job does not delay the jobs of other owners in the scope.
-- How many failed jobs of one owner are kept, in all queues together. Beyond this number, `fail_jobs` deletes the first job of
-- the owner's list.
local MAX_FAILED_OF_OWNER = 100
local MAX_RECOUNTED = 10000 -- `recount` skips accounts with more jobs
-- The fields of an account that are not ids of jobs.
local ACCOUNT_FIELDS = { jobs = true, bytes = true, running = true, counted = true }
-- Returns the key of the account of a group's owner; nil or false if there is no group, or the group has no owner. Also finds the
-- owner in the name that `purge` gives to a group.
local function account_of(group)
  local owner = group and (string.match(group, '^owner:%-?%d+$') or string.match(group, '^scope:[^|]*|(owner:%-?%d+)$')
    or string.match(group, '^purged up to .*[ |](owner:%-?%d+)$'))
  return owner and P .. ':' .. owner
end
-- Returns the group to whose list a job of the group `group` is added when it becomes ready: the group of its scope, or `group`
-- itself if the job has no scope.
local function shared_group(group) return string.match(group, '^(scope:[^|]*)|') or group end
-- Returns the owner and the scope of a group, as they follow the first letter in the state of an ended job: `12`, `12|tenant-7`,
-- `|tenant-7`, or '' for neither.
local function ended_origin(group)
  local scope, rest = string.match(group, '^scope:([^|]*)(.*)$')
  local owner = string.match(rest or '|' .. group, '^|owner:(%-?%d+)$') or ''
  return scope and owner .. '|' .. scope or owner
end
-- Calls `change(account, id)` for each of the jobs `ids` that has an owner. `account` is the key of the owner's account.
local function each_owned(ids, change)
  if rc('EXISTS', P .. ':group') == 0 then return end
  for i, group in ipairs(rc('HMGET', P .. ':group', unpack(ids))) do
    local account = account_of(group)
    if account then change(account, ids[i]) end
  end
end
-- Adds waiting jobs to an account. `sizes` is a list: id, size in bytes, id, size in bytes, ..
local function charge(account, sizes)
  local bytes = 0
  for i = 2, #sizes, 2 do bytes = bytes + sizes[i] end
  rc('HSET', account, unpack(sizes))
  rc('HINCRBY', account, 'jobs', #sizes / 2)
  rc('HINCRBY', account, 'bytes', bytes)
end
-- Removes jobs that no longer wait or run from the accounts of their owners.
local function discharge(ids)
  each_owned(ids, function(account, id)
    local size = rc('HGET', account, id)
    if not size then return end
    rc('HDEL', account, id)
    rc('HINCRBY', account, 'bytes', -size)
    if rc('HINCRBY', account, 'jobs', -1) <= 0 then rc('DEL', account) end
  end)
end
-- Counts jobs that start (n = 1) or stop (n = -1) running: in the number of running jobs of their queue, and in the accounts of
-- their owners. `<prefix>:held` has the queues whose jobs had to wait because their owners were at the limit of running jobs.
-- When a job with an owner stops running, a waiting job may be allowed to run, so a worker of each of these queues is woken.
local function count_running(q, ids, n)
  count(q, 'running', n * #ids)
  local owned = false
  each_owned(ids, function(account, id)
    if rc('HEXISTS', account, id) == 1 then rc('HINCRBY', account, 'running', n) end
    owned = true
  end)
  if n > 0 or not owned then return end
  for _, held in ipairs(rc('SMEMBERS', P .. ':held')) do wake(held) end
  rc('DEL', P .. ':held')
end
-- Corrects the sums of an account, because workers of earlier releases end jobs without updating it. Does nothing within a
-- minute after the previous correction, or for more than MAX_RECOUNTED jobs, since it reads each job of the owner.
local function recount(account, t)
  local before, total = unpack(rc('HMGET', account, 'counted', 'jobs'))
  if t - (before or 0) < 60000 or tonumber(total or 0) > MAX_RECOUNTED then return end
  local jobs, bytes, running, all = 0, 0, 0, rc('HGETALL', account)
  for i = 1, #all, 2 do
    local id, size = all[i], all[i + 1]
    if ACCOUNT_FIELDS[id] then -- not a job
    elseif rc('HEXISTS', P .. ':jobs', id) == 0 then rc('HDEL', account, id)
    else jobs, bytes, running = jobs + 1, bytes + size, running + rc('HEXISTS', P .. ':run', id) end
  end
  if jobs == 0 then rc('DEL', account)
  else rc('HSET', account, 'jobs', jobs, 'bytes', bytes, 'running', running, 'counted', integer(t)) end
end

-- Returns which limit of an owner new jobs would exceed: 'jobs', 'bytes', or nil for neither. `jobs` is the number of new jobs,
-- and `bytes` their total size. If a limit seems to be exceeded, calls `recount` and checks again.
local function exceeded_limit(account, jobs, bytes, max_jobs, max_bytes, t)
  local function exceeded()
    local have, used = unpack(rc('HMGET', account, 'jobs', 'bytes'))
    if (have or 0) + jobs > max_jobs then return 'jobs' end
    if (used or 0) + bytes > max_bytes then return 'bytes' end
  end
  if exceeded() then recount(account, t) end
  return exceeded()
end
-- Checks the limit of the jobs that an owner enqueues in an hour: a token bucket of `max_rate` tokens that refills in an hour,
-- computed as by `capacity` in `fetch`. Without this limit, the records of many short jobs could fill the memory. Returns the
-- milliseconds until the limit allows `jobs` more jobs (0 or less if it allows them now), and the time at which the bucket is
-- full again after these jobs. More than `max_rate` jobs at once are never allowed. The caller stores the second value in
-- `<account>:pace` when it enqueues the jobs.
local function pace_of(account, jobs, max_rate, t)
  local level = math.min(math.max(t, tonumber(rc('GET', account .. ':pace') or 0)), t + HOUR) + jobs * HOUR / max_rate
  return math.ceil(level - t - HOUR - 0.001), level
end

-- The ready jobs that have a group are in lists of groups (see `shared_group`), and groups take turns. The list
-- `<prefix>:turns:<queue>` has the name of each group with a list once, and '' for the jobs without a group. If no group has a
-- list, the list of turns does not exist, or has only the entry '' until the next call of `take`.
local function group_list(q, group) return P .. ':group:' .. q .. ':' .. group end
local function enqueue_in_group(q, group, id, front)
  local list, turns = group_list(q, group), P .. ':turns:' .. q
  if rc(front and 'LPUSH' or 'RPUSH', list, id) == 1 then
    if rc('EXISTS', turns) == 0 then rc('RPUSH', turns, '') end
    rc('RPUSH', turns, group)
  end
end
-- Returns whether a group is the group of a scope for all its owners, also if `purge` has renamed it. The list of a scope may
-- have jobs of several owners.
local function is_scope(group) return string.match(group, '^scope:[^|]*$') or string.match(group, '^purged up to .* scope:[^|]*$') end
local function has_ready(q) return rc('EXISTS', P .. ':queue:' .. q, P .. ':turns:' .. q) > 0 end
-- Makes jobs ready to be fetched: adds them to the end of the lists in which they wait. With `front`, adds them to the
-- beginning, so that the last of `ids` comes first.
local function make_ready(q, ids, front)
  local groups = rc('EXISTS', P .. ':group') == 1 and rc('HMGET', P .. ':group', unpack(ids)) or {}
  local plain = {}
  for i, id in ipairs(ids) do
    if groups[i] then enqueue_in_group(q, shared_group(groups[i]), id, front) else plain[#plain + 1] = id end
  end
  if #plain > 0 then rc(front and 'LPUSH' or 'RPUSH', P .. ':queue:' .. q, unpack(plain)) end
  wake(q)
end
-- Maximum number of jobs that one call of `take` sets aside or moves back to the list of their scope, in total.
local MAX_MOVES = 100
-- Removes and returns up to `want` (at most CHUNK) ids of ready jobs. The ids may include canceled jobs. At most `owner_max`
-- jobs of one owner may run; 0 for no limit. Also returns whether fewer than `want` ids are returned because this limit holds
-- back all remaining jobs; false if this is not known after MAX_MOVES moves.
local function take(q, want, owner_max)
  local list, turns = P .. ':queue:' .. q, P .. ':turns:' .. q
  if rc('EXISTS', turns) == 0 then return rc('LPOP', list, want) or {}, false end
  local ids, room, passed, held, moves = {}, {}, 0, false, owner_max > 0 and MAX_MOVES or 0
  local function is_full(account)
    if not room[account] then
      local function free() return owner_max - (rc('HGET', account, 'running') or 0) end
      if free() <= 0 then recount(account, now()) end
      room[account] = free()
    end
    return room[account] <= 0
  end
  -- Returns the account of the owner of the next job in `from`, the list of a scope; nil or false if there is no job or the job
  -- has no owner. First sets aside the jobs at the beginning of the list whose owners are at the limit of running jobs, as far
  -- as `moves` allows. Sets no jobs aside from a list that `purge` has renamed.
  local function account_of_next(scope, from)
    while true do
      local id = rc('LINDEX', from, 0)
      local group = id and rc('HGET', P .. ':group', id)
      local account = account_of(group)
      if not account or shared_group(group) ~= scope or moves == 0 or not is_full(account) then return account end
      rc('LPOP', from)
      enqueue_in_group(q, group, id)
      moves = moves - 1
    end
  end
  while #ids < want do
    local group = rc('LPOP', turns)
    if not group then break end
    local from, account = group == '' and list or group_list(q, group), owner_max > 0 and account_of(group)
    if owner_max > 0 and not account and is_scope(group) then account = account_of_next(group, from) end
    local full = account and is_full(account)
    local id = not full and rc('LPOP', from)
    if id and moves > 0 and shared_group(group) ~= group then
      -- The job was set aside, and its owner may run another job now. It goes to the front of the list of its scope.
      enqueue_in_group(q, shared_group(group), id, true)
      moves, passed = moves - 1, 0
    elseif id then
      ids[#ids + 1], passed, held = id, 0, false
      if account then room[account] = room[account] - 1 end
    else
      passed, held = passed + 1, held or full
    end
    -- The entry '' stays in `turns` as long as a group has jobs.
    if rc('EXISTS', group == '' and turns or from) == 1 then rc('RPUSH', turns, group) end
    if passed > 0 and passed >= rc('LLEN', turns) then break end
  end
  if #ids < want then
    for _, id in ipairs(rc('LPOP', list, want - #ids) or {}) do ids[#ids + 1] = id end
  end
  return ids, held and #ids < want and moves > 0
end

-- Releases the unique keys of jobs.
local function release_keys(ids)
  if rc('EXISTS', P .. ':key') == 0 then return end
  for i, key in ipairs(rc('HMGET', P .. ':key', unpack(ids))) do
    if key and rc('GET', P .. ':uniq:' .. key) == ids[i] then rc('DEL', P .. ':uniq:' .. key) end
  end
  rc('HDEL', P .. ':key', unpack(ids))
end
local RECORD_KEYS = { ':att', ':crash', ':err', ':prog', ':group', ':key', ':waits', ':unknown' }
-- Deletes the envelopes and records of jobs that are not running. Their unique keys must be released before. The caller removes
-- their ids from the sets of their queues. If an id stays in a list, `fetch` skips it.
local function delete_jobs(ids)
  discharge(ids)
  each_owned(ids, function(account, id) rc('LREM', account .. ':failed', 1, id) end)
  rc('HDEL', P .. ':jobs', unpack(ids))
  rc('SREM', P .. ':cancel', unpack(ids))
  for _, key in ipairs(RECORD_KEYS) do rc('HDEL', P .. key, unpack(ids)) end
end

-- Fails jobs for good; `errors` has the error of each, as JSON. Releases the unique keys of the jobs. The caller notifies their
-- dependents.
local function fail_jobs(q, ids, errors, t)
  local died, texts = {}, {}
  for i, id in ipairs(ids) do
    died[2 * i - 1], died[2 * i] = t, id
    texts[2 * i - 1], texts[2 * i] = id, errors[i]
  end
  rc('HSET', P .. ':err', unpack(texts))
  rc('ZADD', P .. ':failed:' .. q, unpack(died))
  rc('SREM', P .. ':cancel', unpack(ids))
  release_keys(ids)
  count(q, 'failed', #ids)
  discharge(ids)
  each_owned(ids, function(account, id)
    local list = account .. ':failed'
    local old = rc('RPUSH', list, id) > MAX_FAILED_OF_OWNER and rc('LPOP', list)
    local envelope = old and rc('HGET', P .. ':jobs', old)
    local place = envelope and failed_in(old, envelope)
    if place then
      rc('ZREM', P .. ':failed:' .. place, old)
      delete_jobs({ old })
    end
  end)
end

-- Dependencies. The hash `waits` has, for each deferred job, the number of jobs that it still waits for, and its policy (`good`
-- or `any`, see `push`). The list `then:<id>` has the ids of the jobs that wait for a job, also if they were canceled or have
-- failed since. The hash `then` has their number.
-- An ended job with dependents is added to the list `told`. `process_notifications` takes the jobs from this list, and notifies
-- a limited number of dependents in each call, so that a job with thousands of dependents does not block Redis.
-- Adds the ended jobs that have dependents to `told`. `good` is true if they have finished, and false if they have failed or
-- were canceled or purged.
local function notify_dependents(ids, good)
  if rc('EXISTS', P .. ':then') == 0 then return end
  for i, waiting in ipairs(rc('HMGET', P .. ':then', unpack(ids))) do
    if waiting then rc('RPUSH', P .. ':told', (good and '+' or '-') .. ids[i]) end
  end
  rc('HDEL', P .. ':then', unpack(ids))
end
-- Updates a deferred job after one of its dependencies has ended. `good` is whether the dependency has finished. The deferred
-- job fails, continues to wait for the other dependencies, or becomes scheduled or ready. Does nothing for any other job.
local function resolve_dependency(id, good, t)
  local left, policy = string.match(rc('HGET', P .. ':waits', id) or '', '^(%d+)|(%a+)$')
  if not left then return end
  local q = queue_of(rc('HGET', P .. ':jobs', id) or '')
  if not good and policy ~= 'any' then
    rc('HDEL', P .. ':waits', id)
    rc('ZREM', P .. ':deferred:' .. q, id)
    fail_jobs(q, { id }, { cjson.encode({ message = 'A job that this one waited for did not finish', at = t }) }, t)
    notify_dependents({ id }, false)
  elseif left + 0 > 1 then
    rc('HSET', P .. ':waits', id, integer(left - 1) .. '|' .. policy)
  else
    local due = tonumber(rc('ZSCORE', P .. ':deferred:' .. q, id) or 0)
    rc('HDEL', P .. ':waits', id)
    rc('ZREM', P .. ':deferred:' .. q, id)
    if due > t then rc('ZADD', P .. ':scheduled:' .. q, due, id) else make_ready(q, { id }) end
  end
end
-- Notifies up to `limit` deferred jobs of the ends of their dependencies. Returns whether more of them must be notified.
local function process_notifications(limit, t)
  while limit > 0 do
    local entry = rc('LINDEX', P .. ':told', 0)
    if not entry then return false end
    local waiting = P .. ':then:' .. string.sub(entry, 2)
    local ids = rc('LPOP', waiting, limit) or {}
    for _, id in ipairs(ids) do resolve_dependency(id, string.sub(entry, 1, 1) == '+', t) end
    limit = limit - math.max(#ids, 1)
    if rc('EXISTS', waiting) == 0 then rc('LPOP', P .. ':told') end
  end
  return rc('EXISTS', P .. ':told') == 1
end

-- `cancel` removes an id from a list only if it is among the first or the last DEPTH entries, because a search of a long list
-- blocks Redis. Otherwise the id stays in the list, and `fetch` skips it, because the job has no envelope.
local DEPTH = 10000
local function remove_from(list, id, depth)
  if rc('LPOS', list, id, 'RANK', -1, 'MAXLEN', depth) then return rc('LREM', list, -1, id) end
  if rc('LPOS', list, id, 'MAXLEN', depth) then return rc('LREM', list, 1, id) end
end
local function remove_from_group(q, group, id, depth)
  if not remove_from(group_list(q, group), id, depth) then return false end
  if rc('EXISTS', group_list(q, group)) == 0 then rc('LREM', P .. ':turns:' .. q, 1, group) end
  return true
end
-- Removes a ready job from the list of its group, if the job is among the first or last `depth` entries. A job with a scope is in
-- the list of the scope or, if it was set aside, in the list of its own group. A job in a list that `purge` has renamed stays.
local function remove_ready(q, group, id, depth)
  local shared = shared_group(group)
  if not remove_from_group(q, shared, id, depth) and shared ~= group then remove_from_group(q, group, id, depth) end
end
-- Cancels a job that is not running and has not failed. The outcome contains `by`: the id of the call that cancels the job, or
-- another text. `by` must not need escaping in JSON, and the envelope must be valid JSON.
local function cancel(id, envelope, t, by)
  local q = queue_of(envelope)
  if rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('ZREM', P .. ':deferred:' .. q, id) == 0 then
    local group = rc('HGET', P .. ':group', id)
    if group then remove_ready(q, group, id, DEPTH) else remove_from(P .. ':queue:' .. q, id, DEPTH) end
  end
  local attempts = (rc('HGET', P .. ':att', id) or 0) + (rc('HGET', P .. ':crash', id) or 0)
  local origin = ended_origin(rc('HGET', P .. ':group', id) or '')
  release_keys({ id })
  delete_jobs({ id })
  local text = '{"by":"' .. by .. '","attempts":' .. integer(attempts) .. ',"ended":' .. integer(t) .. ',"envelope":'
    .. envelope .. '}'
  store(OUTCOME, t, HOUR, { field_of(id), text }, #text)
  store(STATE, t, DAY, { field_of(id), 'c' .. origin }, 0)
  count(q, 'canceled', 1)
  notify_dependents({ id }, false)
  process_notifications(100, t)
end
-- Cancels the jobs `ids`, which have stopped running without an outcome, if their cancellation was requested while they ran.
-- A job with a malformed envelope is not canceled, because the outcome would not be valid JSON.
local function cancel_requested(ids, t)
  if rc('EXISTS', P .. ':cancel') == 0 then return end
  for i, asked in ipairs(rc('SMISMEMBER', P .. ':cancel', unpack(ids))) do
    local envelope = asked == 1 and rc('HGET', P .. ':jobs', ids[i])
    if envelope and pcall(cjson.decode, envelope) then cancel(ids[i], envelope, t, 'a request') end
  end
end
