-- Checks whether an owner may enqueue more jobs. Changes nothing, except that it corrects an account as a push does.
-- ARGV: id of the owner, number of new jobs, their size (bytes), limit of the jobs of an owner, limit of their bytes, limit
--   of jobs that an owner enqueues in an hour ('' for none)
-- Returns 1, or the error QUOTA as a push does
local account, t, jobs = P .. ':owner:' .. ARGV[1], now(), tonumber(ARGV[2])
local what = exceeded_limit(account, jobs, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), t)
if what then return redis.error_reply('QUOTA ' .. what) end
local max_rate = tonumber(ARGV[6])
local wait = max_rate and pace_of(account, jobs, max_rate, t) or 0
if wait > 0 then return redis.error_reply('QUOTA rate ' .. integer(wait)) end
return 1
