-- Where jobs stand.
-- ARGV: ids..
-- Returns for each {state, envelope or outcome, failures, crashes, error, progress, holder or time}; {} if unknown
local function look(id)
  local envelope = rc('HGET', P .. ':jobs', id)
  if not envelope then
    local text = outcome(id)
    return text and { 'done', text } or {}
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
for i, id in ipairs(ARGV) do all[i] = look(id) end
return all
