-- Pauses, resumes or limits a queue.
-- ARGV: queue, then pause, resume, or a limit (concurrency, rate) and its value, '' for none
local q, what, value = ARGV[1], ARGV[2], ARGV[3]
if what == 'pause' or value ~= '' then rc('SADD', P .. ':queues', q) end
if what == 'pause' then rc('SADD', P .. ':paused', q)
elseif what == 'resume' then rc('SREM', P .. ':paused', q)
elseif value == '' then rc('HDEL', P .. ':limits', q .. ':' .. what)
else rc('HSET', P .. ':limits', q .. ':' .. what, value) end
if has_ready(q) then wake(q) end
