-- Reads queues, the ids of jobs, and workers.
-- ARGV, one of:
--   'queues', name of a queue, or no name for all queues
--   'page', queue, state, offset, count, then ids of the last jobs of the previous page, the last one first
--   'workers', longest time since the last heartbeat (ms)
-- 'queues' returns {now, {fields of a queue, ..}}; `Row::parse` in `inspect.rs` names the fields. 'page' returns {offset at which
-- the page begins, its ids}. 'workers' returns {now, {{id, record (JSON), time of the last heartbeat (ms)}, ..}}
-- Limits: how many groups of a queue are read, and by how many places a job may have moved in its list between two pages.
local MAX_GROUPS, MAX_SHIFT = 20000, 1000
if ARGV[1] == 'queues' then
  local names = {}
  if not ARGV[2] then
    names = rc('SMEMBERS', P .. ':queues')
    table.sort(names)
  elseif rc('SISMEMBER', P .. ':queues', ARGV[2]) == 1 then
    names[1] = ARGV[2]
  end
  local out = {}
  for i, q in ipairs(names) do
    local depth, oldest = rc('LLEN', P .. ':queue:' .. q), {}
    oldest[1] = rc('LINDEX', P .. ':queue:' .. q, 0) or nil
    for _, group in ipairs(rc('LRANGE', P .. ':turns:' .. q, 0, MAX_GROUPS)) do
      if group ~= '' then
        depth = depth + rc('LLEN', group_list(q, group))
        oldest[#oldest + 1] = rc('LINDEX', group_list(q, group), 0) or nil
      end
    end
    table.sort(oldest) -- ids begin with the time of their creation
    local row = { q, depth, rc('ZCARD', P .. ':scheduled:' .. q), rc('ZCARD', P .. ':deferred:' .. q),
      rc('ZCARD', P .. ':failed:' .. q), rc('SISMEMBER', P .. ':paused', q), oldest[1] or '' }
    for _, what in ipairs({ 'running', 'enqueued', 'requeued', 'finished', 'failed', 'canceled' }) do
      row[#row + 1] = tonumber(rc('HGET', P .. ':stats', q .. ':' .. what) or 0)
    end
    row[#row + 1] = rc('HGET', P .. ':limits', q .. ':concurrency') or ''
    row[#row + 1] = rc('HGET', P .. ':limits', q .. ':rate') or ''
    out[i] = row
  end
  return { now(), out }
elseif ARGV[1] == 'page' then
  local q, state, n = ARGV[2], ARGV[3], tonumber(ARGV[5])
  local function page(offset, n)
    if state == 'failed' then return rc('ZREVRANGE', P .. ':failed:' .. q, offset, offset + n - 1) end
    if state == 'scheduled' or state == 'deferred' then
      return rc('ZRANGE', P .. ':' .. state .. ':' .. q, offset, offset + n - 1)
    end
    local ids, skip = {}, offset
    local function add(more, size)
      for _, id in ipairs(more) do if #ids < n then ids[#ids + 1] = id end end
      skip = math.max(0, skip - size)
    end
    if state == 'started' then
      for _, lease in ipairs(rc('ZRANGE', P .. ':wip:' .. q, 0, CHUNK)) do
        if #ids == n then break end
        for _, id in ipairs((jobs_of(lease))) do
          if skip > 0 then skip = skip - 1 elseif #ids < n then ids[#ids + 1] = id end
        end
      end
      return ids
    end
    local lists = { P .. ':queue:' .. q }
    for _, group in ipairs(rc('LRANGE', P .. ':turns:' .. q, 0, MAX_GROUPS)) do
      if group ~= '' then lists[#lists + 1] = group_list(q, group) end
    end
    for _, list in ipairs(lists) do
      if #ids < n then add(rc('LRANGE', list, skip, skip + n - #ids - 1), rc('LLEN', list)) end
    end
    return ids
  end
  -- Returns where the page begins. Jobs may have left or joined the list since the previous page. The first of the given jobs
  -- that is found within MAX_SHIFT places shows where the previous page ended. If none is found, the page begins up to
  -- MAX_SHIFT places earlier, because repeated jobs are better than omitted ones.
  local function resume(offset)
    if #ARGV < 6 then return offset end
    local from, place = math.max(0, offset - MAX_SHIFT), {}
    for i, id in ipairs(page(from, 2 * MAX_SHIFT)) do place[id] = from + i end
    for i = 6, #ARGV do
      if place[ARGV[i]] then return place[ARGV[i]] end
    end
    return from
  end
  local offset = resume(tonumber(ARGV[4]))
  return { offset, page(offset, n) }
end
local since, out = now() - ARGV[2], {}
for i, id in ipairs(rc('ZRANGEBYSCORE', P .. ':alive', since, '+inf')) do
  out[i] = { id, rc('HGET', P .. ':card', id) or '{}', tonumber(rc('ZSCORE', P .. ':alive', id)) }
end
return { now(), out }
