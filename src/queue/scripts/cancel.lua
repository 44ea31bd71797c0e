-- Cancels a job that has not ended; one that runs is asked to stop.
-- ARGV: id, ttl of the result (ms), outcome
-- Returns none (unknown or ended), requested (it runs) or canceled
local id, ttl, text = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local envelope = rc('HGET', P .. ':jobs', id)
-- The same words again: a call whose first answer was lost.
if not envelope then return outcome(id) == text and 'canceled' or 'none' end
if rc('HEXISTS', P .. ':run', id) == 1 then
  rc('SADD', P .. ':cancel', id)
  return 'requested'
end
local ok, decoded = pcall(cjson.decode, envelope)
if not ok then return 'none' end
local q = decoded.queue
-- From the tail: who cancels has mostly just enqueued.
if rc('ZREM', P .. ':scheduled:' .. q, id) == 0 and rc('LREM', P .. ':queue:' .. q, -1, id) == 0 then return 'none' end
rc('SREM', P .. ':cancel', id)
for _, key in ipairs({ ':jobs', ':att', ':crash', ':err', ':prog' }) do rc('HDEL', P .. key, id) end
keep(now(), ttl, { id, text })
count(q, 'canceled', 1)
return 'canceled'
