-- The beginning of every script. KEYS[1] is the prefix of all keys; with a hash tag as prefix, all keys are in one slot
-- of Redis Cluster. Times are milliseconds by the clock of the server.
local P, rc = KEYS[1], redis.call
local CHUNK = 1000 -- `unpack` fails near 8,000
local HOUR, DAY = 3600000, 86400000
local AHEAD = '+' -- the end of the token of jobs that were fetched ahead of free slots
local function now() local t = rc('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local function wake(q) rc('ZADD', P .. ':wake:' .. q, 0, '1') end
local function count(q, what, n) rc('HINCRBY', P .. ':stats', q .. ':' .. what, n) end
local function integer(n) return string.format('%.0f', n) end
-- Returns the queue of a job. Parses the envelope only if it does not start as expected; '' if it is malformed.
local function queue_of(envelope)
  local q = string.match(envelope, '^{"v":%d+,"task":"[^"\\]*","queue":"([^"\\]*)"')
  if q then return q end
  local ok, decoded = pcall(cjson.decode, envelope)
  return ok and type(decoded) == 'table' and decoded.queue or ''
end

-- Returns the queue in which a job has failed, or nil. A malformed envelope names no queue, so all queues are searched.
local function failed_in(id, envelope)
  local q = queue_of(envelope)
  for _, name in ipairs(q ~= '' and { q } or rc('SMEMBERS', P .. ':queues')) do
    if rc('ZSCORE', P .. ':failed:' .. name, id) then return name end
  end
end

-- Returns the jobs that a lease (`token|id,id`) still holds, and their holder (`token|worker|started at`). A member of
-- another form is ignored: RQ uses the same key differently.
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

-- When a job has finished or was canceled, two records remain. Its outcome, with the result, is kept for RESULT_TTL. Its
-- state is kept for at least a day: `after`, a repeated push and a late poll read it. The state is `f` (finished) or `c`
-- (canceled), the id of the owner and, after a bar, the scope.
-- Records are stored in hashes (buckets). Each bucket has the records of an eighth of their TTL; a full bucket is followed by
-- another. The name of a bucket contains the TTL. A sorted set for each kind of record has the names of the buckets, with the
-- latest time of their records. `tick` unlinks a bucket one TTL after this time, which does not block Redis. If no scheduler
-- runs, the key expires a minute later.
local STATE, OUTCOME = ':ended', ':done'
-- Maximum number of records in a bucket: just below a power of two, the size of a hash table. Buckets of states are large,
-- because a push looks for its job in each bucket of the last minutes.
local BUCKET_RECORDS, BUCKET_BYTES = { [STATE] = 520000, [OUTCOME] = 65000 }, 8 * 1024 * 1024
-- Returns the field of a job in a bucket: its id. The time at the beginning of a UUIDv7 is left out to save memory.
local function field_of(id) return #id == 32 and string.sub(id, 13) or id end
local function forget_bucket(kind, key)
  rc('UNLINK', key)
  rc('ZREM', P .. kind, key)
  rc('HDEL', P .. ':bytes', key)
end
-- Stores records of a kind. `records`: field, text, field, text, ...
local function store(kind, t, ttl, records, bytes)
  ttl = math.max(8000, math.min(ttl, 366 * DAY)) -- any RESULT_TTL is valid: nothing here may raise an error
  local slice = math.ceil(ttl / 8)
  local slot = math.floor(t / slice)
  local key, last = P .. kind .. ':' .. integer(ttl) .. ':' .. integer(slot), (slot + 1) * slice
  rc('HSET', key, unpack(records))
  local total, n = bytes > 0 and rc('HINCRBY', P .. ':bytes', key, bytes) or 0, rc('HLEN', key)
  -- A bucket must be in the sorted set, or it is neither found nor deleted.
  if rc('ZADD', P .. kind, 'NX', last, key) == 1 or n == #records / 2 then
    rc('PEXPIREAT', key, last + ttl + 60000)
  end
  if n < BUCKET_RECORDS[kind] and total < BUCKET_BYTES then return end
  -- Renames the full bucket, so that the next bucket can have the name.
  local full = key .. '.' .. integer(t)
  if rc('RENAMENX', key, full) == 0 then return end
  rc('ZREM', P .. kind, key)
  rc('ZADD', P .. kind, t, full)
  if bytes > 0 then rc('HSET', P .. ':bytes', full, total) end
  rc('HDEL', P .. ':bytes', key)
end
-- Returns the record of a job, or false.
local function find_record(kind, id)
  local field = field_of(id)
  for _, key in ipairs(rc('ZREVRANGE', P .. kind, 0, -1)) do
    local text = rc('HGET', key, field)
    if text then return text end
  end
  return false
end

-- Owners. A job with an owner and no scope is in the group `owner:<id>`. The hash `<prefix>:owner:<id>`, the account of the
-- owner, has the size in bytes of each job that waits or runs, and the sums `jobs`, `bytes` and `running`. The list
-- `<prefix>:owner:<id>:failed` has the failed jobs, oldest first.
-- Scopes. The group of a job with a scope is `scope:<scope>|owner:<id>`, or `scope:<scope>` without an owner. The jobs of a
-- scope take turns as one group, `scope:<scope>`. If an owner is at the limit of running jobs, `take` sets the owner's jobs
-- aside: it moves them to the list `scope:<scope>|owner:<id>`, so that they do not delay the other owners of the scope.
local MAX_FAILED_OF_OWNER = 100
local MAX_RECOUNTED = 10000
local SUMS = { jobs = true, bytes = true, running = true, counted = true }
-- Returns the key of the account of a group, or nil. Also recognizes the names that a purge gives to groups.
local function account_of(group)
  local owner = group and (string.match(group, '^owner:%-?%d+$') or string.match(group, '^scope:[^|]*|(owner:%-?%d+)$')
    or string.match(group, '^purged up to .*[ |](owner:%-?%d+)$'))
  return owner and P .. ':' .. owner
end
-- Returns the group with which a job takes turns.
local function shared_group(group) return string.match(group, '^(scope:[^|]*)|') or group end
-- Returns the owner and the scope of a group as the state of an ended job has them.
local function ended_origin(group)
  local scope, rest = string.match(group, '^scope:([^|]*)(.*)$')
  local owner = string.match(rest or '|' .. group, '^|owner:(%-?%d+)$') or ''
  return scope and owner .. '|' .. scope or owner
end
-- Calls `change(account, id)` for each job that has an owner. `account` is the key of the owner's hash.
local function each_owned(ids, change)
  if rc('EXISTS', P .. ':group') == 0 then return end
  for i, group in ipairs(rc('HMGET', P .. ':group', unpack(ids))) do
    local account = account_of(group)
    if account then change(account, ids[i]) end
  end
end
-- Adds jobs that wait to an account. `sizes`: id, size in bytes, id, size in bytes, ...
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
-- Counts jobs that start (n = 1) or stop (n = -1) running. A stop may let jobs run that the limit of an owner held back.
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
-- Corrects an account, at most once a minute: workers of earlier releases end jobs without updating it.
local function recount(account, t)
  local before, total = unpack(rc('HMGET', account, 'counted', 'jobs'))
  if t - (before or 0) < 60000 or tonumber(total or 0) > MAX_RECOUNTED then return end
  local jobs, bytes, running, all = 0, 0, 0, rc('HGETALL', account)
  for i = 1, #all, 2 do
    local id, size = all[i], all[i + 1]
    if SUMS[id] then -- not a job
    elseif rc('HEXISTS', P .. ':jobs', id) == 0 then rc('HDEL', account, id)
    else jobs, bytes, running = jobs + 1, bytes + size, running + rc('HEXISTS', P .. ':run', id) end
  end
  if jobs == 0 then rc('DEL', account)
  else rc('HSET', account, 'jobs', jobs, 'bytes', bytes, 'running', running, 'counted', integer(t)) end
end

-- Returns which limit of an owner new jobs would exceed, `jobs` or `bytes`, or nil.
local function exceeded_limit(account, jobs, bytes, max_jobs, max_bytes, t)
  local function exceeded()
    local have, used = unpack(rc('HMGET', account, 'jobs', 'bytes'))
    if (have or 0) + jobs > max_jobs then return 'jobs' end
    if (used or 0) + bytes > max_bytes then return 'bytes' end
  end
  if exceeded() then recount(account, t) end
  return exceeded()
end
-- Limits the jobs that an owner enqueues in an hour with a token bucket, as in `fetch`. Without it, the outcomes of many
-- short jobs could fill the memory. Returns the milliseconds until `jobs` more are within the limit (0 or less if they are
-- now), and the level of the bucket with these jobs.
local function pace_of(account, jobs, max_rate, t)
  local level = math.min(math.max(t, tonumber(rc('GET', account .. ':pace') or 0)), t + HOUR) + jobs * HOUR / max_rate
  return math.ceil(level - t - HOUR - 0.001), level
end

-- The jobs of a group wait in a list of their own, and groups take turns: `turns` contains each group that has jobs
-- once, and '' for the jobs without a group.
local function group_list(q, group) return P .. ':group:' .. q .. ':' .. group end
local function enqueue_in_group(q, group, id, front)
  local list, turns = group_list(q, group), P .. ':turns:' .. q
  if rc(front and 'LPUSH' or 'RPUSH', list, id) == 1 then
    if rc('EXISTS', turns) == 0 then rc('RPUSH', turns, '') end
    rc('RPUSH', turns, group)
  end
end
-- Returns whether a group is that of a scope, or was before a purge renamed it. The list of such a group has jobs of several
-- owners.
local function is_scope(group) return string.match(group, '^scope:[^|]*$') or string.match(group, '^purged up to .* scope:[^|]*$') end
local function has_ready(q) return rc('EXISTS', P .. ':queue:' .. q, P .. ':turns:' .. q) > 0 end
-- Makes jobs ready to be fetched: behind the waiting jobs or, with `front`, before them, the last of `ids` first.
local function make_ready(q, ids, front)
  local groups = rc('EXISTS', P .. ':group') == 1 and rc('HMGET', P .. ':group', unpack(ids)) or {}
  local plain = {}
  for i, id in ipairs(ids) do
    if groups[i] then enqueue_in_group(q, shared_group(groups[i]), id, front) else plain[#plain + 1] = id end
  end
  if #plain > 0 then rc(front and 'LPUSH' or 'RPUSH', P .. ':queue:' .. q, unpack(plain)) end
  wake(q)
end
local MAX_MOVES = 100 -- the most jobs that one call moves between a scope and what was set aside from it
-- Removes and returns up to `want` (at most CHUNK) ids of ready jobs. At most `owner_max` jobs of one owner may run; 0 for no
-- limit. Also returns whether this limit holds back all remaining jobs.
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
  -- Returns the account of the next job of a scope. First sets jobs aside whose owners are at their limit.
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
      -- The job was set aside, and its owner has room again. It goes to the front of the list of its scope.
      enqueue_in_group(q, shared_group(group), id, true)
      moves, passed = moves - 1, 0
    elseif id then
      ids[#ids + 1], passed, held = id, 0, false
      if account then room[account] = room[account] - 1 end
    else
      passed, held = passed + 1, held or full
    end
    -- '' remains as long as there is a group.
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
-- Deletes jobs that have no outcome.
local function delete_jobs(ids)
  discharge(ids)
  each_owned(ids, function(account, id) rc('LREM', account .. ':failed', 1, id) end)
  rc('HDEL', P .. ':jobs', unpack(ids))
  rc('SREM', P .. ':cancel', unpack(ids))
  for _, key in ipairs(RECORD_KEYS) do rc('HDEL', P .. key, unpack(ids)) end
end

-- Fails jobs for good; `errors` has the error of each, as JSON.
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

-- Dependencies: `waits` has the number of jobs that a deferred job still waits for, `then:<id>` lists the jobs that wait
-- for a job, and `then` counts them. Ended jobs go through the list `told`, so that a job with thousands of dependents
-- does not block Redis.
local function notify_dependents(ids, good)
  if rc('EXISTS', P .. ':then') == 0 then return end
  for i, waiting in ipairs(rc('HMGET', P .. ':then', unpack(ids))) do
    if waiting then rc('RPUSH', P .. ':told', (good and '+' or '-') .. ids[i]) end
  end
  rc('HDEL', P .. ':then', unpack(ids))
end
-- Tells a deferred job that one of its dependencies has ended.
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
-- Notifies up to `limit` deferred jobs. Returns whether there are more.
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

-- Cancels a job that is not running and has not failed. Its id is removed from a list only near either end. Deeper in
-- the list it stays, and fetches skip it.
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
-- Removes a job from the lists of its group: it waits there, or was set aside.
local function remove_ready(q, group, id, depth)
  local shared = shared_group(group)
  if not remove_from_group(q, shared, id, depth) and shared ~= group then remove_from_group(q, group, id, depth) end
end
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
-- Cancels jobs that have stopped running without an outcome, if a call of `cancel` has asked for that.
local function cancel_requested(ids, t)
  if rc('EXISTS', P .. ':cancel') == 0 then return end
  for i, asked in ipairs(rc('SMISMEMBER', P .. ':cancel', unpack(ids))) do
    local envelope = asked == 1 and rc('HGET', P .. ':jobs', ids[i])
    if envelope and pcall(cjson.decode, envelope) then cancel(ids[i], envelope, t, 'a request') end
  end
end
