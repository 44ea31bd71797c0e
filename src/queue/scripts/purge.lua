-- Throws jobs away, the oldest first.
-- ARGV: queue, state (queued, scheduled, deferred, failed), most to look at (up to 1,000), when the purge began
--   (ms): what failed after that stays, and an id above the string that follows was made after that
-- Returns how many left the place that was purged
local q, state, most, begun, last = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local from = P .. ':' .. state .. ':' .. q
local ids, stay = {}, {}
local found
if state == 'queued' then found = take(q, most)
elseif state == 'failed' then found = rc('ZRANGEBYSCORE', from, '-inf', begun, 'LIMIT', 0, most)
else found = rc('ZRANGE', from, 0, most - 1) end
for _, id in ipairs(found) do
  if id <= last then ids[#ids + 1] = id else table.insert(stay, 1, id) end
end
if #stay > 0 and state == 'queued' then ready(q, stay, true) end
if #ids == 0 then return 0 end
if state ~= 'queued' then rc('ZREM', from, unpack(ids)) end
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
