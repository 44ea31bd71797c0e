-- Throws jobs away, the oldest first.
-- ARGV: queue, state (queued, scheduled, deferred, failed), most to look at (up to 1,000), a string: ids above it
--   were made after the purge began, and stay
-- Returns how many left the place that was purged
local q, state, most, last = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local from = P .. ':' .. state .. ':' .. q
local ids, stay = {}, {}
for _, id in ipairs(state == 'queued' and take(q, most) or rc('ZRANGE', from, 0, most - 1)) do
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
