-- Queues jobs. A job whose id is known already, also as one that has ended, is left as it is: a push may be
-- repeated, and its first try may arrive after the second.
-- ARGV: queue, due (0: now, else ms), n, ids.., envelopes..
-- Returns the ids that were known.
local q, due, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local buckets = rc('ZREVRANGE', P .. ':buckets', 0, -1)
local known, total = {}, 0
for base = 0, n - 1, CHUNK do
  local m = math.min(CHUNK, n - base)
  local have = rc('HMGET', P .. ':jobs', unpack(ARGV, 4 + base, 3 + base + m))
  for _, bucket in ipairs(buckets) do
    local ended = rc('HMGET', bucket, unpack(ARGV, 4 + base, 3 + base + m))
    for i = 1, m do have[i] = have[i] or ended[i] end
  end
  local envelopes, ready, seen, k = {}, {}, {}, 0
  for i = 1, m do
    local id = ARGV[3 + base + i]
    if have[i] or seen[id] then
      known[#known + 1] = id
    else
      seen[id], k = true, k + 1
      envelopes[2 * k - 1], envelopes[2 * k] = id, ARGV[3 + n + base + i]
      if due > 0 then ready[2 * k - 1], ready[2 * k] = due, id else ready[k] = id end
    end
  end
  if k > 0 then
    rc('HSET', P .. ':jobs', unpack(envelopes))
    if due > 0 then rc('ZADD', P .. ':scheduled:' .. q, unpack(ready))
    else rc('RPUSH', P .. ':queue:' .. q, unpack(ready)) end
    total = total + k
  end
end
if total > 0 then
  rc('SADD', P .. ':queues', q)
  count(q, 'enqueued', total)
  if due <= 0 then wake(q) end
end
return known
