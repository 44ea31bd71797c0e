-- Changes the settings of a queue: whether it is paused, and its limits.
-- ARGV:
--   queue
--   the settings that the caller expects, as `paused|concurrency|rate`; '' to change the queue whatever its settings are
--   then pairs of a setting (paused, concurrency or rate) and its new value. `paused` is '1' or ''; for a limit, '' is none
-- Returns 1 if the queue has the new values now. Returns 0, and changes nothing, if its settings are not the expected ones. A
-- repeated call finds the changes of its first run, so it also returns 1 if the queue has all new values already.
local q, required = ARGV[1], ARGV[2]
local function value_of(what)
  if what == 'paused' then return rc('SISMEMBER', P .. ':paused', q) == 1 and '1' or '' end
  return rc('HGET', P .. ':limits', q .. ':' .. what) or ''
end
if required ~= '' then
  local is_done = true
  for i = 3, #ARGV, 2 do is_done = is_done and value_of(ARGV[i]) == ARGV[i + 1] end
  local found = value_of('paused') .. '|' .. value_of('concurrency') .. '|' .. value_of('rate')
  if found ~= required and not is_done then return 0 end
end
for i = 3, #ARGV, 2 do
  local what, value = ARGV[i], ARGV[i + 1]
  if value ~= '' then rc('SADD', P .. ':queues', q) end
  if what == 'paused' then rc(value == '' and 'SREM' or 'SADD', P .. ':paused', q)
  elseif value == '' then rc('HDEL', P .. ':limits', q .. ':' .. what)
  else rc('HSET', P .. ':limits', q .. ':' .. what, value) end
end
if has_ready(q) then wake(q) end
return 1
