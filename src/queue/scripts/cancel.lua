-- Cancels a job that has not ended; one that runs is asked to stop.
-- ARGV: id, a word of the caller's own
-- Returns unknown, ended, requested (it runs) or canceled
local id, by = ARGV[1], ARGV[2]
local envelope = rc('HGET', P .. ':jobs', id)
if not envelope then
  local text = outcome(id)
  if not text then return 'unknown' end
  -- The same word again: a call whose first answer was lost.
  return string.find(text, '{"state":"canceled","by":"' .. by .. '"', 1, true) == 1 and 'canceled' or 'ended'
end
if rc('HEXISTS', P .. ':run', id) == 1 then
  rc('SADD', P .. ':cancel', id)
  return 'requested'
end
if failed_in(id, envelope) then return 'ended' end
-- The envelope becomes part of the outcome, which has to be readable.
if not pcall(cjson.decode, envelope) then return 'ended' end
cancel(id, envelope, now(), by)
return 'canceled'
