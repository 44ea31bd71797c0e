-- Settles deliveries. An entry applies only if its token still holds the job (fencing). No command may raise an error, because
-- the batch would then be half applied.
-- ARGV: queue, k, k leases whose last job is settled by this call, then entries of (op, id, token, arg, ttl, text):
--   ok, cancel   the job has finished or was canceled; text is the outcome, kept for ttl (ms). arg begins with 1 if Redis may
--                hold attempts, progress or other records that must be deleted with the job, else with 0. The owner and the
--                scope follow, as in the state of an ended job without its first letter (see STATE in lib.lua)
--   retry        the attempt has failed, and the job is delivered again after arg ms; text is the error
--   snooze       the job is delivered again after arg ms, and no attempt is counted
--   unknown      the worker does not know the task, or the version of the envelope. The first ttl times (here a number), the job
--                is delivered again after arg ms; the next time, it fails for good. text is the error
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
  local settled, outcomes, states, ended, with_records, due_later, front = {}, {}, {}, {}, {}, {}, {}
  local failed, errors, dead, dead_errors, finished, canceled, redelivered = {}, {}, {}, {}, {}, {}, {}
  for i = 1, m do
    local b = off + (base + i - 1) * 6
    local op, id, token, arg, ttl, text = ARGV[b + 1], ids[i], ARGV[b + 3], ARGV[b + 4], ARGV[b + 5], ARGV[b + 6]
    if not run[i] or seen[id] or string.sub(run[i], 1, #token + 1) ~= token .. '|' then
      rejected[#rejected + 1] = base + i
    else
      seen[id] = true
      settled[#settled + 1] = id
      if op == 'ok' or op == 'cancel' then
        local field = field_of(id)
        keep(outcomes, tonumber(ttl), field, text)
        keep(states, math.max(DAY, ttl), field, (op == 'ok' and 'f' or 'c') .. string.sub(arg, 2))
        ended[#ended + 1] = id
        if string.sub(arg, 1, 1) == '1' then with_records[#with_records + 1] = id end
        if op == 'ok' then finished[#finished + 1] = id else canceled[#canceled + 1] = id end
      elseif op == 'unknown' and rc('HINCRBY', P .. ':unknown', id, 1) > tonumber(ttl) then
        dead[#dead + 1], dead_errors[#dead_errors + 1] = id, text
      elseif op == 'release' then
        table.insert(front, 1, id)
        redelivered[#redelivered + 1] = id
      else
        if op == 'retry' or op == 'dead' then failed[#failed + 1] = id end
        if op == 'dead' then
          dead[#dead + 1], dead_errors[#dead_errors + 1] = id, text
        else
          due_later[#due_later + 1], due_later[#due_later + 2] = t + tonumber(arg), id
          redelivered[#redelivered + 1] = id
          if op == 'retry' then errors[#errors + 1], errors[#errors + 2] = id, text end
        end
      end
    end
  end
  if #settled > 0 then
    rc('HDEL', P .. ':run', unpack(settled))
    count_running(q, settled, -1)
    freed = freed + #settled
  end
  if #ended > 0 then
    discharge(ended)
    rc('HDEL', P .. ':jobs', unpack(ended))
    for ttl, kept in pairs(outcomes) do store(OUTCOME, t, ttl, kept, kept.bytes) end
    for ttl, kept in pairs(states) do store(STATE, t, ttl, kept, 0) end
    if rc('EXISTS', P .. ':cancel') == 1 then rc('SREM', P .. ':cancel', unpack(ended)) end
    if rc('EXISTS', P .. ':unknown') == 1 then rc('HDEL', P .. ':unknown', unpack(ended)) end
  end
  if #canceled > 0 then release_keys(canceled) end
  if #with_records > 0 then
    for _, key in ipairs(RECORD_KEYS) do rc('HDEL', P .. key, unpack(with_records)) end
  end
  for _, id in ipairs(failed) do rc('HINCRBY', P .. ':att', id, 1) end
  if #errors > 0 then rc('HSET', P .. ':err', unpack(errors)) end
  if #due_later > 0 then rc('ZADD', P .. ':scheduled:' .. q, unpack(due_later)) end
  -- Deletes the progress of the runs that have ended: the next run of a job begins without progress.
  if #settled > #ended and rc('EXISTS', P .. ':prog') == 1 then rc('HDEL', P .. ':prog', unpack(settled)) end
  if #front > 0 then make_ready(q, front, true) end
  if #redelivered > 0 then cancel_requested(redelivered, t) end
  if #dead > 0 then
    fail_jobs(q, dead, dead_errors, t)
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
