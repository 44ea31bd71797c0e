-- Checks whether an owner may enqueue more jobs. Counts no job, but may correct the sums of the account, like a push.
-- ARGV:
--   id of the owner
--   number of new jobs
--   their total size (bytes)
--   limit of the owner's waiting and running jobs
--   limit of the total size of these jobs (bytes)
--   limit of the jobs that the owner enqueues in an hour ('' for none)
--   then pairs of (id, size) of prepared jobs that may have been pushed. Each of them that is unknown counts as a new job
-- Returns 1, or one of the errors `QUOTA ..` of `push`
local account, t = P .. ':owner:' .. ARGV[1], now()
local jobs, bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 7, #ARGV, 2 do
  if rc('HEXISTS', P .. ':jobs', ARGV[i]) == 0 and not find_record(STATE, ARGV[i]) then
    jobs, bytes = jobs + 1, bytes + tonumber(ARGV[i + 1])
  end
end
local what = exceeded_limit(account, jobs, bytes, tonumber(ARGV[4]), tonumber(ARGV[5]), t)
if what then return redis.error_reply('QUOTA ' .. what) end
local max_rate = tonumber(ARGV[6])
local wait = max_rate and pace_of(account, jobs, max_rate, t) or 0
if wait > 0 then return redis.error_reply('QUOTA rate ' .. integer(wait)) end
return 1
