-- Puts failed jobs back into their queue, as if they had never run.
-- ARGV: queue, died up to (ms), most (up to 1,000); or '' and ids..
-- Returns how many
local function again(q, ids)
  rc('ZREM', P .. ':failed:' .. q, unpack(ids))
  for _, key in ipairs({ ':att', ':crash', ':err', ':unknown' }) do rc('HDEL', P .. key, unpack(ids)) end
  ready(q, ids)
  count(q, 'requeued', #ids)
  return #ids
end
if ARGV[1] ~= '' then
  local ids = rc('ZRANGEBYSCORE', P .. ':failed:' .. ARGV[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
  return #ids > 0 and again(ARGV[1], ids) or 0
end
local total = 0
for i = 2, #ARGV do
  local envelope = rc('HGET', P .. ':jobs', ARGV[i])
  local q = envelope and failed_in(ARGV[i], envelope)
  if q then total = total + again(q, { ARGV[i] }) end
end
return total
