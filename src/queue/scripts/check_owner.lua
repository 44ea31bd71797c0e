-- Checks whether an owner may enqueue more jobs. Changes nothing, except that it corrects an account as a push does.
-- ARGV: id of the owner, number of new jobs, their size (bytes), limit of the jobs of an owner, limit of their bytes, limit
--   of jobs that an owner enqueues in an hour ('' for none); then the id and the size of each job that may have been pushed
-- Such a job counts as a new job if it has neither been pushed nor ended.
-- Returns 1, or the error QUOTA as a push does
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
