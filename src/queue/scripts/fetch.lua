-- Takes jobs for a worker, leases them and marks them running, in one step.
-- ARGV: worker, token, lease (ms), max, queues.. (first come first)
-- Returns {now, {{queue, ids, envelopes, failures, crashes}, ..}}
local worker, token, lease, max = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local t, out, paused = now(), {}, {}
-- Given up by its worker before it arrived: nobody would run what it took.
if rc('EXISTS', P .. ':void:' .. token) == 1 then return { t, out } end
for _, q in ipairs(rc('SMEMBERS', P .. ':paused')) do paused[q] = true end
for a = 5, #ARGV do
  local q = ARGV[a]
  while max > 0 and not paused[q] do
    local want = math.min(max, CHUNK)
    local ids = rc('LPOP', P .. ':queue:' .. q, want)
    if not ids then break end
    local popped, envelopes = #ids, rc('HMGET', P .. ':jobs', unpack(ids))
    local live, texts = {}, {}
    for i = 1, popped do
      if envelopes[i] then live[#live + 1], texts[#texts + 1] = ids[i], envelopes[i] end
    end
    if #live > 0 then
      local mine, run = token .. '.' .. #out, {}
      local holder = mine .. '|' .. worker .. '|' .. t
      for i = 1, #live do run[2 * i - 1], run[2 * i] = live[i], holder end
      rc('HSET', P .. ':run', unpack(run))
      rc('ZADD', P .. ':wip:' .. q, t + lease, mine .. '|' .. table.concat(live, ','))
      out[#out + 1] = { q, live, texts, rc('HMGET', P .. ':att', unpack(live)), rc('HMGET', P .. ':crash', unpack(live)) }
      max = max - #live
    end
    if popped < want then break end
  end
  if not paused[q] and rc('EXISTS', P .. ':queue:' .. q) == 1 then wake(q) end
end
return { t, out }
