-- A heartbeat: lists the worker as running, renews the leases that it still holds, and stores the progress of its jobs.
-- ARGV: length of the leases (ms), id of the worker, its record (JSON), number of leases, then pairs of (queue, lease), then
--   triples of (id of a job, token, progress as JSON)
-- Returns {leases that no longer exist, ids of all running jobs whose cancellation was requested, also of other workers}
local lease, t, lost = tonumber(ARGV[1]), now(), {}
rc('ZADD', P .. ':alive', t, ARGV[2])
rc('HSET', P .. ':card', ARGV[2], ARGV[3])
local first = 5 + 2 * tonumber(ARGV[4])
for i = 5, first - 1, 2 do
  local key = P .. ':wip:' .. ARGV[i]
  if rc('ZSCORE', key, ARGV[i + 1]) then rc('ZADD', key, 'XX', t + lease, ARGV[i + 1])
  else lost[#lost + 1] = ARGV[i + 1] end
end
for i = first, #ARGV, 3 do
  local holder = rc('HGET', P .. ':run', ARGV[i])
  if holder and string.sub(holder, 1, #ARGV[i + 1] + 1) == ARGV[i + 1] .. '|' then
    rc('HSET', P .. ':prog', ARGV[i], ARGV[i + 2])
  end
end
return { lost, rc('SMEMBERS', P .. ':cancel') }
