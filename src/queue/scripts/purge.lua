-- Deletes the jobs of a queue that are in one state, a limited number in each call. Keeps jobs that were created or, if the state
-- is `failed`, have failed after the purge started.
-- ARGV:
--   queue
--   state (queued, scheduled, deferred, failed)
--   about how many ids to examine (up to 1,000)
--   when the purge started (ms)
--   a text that sorts after each id that was created by then
--   then the remaining work that the previous call returned; nothing in the first call
-- Returns {number of deleted jobs, {remaining work, empty at the end}}
local q, state, max, started_at, last_id = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local from = P .. ':' .. state .. ':' .. q
local ids, remaining, deleted = {}, {}, 0

-- Adds the jobs that were created before the purge started to `ids`, and returns the newer jobs.
local function select_old(found)
  local new = {}
  for _, id in ipairs(found) do
    if id <= last_id then ids[#ids + 1] = id else new[#new + 1] = id end
  end
  return new
end

if state == 'failed' then
  ids = rc('ZRANGEBYSCORE', from, '-inf', started_at, 'LIMIT', 0, max)
  if #ids == max then remaining[1] = 'more' end
elseif state == 'queued' then
  -- First, all lists are renamed, in several calls if there are many. Jobs that are enqueued after their list was renamed go to
  -- a new list, which is not examined. Each renamed list is then purged from its end. It may have jobs that were enqueued
  -- between the start of the purge and the renaming: these go back to the front of their queue or group. A renamed list is a
  -- normal group: workers fetch from it, even if the purge never continues.
  local turns, lists, at, examined, moved = P .. ':turns:' .. q, {}, 1, 0, tonumber(ARGV[6] or 0)
  local function moved_name(group) return 'purged up to ' .. last_id .. ' ' .. group end
  if not ARGV[6] then
    lists = rc('LRANGE', turns, 0, -1)
    if #lists == 0 then lists[1] = '' end
  end
  for i = 7, #ARGV do lists[i - 6] = ARGV[i] end
  while examined < max and moved < #lists do
    moved, examined = moved + 1, examined + 1
    local group = lists[moved]
    local list, name = group == '' and P .. ':queue:' .. q or group_list(q, group), moved_name(group)
    -- The renamed list exists already if this call is repeated because its answer was lost.
    if rc('EXISTS', list) == 1 and rc('RENAMENX', list, group_list(q, name)) == 1 then
      if group ~= '' then rc('LREM', turns, 1, group) end
      if rc('EXISTS', turns) == 0 then rc('RPUSH', turns, '') end
      rc('RPUSH', turns, name)
    end
  end
  while examined < max and lists[at] do
    local name = moved_name(lists[at])
    local found = rc('RPOP', group_list(q, name), max - examined) or {}
    examined = examined + #found
    local new = select_old(found)
    if #new > 0 then make_ready(q, new, true) end
    if rc('EXISTS', group_list(q, name)) == 0 then
      rc('LREM', turns, 1, name)
      at, examined = at + 1, examined + 1
    end
  end
  if lists[at] then remaining[1] = integer(moved - at + 1) end
  for i = at, #lists do remaining[#remaining + 1] = lists[i] end
else
  -- Scheduled and deferred jobs are sorted by their due times, so jobs that were created after the purge started may come before
  -- others. ZSCAN finds each job that stays in the set from the first to the last call.
  local cursor, with_scores = unpack(rc('ZSCAN', from, ARGV[6] or 0, 'COUNT', max))
  local found = {}
  for i = 1, #with_scores, 2 do found[#found + 1] = with_scores[i] end
  select_old(found)
  if cursor ~= '0' then remaining[1] = cursor end
end
if #ids > 0 then
  if state ~= 'queued' then rc('ZREM', from, unpack(ids)) end
  -- A list may have ids of jobs that were canceled before.
  for _, envelope in ipairs(rc('HMGET', P .. ':jobs', unpack(ids))) do
    if envelope then deleted = deleted + 1 end
  end
  release_keys(ids)
  delete_jobs(ids)
  if state ~= 'failed' then
    count(q, 'canceled', deleted)
    notify_dependents(ids, false)
  end
end
-- This script notifies dependents only at the end. Otherwise this purge could delete dependents that become ready in lists that
-- are still to be examined.
if #remaining == 0 then process_notifications(100, now()) end
return { deleted, remaining }
