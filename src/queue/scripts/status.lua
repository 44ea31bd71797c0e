-- Reads the status of jobs. The payload, the last field of an envelope, is omitted from a large one, and the result from a
-- large outcome.
-- ARGV: largest envelope (bytes), 0 to omit all payloads; largest outcome (bytes), 0 to omit all results; ids..
-- Returns for each {state, envelope, failures, crashes, error, progress, holder or time}, {'done', state, outcome or '' if
--   that is no longer kept}, or {} if unknown
local max_bytes, max_outcome = tonumber(ARGV[1]), tonumber(ARGV[2])
-- Removes the payload from an envelope that is followed by `tail`. In a JSON string, a backslash precedes each quote, so the
-- text of another field does not match.
local function without_payload(text, tail)
  local from = #text > max_bytes and string.find(text, ',"payload":', 1, true)
  return from and string.sub(text, 1, from) .. '"payload":null}' .. tail or text
end
-- Removes the result from an outcome. Only numbers follow it, unless there is a reason, and then there is no result.
local function without_result(text)
  local from = #text > max_outcome and string.find(text, ',"r":', 1, true)
  local rest = from and string.match(text, ',"n":%d+,[^{}%[%]]*}$')
  return rest and string.sub(text, 1, from - 1) .. rest or text
end
local function read(id)
  local envelope = rc('HGET', P .. ':jobs', id)
  if not envelope then
    local state = find_record(STATE, id)
    if not state then return {} end
    local text = find_record(OUTCOME, id) or ''
    -- Only the outcome of a job that was canceled while it waited has an envelope, at its end.
    local has_envelope = string.find(text, '{"by":"', 1, true) == 1
    return { 'done', state, has_envelope and without_payload(text, '}') or without_result(text) }
  end
  local out = { 'queued', without_payload(envelope, '') }
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
for i = 3, #ARGV do all[i - 2] = read(ARGV[i]) end
return all
