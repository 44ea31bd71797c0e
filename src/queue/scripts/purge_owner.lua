-- Deletes the waiting and failed jobs of an owner, and tells the running ones to stop, some in each call.
-- ARGV: owner, how many to examine (up to 1,000), 'lists' at first, then what the previous call returned as remaining work
-- Returns {number of deleted jobs, number of jobs told to stop, remaining work, '' at the end}
local group, max = 'owner:' .. ARGV[1], tonumber(ARGV[2])
local account, deleted, stopped = account_of(group), 0, 0
-- How near either end of the list of a scope an id is removed. Deeper in the list, which has jobs of other owners too, the id
-- stays, and fetches skip it.
local SCOPE_DEPTH = 500

local function delete(ids)
  local canceled, gone = {}, {}
  for _, id in ipairs(ids) do
    local envelope = rc('HGET', P .. ':jobs', id)
    if envelope then
      gone[#gone + 1] = id
      local q = queue_of(envelope)
      -- A failed job already counts in the total `failed`.
      if rc('ZREM', P .. ':failed:' .. q, id) == 0 then
        rc('ZREM', P .. ':scheduled:' .. q, id)
        rc('ZREM', P .. ':deferred:' .. q, id)
        local whole = rc('HGET', P .. ':group', id)
        if whole and whole ~= group then remove_ready(q, whole, id, SCOPE_DEPTH) end
        count(q, 'canceled', 1)
        canceled[#canceled + 1] = id
      end
    end
  end
  if #gone == 0 then return end
  release_keys(gone)
  delete_jobs(gone)
  if #canceled > 0 then notify_dependents(canceled, false) end
  deleted = deleted + #gone
end

if ARGV[3] == 'lists' then
  local ids = rc('LPOP', account .. ':failed', max) or {}
  for _, q in ipairs(rc('SMEMBERS', P .. ':queues')) do
    local list = group_list(q, group)
    for _, id in ipairs(#ids < max and rc('LPOP', list, max - #ids) or {}) do ids[#ids + 1] = id end
    if rc('EXISTS', list) == 0 then rc('LREM', P .. ':turns:' .. q, 1, group) end
  end
  delete(ids)
  process_notifications(100, now())
  return { deleted, 0, #ids == max and 'lists' or '0' }
end
-- The remaining jobs of the owner are running, scheduled, deferred or of a scope.
local cursor, found = unpack(rc('HSCAN', account, ARGV[3], 'COUNT', max))
local ids = {}
for i = 1, #found, 2 do
  local id = found[i]
  if rc('HEXISTS', P .. ':run', id) == 1 then
    stopped = stopped + rc('SADD', P .. ':cancel', id)
  elseif not SUMS[id] then
    ids[#ids + 1] = id
  end
end
for base = 1, #ids, CHUNK do delete({ unpack(ids, base, math.min(base + CHUNK - 1, #ids)) }) end
local notifying = process_notifications(100, now())
if cursor == '0' then
  -- Dependents of the deleted jobs have failed, so they are in the list of failed jobs now.
  cursor = (notifying or rc('EXISTS', account .. ':failed') == 1) and 'lists' or ''
end
return { deleted, stopped, cursor }
