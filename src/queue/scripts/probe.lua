-- Checks the permissions of the Redis user for commands and keys. If none is missing, writes a key and deletes it, to check that
-- the server accepts writes.
-- ARGV: commands without a key that only some settings of the product need
-- Returns {the commands that the user may not run, 1 if keys that begin with the prefix and a colon are refused, else 0}
local key, missing, keys_refused = P .. ':probe', {}, 0
-- The commands of the scripts in this folder and in `src/attempts` and `src/rate_limits`, then two commands that no script runs:
-- PSETEX, for the cache among others, and BZPOPMIN, for the notifier of a worker. SCAN is not checked, because only
-- `saas queue move` cannot work without it.
local COMMANDS = 'DEL EXISTS GET PEXPIREAT PTTL RENAMENX SET UNLINK HDEL HEXISTS HGET HGETALL HINCRBY HLEN HMGET HRANDFIELD HSCAN HSET '
  .. 'HSETNX HSTRLEN LINDEX LLEN LPOP LPOS LPUSH LRANGE LREM RPOP RPUSH SADD SISMEMBER SMEMBERS SMISMEMBER SREM ZADD ZCARD '
  .. 'ZRANGE ZRANGEBYSCORE ZREM ZREVRANGE ZSCAN ZSCORE PSETEX BZPOPMIN'
if redis.acl_check_cmd then -- some compatible servers have no such function
  -- The user may use the key P: it is a key of this call, and Redis has checked that before it ran the script. If a command is
  -- refused for P all the same, the command itself is not permitted.
  for command in string.gmatch(COMMANDS, '%u+') do
    if not redis.acl_check_cmd(command, P, P) then missing[#missing + 1] = command
    elseif not redis.acl_check_cmd(command, key, key) then keys_refused = 1 end
  end
  for _, command in ipairs({ 'PING', 'TIME' }) do
    if not redis.acl_check_cmd(command) then missing[#missing + 1] = command end
  end
  for _, command in ipairs(ARGV) do
    if not redis.acl_check_cmd(command, '0', '0') then missing[#missing + 1] = command end
  end
  if not redis.acl_check_cmd('SCRIPT', 'LOAD', '') then missing[#missing + 1] = 'SCRIPT|LOAD' end
end
if #missing == 0 and keys_refused == 0 then
  rc('SET', key, '', 'PX', 1000)
  rc('DEL', key)
end
return { missing, keys_refused }
