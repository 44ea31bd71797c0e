-- Settles deliveries. An entry applies only if its token still holds the job (fencing). No command raises an error, so
-- that a batch is never half applied.
-- ARGV: queue, k, k leases whose last job is settled by this call, then entries of (op, id, token, arg, ttl, text):
--   ok, cancel   the job has finished or was canceled; text is the outcome, kept for ttl (ms). arg begins with 1 if Redis may
--                hold attempts, progress or other records that must be deleted with the job, else with 0. The owner and the
--                scope follow, as in the state of an ended job without its first letter (see STATE in lib.lua)
--   retry        the attempt has failed, and the job is delivered again after arg ms; text is the error
--   snooze       the job is delivered again after arg ms, and no attempt is counted
--   unknown      the worker does not know the task. The job is delivered again after arg ms, at most ttl (a number) times.
--                Then it fails for good; text is the error
--   dead         the job has failed for good; text is the error
--   release      the job goes back to the front of its queue or group, and no attempt is counted
-- A job that is to be delivered again is canceled instead if its cancellation was requested while it ran.
-- Returns the positions of the rejected entries among the entries, from 1
local q, k = ARGV[1], tonumber(ARGV[2])
local t, off, rejected = now(), 2 + k, {}
local n = (#ARGV - off) / 6
local seen, freed = {}, 0
-- Adds a record to the records with the same TTL in `by_ttl`.
local function keep(by_ttl, ttl, field, text)
  local kept = by_ttl[ttl] or { bytes = 0 }
  kept[#kept + 1], kept[#kept + 2] = field, text
  kept.bytes, by_ttl[ttl] = kept.bytes + #text, kept
end
for base = 0, n - 1, CHUNK do
  local m, ids = math.min(CHUNK, n - base), {}
  for i = 1, m do ids[i] = ARGV[off + (base + i - 1) * 6 + 2] end
  local run = rc('HMGET', P .. ':run', unpack(ids))
  local gone, done, ended, over, clear, later, front, failed, errors, dead, fatal = {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
  local finished, canceled, back = {}, {}, {}
  for i = 1, m do
    local b = off + (base + i - 1) * 6
    local op, id, token, arg, ttl, text = ARGV[b + 1], ids[i], ARGV[b + 3], ARGV[b + 4], ARGV[b + 5], ARGV[b + 6]
    if not run[i] or seen[id] or string.sub(run[i], 1, #token + 1) ~= token .. '|' then
      rejected[#rejected + 1] = base + i
    else
      seen[id] = true
      gone[#gone + 1] = id
      if op == 'ok' or op == 'cancel' then
        local field = field_of(id)
        keep(done, tonumber(ttl), field, text)
        keep(ended, math.max(DAY, ttl), field, (op == 'ok' and 'f' or 'c') .. string.sub(arg, 2))
        over[#over + 1] = id
        if string.sub(arg, 1, 1) == '1' then clear[#clear + 1] = id end
        if op == 'ok' then finished[#finished + 1] = id else canceled[#canceled + 1] = id end
      elseif op == 'unknown' and rc('HINCRBY', P .. ':unknown', id, 1) > tonumber(ttl) then
        dead[#dead + 1], fatal[#fatal + 1] = id, text
      elseif op == 'release' then
        table.insert(front, 1, id)
        back[#back + 1] = id
      else
        if op == 'retry' or op == 'dead' then failed[#failed + 1] = id end
        if op == 'dead' then
          dead[#dead + 1], fatal[#fatal + 1] = id, text
        else
          later[#later + 1], later[#later + 2] = t + tonumber(arg), id
          back[#back + 1] = id
          if op == 'retry' then errors[#errors + 1], errors[#errors + 2] = id, text end
        end
      end
    end
  end
  if #gone > 0 then
    rc('HDEL', P .. ':run', unpack(gone))
    count_running(q, gone, -1)
    freed = freed + #gone
  end
  if #over > 0 then
    discharge(over)
    rc('HDEL', P .. ':jobs', unpack(over))
    for ttl, kept in pairs(done) do store(OUTCOME, t, ttl, kept, kept.bytes) end
    for ttl, kept in pairs(ended) do store(STATE, t, ttl, kept, 0) end
    if rc('EXISTS', P .. ':cancel') == 1 then rc('SREM', P .. ':cancel', unpack(over)) end
    if rc('EXISTS', P .. ':unknown') == 1 then rc('HDEL', P .. ':unknown', unpack(over)) end
  end
  if #canceled > 0 then release_keys(canceled) end
  if #clear > 0 then
    for _, key in ipairs(RECORD_KEYS) do rc('HDEL', P .. key, unpack(clear)) end
  end
  for _, id in ipairs(failed) do rc('HINCRBY', P .. ':att', id, 1) end
  if #errors > 0 then rc('HSET', P .. ':err', unpack(errors)) end
  if #later > 0 then rc('ZADD', P .. ':scheduled:' .. q, unpack(later)) end
  -- Deletes the progress of the runs that have ended: the next run of a job begins without progress.
  if #gone > #over and rc('EXISTS', P .. ':prog') == 1 then rc('HDEL', P .. ':prog', unpack(gone)) end
  if #front > 0 then make_ready(q, front, true) end
  if #back > 0 then cancel_requested(back, t) end
  if #dead > 0 then
    fail_jobs(q, dead, fatal, t)
    notify_dependents(dead, false)
  end
  if #finished > 0 then
    count(q, 'finished', #finished)
    notify_dependents(finished, true)
  end
  if #canceled > 0 then
    count(q, 'canceled', #canceled)
    notify_dependents(canceled, false)
  end
end
process_notifications(100, t)
if freed > 0 and rc('HEXISTS', P .. ':limits', q .. ':concurrency') == 1 and has_ready(q) then wake(q) end
for base = 1, k, CHUNK do
  rc('ZREM', P .. ':wip:' .. q, unpack(ARGV, 2 + base, 2 + math.min(base + CHUNK - 1, k)))
end
return rejected
