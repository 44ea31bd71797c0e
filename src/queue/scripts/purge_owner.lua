-- Deletes the waiting and failed jobs of an owner, and tells the running jobs to stop, a limited number in each call.
-- ARGV: id of the owner, about how many jobs to examine (up to 1,000), remaining work ('lists' in the first call, then the third
--   value that the previous call returned)
-- Returns {number of deleted jobs, number of jobs told to stop, remaining work, which is '' at the end}
local group, max = 'owner:' .. ARGV[1], tonumber(ARGV[2])
local account, deleted, stopped = account_of(group), 0, 0
-- An id is removed from the list of a scope only if it is among this number of first or last entries: the list also has jobs of
-- other owners, and a search of a long list blocks Redis. Otherwise the id stays in the list, and `fetch` skips it.
local SCOPE_DEPTH = 500

local function delete(ids)
  local canceled, gone = {}, {}
  for _, id in ipairs(ids) do
    local envelope = rc('HGET', P .. ':jobs', id)
    if envelope then
      gone[#gone + 1] = id
      local q = queue_of(envelope)
      -- A failed job counts in the total `failed` already, so it is not counted as canceled.
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
-- The account still has the other jobs, such as those that are running, scheduled or deferred, or have a scope.
local cursor, found = unpack(rc('HSCAN', account, ARGV[3], 'COUNT', max))
local ids = {}
for i = 1, #found, 2 do
  local id = found[i]
  if rc('HEXISTS', P .. ':run', id) == 1 then
    stopped = stopped + rc('SADD', P .. ':cancel', id)
  elseif not ACCOUNT_FIELDS[id] then
    ids[#ids + 1] = id
  end
end
for base = 1, #ids, CHUNK do delete({ unpack(ids, base, math.min(base + CHUNK - 1, #ids)) }) end
local notifying = process_notifications(100, now())
if cursor == '0' then
  -- Dependents of the deleted jobs may fail when they are notified. A failed job of this owner is then in the owner's list of
  -- failed jobs, so the lists are examined again.
  cursor = (notifying or rc('EXISTS', account .. ':failed') == 1) and 'lists' or ''
end
return { deleted, stopped, cursor }
