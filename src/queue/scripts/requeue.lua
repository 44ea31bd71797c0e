-- Puts failed jobs back into their queue, as if they had never run.
-- ARGV: queue, died up to (ms), most (up to 1,000); or '', a word of the caller's own and an id
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
-- The same word again: a call whose first answer was lost.
local said = P .. ':void:' .. ARGV[2]
if rc('EXISTS', said) == 1 then return 1 end
local envelope = rc('HGET', P .. ':jobs', ARGV[3])
local q = envelope and failed_in(ARGV[3], envelope)
if not q then return 0 end
rc('SET', said, 1, 'PX', 600000)
return again(q, { ARGV[3] })
