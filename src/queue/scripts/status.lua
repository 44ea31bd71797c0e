-- Reads the status of jobs. Omits the payload of a large envelope, and the result of a large outcome.
-- ARGV: maximum size of an envelope with its payload (bytes), 0 to omit all payloads; maximum size of an outcome with its result
--   (bytes), 0 to omit all results; ids..
-- Returns for each id one of:
--   {} if the job is unknown
--   {'done', state, outcome or '' if no outcome is kept} if it has finished or was canceled; with a fourth value if the result is
--     omitted
--   {state, envelope, failures, crashes, error, progress, extra} for other jobs. `extra` is the holder of a running job
--     (`token|worker|started at`), the time at which a failed job has failed or a scheduled or deferred job
--     is due (ms), or nil for a queued job
local max_bytes, max_outcome = tonumber(ARGV[1]), tonumber(ARGV[2])
-- Returns `text`, which is an envelope or ends with one, without the payload if the text is large. `tail` follows the envelope.
-- The payload is the last field. A backslash precedes each quote in a JSON string, so no text of an earlier field matches.
local function without_payload(text, tail)
  local from = #text > max_bytes and string.find(text, ',"payload":', 1, true)
  return from and string.sub(text, 1, from) .. '"payload":null}' .. tail or text
end
-- Returns an outcome without its result, and 1, if the outcome is large; else the outcome. Only fields with numbers follow the
-- result: an outcome with a reason has no result.
local function without_result(text)
  local from = #text > max_outcome and string.find(text, ',"r":', 1, true)
  local rest = from and string.match(text, ',"n":%d+,[^{}%[%]]*}$')
  if rest then return string.sub(text, 1, from - 1) .. rest, 1 end
  return text
end
local function read(id)
  local envelope = rc('HGET', P .. ':jobs', id)
  if not envelope then
    local state = find_record(STATE, id)
    if not state then return {} end
    local text = find_record(OUTCOME, id) or ''
    -- Only the outcome of a job that was canceled while it waited has an envelope, at its end.
    local has_envelope = string.find(text, '{"by":"', 1, true) == 1
    if has_envelope then return { 'done', state, without_payload(text, '}') } end
    return { 'done', state, without_result(text) }
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
