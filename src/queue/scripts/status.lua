-- Reads the status of jobs. The payload, the last field of an envelope, is omitted from a large one.
-- ARGV: largest envelope (bytes), ids..
-- Returns for each {state, envelope, failures, crashes, error, progress, holder or time}, {'done', outcome}, or {} if unknown
local max_bytes = tonumber(ARGV[1])
local function read(id)
  local envelope = rc('HGET', P .. ':jobs', id)
  if not envelope then
    local text = outcome(id)
    return text and { 'done', text } or {}
  end
  if #envelope > max_bytes then
    local from = string.find(envelope, ',"payload":', 1, true)
    if from then envelope = string.sub(envelope, 1, from) .. '"payload":null}' end
  end
  local out = { 'queued', envelope }
  for _, key in ipairs({ ':att', ':crash', ':err', ':prog', ':run' }) do out[#out + 1] = rc('HGET', P .. key, id) end
  if out[7] then
    out[1] = 'started'
    return out
  end
  local q = failed_in(id, envelope) or queue_of(envelope)
  for _, state in ipairs({ 'failed', 'scheduled', 'deferred' }) do
    local at = rc('ZSCORE', P .. ':' .. state .. ':' .. q, id)
    if at then out[1], out[7] = state, at end
  end
  return out
end
local all = {}
for i = 2, #ARGV do all[i - 1] = read(ARGV[i]) end
return all
