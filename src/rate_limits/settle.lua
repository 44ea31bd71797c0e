-- Adds the requests that one process has allowed to the buckets of all processes, and returns the state of each bucket.
--
-- KEYS: the buckets. A value is the time at which the bucket is full, in microseconds of this server's clock. A bucket that
-- is full has no key.
-- ARGV[1]: how far in the future a bucket may be full, in microseconds. So a jump of the clock blocks no caller for longer.
-- ARGV[i + 1]: the cost of the requests: how much later the bucket of KEYS[i] is full because of them, in microseconds.
-- Returns for each bucket the microseconds until it is full.
local time = redis.call('TIME')
local now, longest = tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(ARGV[1])
local missing = {}
for i, key in ipairs(KEYS) do
    local full_at = math.max(tonumber(redis.call('GET', key) or 0) or 0, now)
    full_at = math.min(full_at + tonumber(ARGV[i + 1]), now + longest)
    missing[i] = full_at - now
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(missing[i] / 1000))
end
return missing
