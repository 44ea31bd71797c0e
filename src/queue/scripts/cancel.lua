-- Cancels a job that has not ended, or tells it to stop if it is running.
-- ARGV: id, id of the call
-- Returns unknown, ended, requested (it is running) or canceled
local id, by = ARGV[1], ARGV[2]
local envelope = rc('HGET', P .. ':jobs', id)
if not envelope then
  if not find_record(STATE, id) then return 'unknown' end
  -- Repeated because the first answer was lost.
  return string.find(find_record(OUTCOME, id) or '', '{"by":"' .. by .. '"', 1, true) == 1 and 'canceled' or 'ended'
end
if rc('HEXISTS', P .. ':run', id) == 1 then
  rc('SADD', P .. ':cancel', id)
  return 'requested'
end
if failed_in(id, envelope) then return 'ended' end
-- The envelope becomes part of the outcome, so it must be valid JSON.
if not pcall(cjson.decode, envelope) then return 'ended' end
cancel(id, envelope, now(), by)
return 'canceled'
