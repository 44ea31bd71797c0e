-- Throws jobs away, some in each call: all that were there when the purge began.
-- ARGV: queue, state (queued, scheduled, deferred, failed), most to look at (up to 1,000), when the purge began
--   (ms): what failed after that stays, and an id above the string that follows was made after that; then what the
--   call before left to do, if there was one
-- Returns {how many left the place that was purged, {what is left to do, nothing when it is over}}
local q, state, most, begun, last = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local from = P .. ':' .. state .. ':' .. q
local ids, left = {}, {}

-- Of some that were found the old ones go; answers the new.
local function part(found)
  local new = {}
  for _, id in ipairs(found) do
    if id <= last then ids[#ids + 1] = id else new[#new + 1] = id end
  end
  return new
end

if state == 'failed' then
  ids = rc('ZRANGEBYSCORE', from, '-inf', begun, 'LIMIT', 0, most)
  if #ids == most then left[1] = 'more' end
elseif state == 'queued' then
  -- All lists are moved aside first: what comes from then on need not be looked at, and may join in front. Each is then
  -- worked off from its end, and what is new in it goes back before what came since. A list that is aside is a group
  -- like others: workers take from it, and it is no more than that should nobody go on with the purge.
  local turns, lists, at, looked, moved = P .. ':turns:' .. q, {}, 1, 0, tonumber(ARGV[6] or 0)
  local function aside(group) return 'purged up to ' .. last .. ' ' .. group end
  if not ARGV[6] then
    lists = rc('LRANGE', turns, 0, -1)
    if #lists == 0 then lists[1] = '' end
  end
  for i = 7, #ARGV do lists[i - 6] = ARGV[i] end
  while looked < most and moved < #lists do
    moved, looked = moved + 1, looked + 1
    local group = lists[moved]
    local list, name = group == '' and P .. ':queue:' .. q or group_list(q, group), aside(group)
    -- It is there already after a call whose answer was lost.
    if rc('EXISTS', list) == 1 and rc('RENAMENX', list, group_list(q, name)) == 1 then
      if group ~= '' then rc('LREM', turns, 1, group) end
      if rc('EXISTS', turns) == 0 then rc('RPUSH', turns, '') end
      rc('RPUSH', turns, name)
    end
  end
  while looked < most and lists[at] do
    local name = aside(lists[at])
    local found = rc('RPOP', group_list(q, name), most - looked) or {}
    looked = looked + #found
    local new = part(found)
    if #new > 0 then ready(q, new, true) end
    if rc('EXISTS', group_list(q, name)) == 0 then
      rc('LREM', turns, 1, name)
      at, looked = at + 1, looked + 1
    end
  end
  if lists[at] then left[1] = whole(moved - at + 1) end
  for i = at, #lists do left[#left + 1] = lists[i] end
else
  -- They lie by when they are due, so that new ones may be before them: the scan finds all that stay there.
  local cursor, with_scores = unpack(rc('ZSCAN', from, ARGV[6] or 0, 'COUNT', most))
  local found = {}
  for i = 1, #with_scores, 2 do found[#found + 1] = with_scores[i] end
  part(found)
  if cursor ~= '0' then left[1] = cursor end
end
if #ids > 0 then
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
  end
end
-- Not before: whoever waited for one of these may join the lists that are yet to be looked at.
if #left == 0 then hear(100, now()) end
return { #ids, left }
