-- Periodic jobs. Reads when schedules are due, and deletes abandoned schedules; or enqueues the jobs of due schedules. An entry
-- is applied only if the due time in Redis is still the one that the caller has read, so that no run is enqueued twice.
-- ARGV: 'due', names of schedules..; or 'fire', then entries of:
--   name of the schedule
--   due time that the caller has read (ms), '' if Redis had none
--   next due time (ms)
--   queue
--   id of the new job
--   envelope of the new job, or '' to set the next due time only
-- 'due' returns {now, {due time (ms) or '', ..}}. 'fire' returns {now, {1 if the entry was applied, else 0, ..}}
local t, out = now(), {}
if ARGV[1] == 'due' then
  local mine = {}
  for i = 2, #ARGV do
    mine[ARGV[i]] = true
    out[#out + 1] = rc('HGET', P .. ':cron', ARGV[i]) or ''
  end
  -- Deletes schedules that the caller does not know and that are more than an hour late: a running scheduler that knows them
  -- would have fired them, unless Redis was unavailable.
  local all = rc('HGETALL', P .. ':cron')
  for i = 1, #all, 2 do
    if not mine[all[i]] and all[i + 1] + 3600000 < t then rc('HDEL', P .. ':cron', all[i]) end
  end
  return { t, out }
end
for i = 2, #ARGV, 6 do
  local name, current, next, q, id, envelope = unpack(ARGV, i, i + 5)
  local applies = (rc('HGET', P .. ':cron', name) or '') == current
  if applies then
    rc('HSET', P .. ':cron', name, next)
    if envelope ~= '' and rc('HSETNX', P .. ':jobs', id, envelope) == 1 then
      rc('SADD', P .. ':queues', q)
      make_ready(q, { id })
      count(q, 'enqueued', 1)
    end
  end
  out[#out + 1] = applies and 1 or 0
end
return { t, out }
