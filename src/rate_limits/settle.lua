-- Adds the requests that one process has allowed to the buckets of all processes, and returns the state of each bucket.
--
-- KEYS: the buckets. A value is the time at which the bucket is full, in microseconds of this server's clock. A bucket that
-- is full has no key.
-- ARGV[1]: how far in the future a bucket may be full, in microseconds. So a jump of the clock blocks no caller for longer.
-- ARGV[2 * i]: the cost of the requests: how much later the bucket of KEYS[i] is full because of them, in microseconds.
-- ARGV[2 * i + 1]: the age of the requests, in microseconds. If the bucket was full before them, their cost counts from the time
-- that is this long ago.
-- Returns for each bucket the microseconds until it is full.
local time = redis.call('TIME')
local now, longest = tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(ARGV[1])
local missing = {}
for i, key in ipairs(KEYS) do
    local from = math.max(tonumber(redis.call('GET', key) or 0) or 0, now - tonumber(ARGV[2 * i + 1]))
    local full_at = math.min(from + tonumber(ARGV[2 * i]), now + longest)
    missing[i] = math.max(full_at - now, 0)
    if missing[i] > 0 then
        redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(missing[i] / 1000))
    end
end
return missing
