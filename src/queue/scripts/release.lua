-- Releases the jobs of a fetch whose answer was lost. If the fetch reaches Redis up to ten minutes after this call, it returns no
-- jobs.
-- ARGV: token of the fetch, queues.. from which it may have taken jobs
-- Returns how many jobs were released
local token, total = ARGV[1] .. '.', 0
rc('SET', P .. ':void:' .. ARGV[1], 1, 'PX', 600000)
for a = 2, #ARGV do
  local q = ARGV[a]
  -- The last lease of the fetch comes first, because the jobs of each lease go to the front of their queue or group. The token
  -- of a lease begins with the token of the fetch, a dot and a number.
  local leases = {}
  for _, lease in ipairs(rc('ZRANGE', P .. ':wip:' .. q, 0, -1)) do
    if string.sub(lease, 1, #token) == token then leases[#leases + 1] = lease end
  end
  local function number_of(lease) return tonumber(string.match(lease, '^%d+', #token + 1)) or 0 end
  table.sort(leases, function(a, b) return number_of(a) > number_of(b) end)
  for _, lease in ipairs(leases) do
    local front = {}
    for _, id in ipairs((jobs_of(lease))) do table.insert(front, 1, id) end
    if #front > 0 then
      rc('HDEL', P .. ':run', unpack(front))
      make_ready(q, front, true)
      count_running(q, front, -1)
      cancel_requested(front, now())
      total = total + #front
    end
    rc('ZREM', P .. ':wip:' .. q, lease)
  end
end
return total
