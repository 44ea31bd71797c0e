-- Extends the leases that a worker still holds.
-- ARGV: lease (ms), then pairs of (queue, lease)
-- Returns {leases lost, ids to cancel}
local lease, t, lost = tonumber(ARGV[1]), now(), {}
for i = 2, #ARGV, 2 do
  local key = P .. ':wip:' .. ARGV[i]
  if rc('ZSCORE', key, ARGV[i + 1]) then rc('ZADD', key, 'XX', t + lease, ARGV[i + 1])
  else lost[#lost + 1] = ARGV[i + 1] end
end
return { lost, rc('SMEMBERS', P .. ':cancel') }
