-- Cancels a job that has not ended, or tells it to stop if it is running.
-- ARGV:
--   id of the job
--   id of the call, by which a repeated call is recognized
--   for a prepared job, which may not have been pushed yet, the state of a canceled job (`c`, owner, scope); else ''. If the job
--     is unknown, the script stores this state, so that a later push finds a job that has ended
-- Returns one of:
--   unknown
--   ended       the job had finished, failed or been canceled before, or its envelope is malformed
--   requested   the job is running, and the next heartbeat of its worker tells it to stop
--   canceled    by this call, or by its first run if the call is repeated; a prepared job also if another call had canceled it
local id, by, ahead = ARGV[1], ARGV[2], ARGV[3] or ''
local envelope = rc('HGET', P .. ':jobs', id)
if not envelope then
  local state = find_record(STATE, id)
  if ahead ~= '' then
    if not state then store(STATE, now(), DAY, { field_of(id), ahead }, 0) end
    -- A previous call, whose answer was lost, may have stored the state.
    return string.sub(state or ahead, 1, 1) == 'c' and 'canceled' or 'ended'
  end
  if not state then return 'unknown' end
  -- If the outcome has the id of this call, the call is repeated, because the answer to its first run was lost.
  return string.find(find_record(OUTCOME, id) or '', '{"by":"' .. by .. '"', 1, true) == 1 and 'canceled' or 'ended'
end
if rc('HEXISTS', P .. ':run', id) == 1 then
  rc('SADD', P .. ':cancel', id)
  return 'requested'
end
if failed_in(id, envelope) then return 'ended' end
-- The envelope becomes part of the outcome, so it must be valid JSON. A job with a malformed envelope is left to a worker, which
-- fails it.
if not pcall(cjson.decode, envelope) then return 'ended' end
cancel(id, envelope, now(), by)
return 'canceled'
