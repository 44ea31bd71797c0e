-- The id that the client has sent in `X-Request-Id`. `request_id` is the id that the server has generated. Entries of
-- earlier releases have the id of the client in `request_id`, if the client sent one.
ALTER TABLE audit_log ADD COLUMN client_request_id TEXT;
