-- Cancels a job that has not ended; one that runs is asked to stop.
-- ARGV: id, ttl of the result (ms), outcome
-- Returns none (unknown or ended), requested (it runs) or canceled
local id, ttl, text = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local envelope = rc('HGET', P .. ':jobs', id)
if not envelope then return 'none' end
if rc('HEXISTS', P .. ':run', id) == 1 then
  rc('SADD', P .. ':cancel', id)
  return 'requested'
end
local q = cjson.decode(envelope).queue
if rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('LREM', P .. ':queue:' .. q, 1, id) == 0 then return 'none' end
for _, key in ipairs({ ':jobs', ':att', ':crash', ':err', ':prog' }) do rc('HDEL', P .. key, id) end
keep(now(), ttl, { id, text })
count(q, 'canceled', 1)
return 'canceled'
