-- Where a job stands.
-- ARGV: id
-- Returns {state, envelope or outcome, failures, crashes, error, progress, holder or time}; {} where unknown
local id = ARGV[1]
local envelope = rc('HGET', P .. ':jobs', id)
if not envelope then
  local text = outcome(id)
  return text and { 'done', text } or {}
end
local out = { '', envelope, rc('HGET', P .. ':att', id), rc('HGET', P .. ':crash', id), rc('HGET', P .. ':err', id),
  rc('HGET', P .. ':prog', id), false }
local holder = rc('HGET', P .. ':run', id)
if holder then
  out[1], out[7] = 'started', holder
  return out
end
local ok, decoded = pcall(cjson.decode, envelope)
local q = ok and decoded.queue or ''
local died = rc('ZSCORE', P .. ':failed:' .. q, id)
local due = rc('ZSCORE', P .. ':scheduled:' .. q, id)
if died then out[1], out[7] = 'failed', died
elseif due then out[1], out[7] = 'scheduled', due
else out[1] = 'queued' end
return out
