-- Fires periodic jobs: whoever first says that a slot is over has its job queued, and nobody after that.
-- ARGV: when each of these is next due is asked: 'due', names..
--   or said: 'fire', then entries of (name, due before or '', next due, queue, id, envelope or '')
-- Returns {now, {due (ms) or '', ..}}, or {now, {1 where the entry was the first to say it, else 0, ..}}
local t, out = now(), {}
if ARGV[1] == 'due' then
  local mine = {}
  for i = 2, #ARGV do
    mine[ARGV[i]] = true
    out[#out + 1] = rc('HGET', P .. ':cron', ARGV[i]) or ''
  end
  -- Nobody who declares it has fired it for an hour: it is of a version that is gone.
  local all = rc('HGETALL', P .. ':cron')
  for i = 1, #all, 2 do
    if not mine[all[i]] and all[i + 1] + 3600000 < t then rc('HDEL', P .. ':cron', all[i]) end
  end
  return { t, out }
end
for i = 2, #ARGV, 6 do
  local name, before, after, q, id, envelope = unpack(ARGV, i, i + 5)
  local first = (rc('HGET', P .. ':cron', name) or '') == before
  if first then
    rc('HSET', P .. ':cron', name, after)
    if envelope ~= '' and rc('HSETNX', P .. ':jobs', id, envelope) == 1 then
      rc('SADD', P .. ':queues', q)
      ready(q, { id })
      count(q, 'enqueued', 1)
    end
  end
  out[#out + 1] = first and 1 or 0
end
return { t, out }
