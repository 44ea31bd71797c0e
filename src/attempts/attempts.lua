#!lua flags=allow-oom
-- Counts failed attempts, and returns how long the next attempt has to wait. The flag `allow-oom` lets the
-- script run when Redis is out of memory. Without the flag, a client could stop the counting by filling Redis.
--
-- KEYS: for each counter, the set that holds it. A set has at most WAYS entries, with the keys `<set>:1` to `<set>:<WAYS>`.
-- An entry is a hash with the fields `id` (of the counter), `count` (failures), `until` (end of the wait) and `expires` (end
-- of the entry). Both times are Unix times in seconds. In a full set, a new counter replaces the entry with the fewest
-- failures, so the number of keys is bounded. Entries have no time to live, so that the eviction policies `volatile-*` do not
-- evict them; the field `expires` replaces the time to live.
-- ARGV[1]: the operation. Then four arguments per counter: its id, attempts before the first wait, longest wait in seconds,
-- and seconds from the last failure to the expiry of the entry.
-- `check`: only returns the wait.
-- `acquire`: counts the attempt as failed if it is allowed.
-- `fail`: counts a failure. The last free attempt sets a wait of a second, and each further failure doubles the wait up to the
-- longest.
-- `reset`: deletes the counters.
-- Returns the seconds to wait, and the number of the counter with the longest wait, counted from 1. Both are 0 if an attempt is
-- allowed, and for `fail` and `reset`.
local WAYS = 4
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6

-- Returns three values: the key of the counter's entry, or of the entry that it replaces; the number of
-- failures; and the end of the wait.
local function find(set, id)
    local free, fewest
    for way = 1, WAYS do
        local key = set .. ':' .. way
        local entry = redis.call('HMGET', key, 'id', 'count', 'until', 'expires')
        local is_live = entry[1] and tonumber(entry[4]) > now
        local count = is_live and tonumber(entry[2]) or 0
        if is_live and entry[1] == id then
            return key, count, tonumber(entry[3] or '0')
        end
        if not fewest or count < fewest then
            free, fewest = key, count
        end
    end
    return free, 0, 0
end

local operation, wait, slowest = ARGV[1], 0, 0
local entries = {}
for i, set in ipairs(KEYS) do
    local key, count, ends = find(set, ARGV[4 * i - 2])
    entries[i] = { key = key, count = count }
    if operation == 'check' or operation == 'acquire' then
        local own = math.ceil(ends - now)
        if own > wait then
            wait, slowest = own, i
        end
    end
end
for i, entry in ipairs(entries) do
    local id, free = ARGV[4 * i - 2], tonumber(ARGV[4 * i - 1])
    local longest, ttl = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
    if operation == 'reset' and entry.count > 0 then
        redis.call('DEL', entry.key)
    elseif operation == 'fail' or (operation == 'acquire' and wait == 0) then
        if entry.count == 0 then
            redis.call('DEL', entry.key)
        end
        local count = entry.count + 1
        redis.call('HSET', entry.key, 'id', id, 'count', count, 'expires', now + ttl)
        if count >= free then
            redis.call('HSET', entry.key, 'until', now + math.min(longest, 2 ^ math.min(count - free, 30)))
        end
    end
end
return { wait, slowest }
