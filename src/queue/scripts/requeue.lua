-- Puts failed jobs back into their queue, without their failed attempts and crashes. The jobs do not get their unique keys back.
-- Their dependents that have failed with them stay failed.
-- ARGV: queue, latest time of failure (ms), maximum number of jobs (up to 1,000); or '', id of the call, id of a job
-- Returns how many jobs went back
local function requeue(q, ids)
  rc('ZREM', P .. ':failed:' .. q, unpack(ids))
  for _, key in ipairs({ ':att', ':crash', ':err', ':unknown' }) do rc('HDEL', P .. key, unpack(ids)) end
  each_owned(ids, function(account, id)
    rc('LREM', account .. ':failed', 1, id)
    charge(account, { id, rc('HSTRLEN', P .. ':jobs', id) })
  end)
  make_ready(q, ids)
  count(q, 'requeued', #ids)
  return #ids
end
if ARGV[1] ~= '' then
  local ids = rc('ZRANGEBYSCORE', P .. ':failed:' .. ARGV[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
  return #ids > 0 and requeue(ARGV[1], ids) or 0
end
-- If the key of the call exists, the call is repeated, because the answer to its first run was lost.
local call = P .. ':void:' .. ARGV[2]
if rc('EXISTS', call) == 1 then return 1 end
local envelope = rc('HGET', P .. ':jobs', ARGV[3])
local q = envelope and failed_in(ARGV[3], envelope)
if not q then return 0 end
rc('SET', call, 1, 'PX', 600000)
return requeue(q, { ARGV[3] })
