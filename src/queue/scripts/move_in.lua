-- Adds the records that `move_out` has taken out of another prefix or server. Each batch is added once, however often it is
-- sent: the hash `moved` has the number of the last batch of each move. The number is kept after the end of a move, because
-- another process may still send one of its batches.
-- ARGV: id of the move, number of the batch, records..
-- Returns {number of jobs, number of ended jobs} in the batch
local MOVE = ARGV[1]
local REMEMBERED = 30 * DAY -- how long after its last batch a move can at least be continued
local FIELDS = { 'att', 'crash', 'err', 'unknown', 'group', 'key', 'waits' }
local add = {}

function add.settings(record)
  for _, q in ipairs(record.queues) do rc('SADD', P .. ':queues', q) end
  for _, q in ipairs(record.paused) do rc('SADD', P .. ':paused', q) end
  -- Settings that this prefix already has remain.
  for _, name in ipairs({ 'limits', 'cron' }) do
    local all = record[name]
    for i = 1, #all, 2 do rc('HSETNX', P .. ':' .. name, all[i], all[i + 1]) end
  end
  for i = 1, #record.stats, 2 do rc('HINCRBY', P .. ':stats', record.stats[i], record.stats[i + 1]) end
end

function add.job(job)
  if rc('HEXISTS', P .. ':jobs', job.id) == 1 or find_record(STATE, job.id) then return end
  rc('HSET', P .. ':jobs', job.id, job.envelope)
  for _, field in ipairs(FIELDS) do
    if job[field] then rc('HSET', P .. ':' .. field, job.id, job[field]) end
  end
  if job.unique_ms then rc('SET', P .. ':uniq:' .. job.key, job.id, 'NX', 'PX', math.max(1, job.unique_ms)) end
  for base = 1, #job.dependents, CHUNK do
    rc('RPUSH', P .. ':then:' .. job.id, unpack(job.dependents, base, math.min(base + CHUNK - 1, #job.dependents)))
  end
  if #job.dependents > 0 then rc('HSET', P .. ':then', job.id, #job.dependents) end
  local account = account_of(job.group)
  if account and job.place == 'failed' then rc('RPUSH', account .. ':failed', job.id)
  elseif account then charge(account, { job.id, #job.envelope }) end
  rc('SADD', P .. ':queues', job.queue)
  if job.place == 'ready' then make_ready(job.queue, { job.id })
  else rc('ZADD', P .. ':' .. job.place .. ':' .. job.queue, job.at, job.id) end
end

-- Adds the state or the outcome of an ended job.
function add.record(record)
  local bucket = P .. record.of .. record.bucket
  rc('ZADD', P .. record.of, 'NX', record.last, bucket)
  if rc('HSETNX', bucket, record.field, record.text) == 1 and record.of == OUTCOME then
    rc('HINCRBY', P .. ':bytes', bucket, #record.text)
  end
  rc('PEXPIREAT', bucket, integer(record.last + string.match(record.bucket, '^:(%d+):') + 60000))
end

function add.key(record)
  local key = P .. ':' .. record.name
  if string.find(record.name, '^uniq:') then
    rc('SET', key, record.value, 'NX', 'PX', record.ttl)
  elseif tonumber(record.value) > tonumber(rc('GET', key) or 0) then
    -- The value is a time: when the token bucket of a rate limit will be full again or, for `forgotten`, the latest end of a
    -- job whose state was deleted early. The later time is kept.
    rc('SET', key, record.value, 'PX', record.ttl)
  end
end

local records, jobs, ended = {}, 0, 0
for i = 3, #ARGV do
  local record = cmsgpack.unpack(ARGV[i])
  records[i - 2] = record
  if record.kind == 'job' then jobs = jobs + 1 elseif record.of == STATE then ended = ended + 1 end
end
if tonumber(rc('HGET', P .. ':moved', MOVE) or 0) < tonumber(ARGV[2]) then
  for _, record in ipairs(records) do add[record.kind](record) end
  rc('HSET', P .. ':moved', MOVE, ARGV[2])
  rc('PEXPIREAT', P .. ':moved', integer(now() + REMEMBERED))
end
return { jobs, ended }
