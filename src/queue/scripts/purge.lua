-- Throws jobs away, the oldest first.
-- ARGV: queue, state (queued, scheduled, deferred, failed), most (up to 1,000)
-- Returns how many left the place that was purged
local q, state, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ids
if state == 'queued' then
  ids = take(q, most)
else
  local from = P .. ':' .. state .. ':' .. q
  ids = rc('ZRANGE', from, 0, most - 1)
  if #ids > 0 then rc('ZREM', from, unpack(ids)) end
end
if #ids == 0 then return 0 end
local canceled = 0
for _, envelope in ipairs(rc('HMGET', P .. ':jobs', unpack(ids))) do
  if envelope then canceled = canceled + 1 end
end
free_keys(ids)
forget(ids)
if state ~= 'failed' then
  count(q, 'canceled', canceled)
  tell(ids, false)
  hear(100, now())
end
return #ids
