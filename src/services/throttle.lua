-- Counts failed attempts, and returns how long the next attempt has to wait.
--
-- KEYS: one hash per rule with the fields `count` (failures) and `until` (end of the wait, Unix time in seconds).
-- ARGV[1]: the operation. Then three arguments per key: attempts before the first wait, longest wait in seconds, and
-- seconds from the last failure to the expiry of the key.
-- `check`: counts nothing.
-- `acquire`: counts the attempt as failed if it is allowed.
-- `fail`: counts a failure. After the free attempts, each failure doubles the wait up to the longest.
-- `reset`: deletes the counters.
-- Returns the seconds to wait: 0 if an attempt is allowed, and for `fail` and `reset`.
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local operation, wait = ARGV[1], 0
if operation == 'check' or operation == 'acquire' then
    for _, key in ipairs(KEYS) do
        wait = math.max(wait, math.ceil(tonumber(redis.call('HGET', key, 'until') or '0') - now))
    end
end
for i, key in ipairs(KEYS) do
    if operation == 'reset' then
        redis.call('DEL', key)
    elseif operation == 'fail' or (operation == 'acquire' and wait == 0) then
        local free, longest, ttl = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
        local count = redis.call('HINCRBY', key, 'count', 1)
        if count >= free then
            local seconds = math.min(longest, 2 ^ math.min(count - free, 30))
            redis.call('HSET', key, 'until', now + seconds)
        end
        redis.call('EXPIRE', key, ttl)
    end
end
return wait
