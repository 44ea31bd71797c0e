-- Adds the use of buckets by one process to the use by all, and returns the state of each bucket.
--
-- KEYS: the buckets. A value is the time at which the bucket is full, in microseconds of this server's clock. A bucket that
-- is full has no key.
-- ARGV[1]: how far in the future that time may be, in microseconds. It bounds what a jump of the clock can do.
-- ARGV[i + 1]: the cost of the use: how much later the bucket of KEYS[i] is full because of it, in microseconds.
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
