-- Attempts that failed, and how long the next one has to wait.
--
-- KEYS: one per rule. ARGV[1]: what to do; then per key: free attempts, longest wait in seconds, seconds after which
-- all is forgotten.
-- `check`:  the seconds to wait, 0 where it may go on.
-- `ask`: as `check`, and counts where it may go on.
-- `failed`: counts. After the free attempts each doubles the wait, up to the longest.
-- `forget`: nothing has failed.
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local what, wait = ARGV[1], 0
if what == 'check' or what == 'ask' then
    for _, key in ipairs(KEYS) do
        wait = math.max(wait, math.ceil(tonumber(redis.call('HGET', key, 'until') or '0') - now))
    end
end
for i, key in ipairs(KEYS) do
    if what == 'forget' then
        redis.call('DEL', key)
    elseif what == 'failed' or (what == 'ask' and wait == 0) then
        local free, longest, keep = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
        local count = redis.call('HINCRBY', key, 'count', 1)
        if count >= free then
            local seconds = math.min(longest, 2 ^ math.min(count - free, 30))
            redis.call('HSET', key, 'until', now + seconds)
        end
        redis.call('EXPIRE', key, keep)
    end
end
return wait
