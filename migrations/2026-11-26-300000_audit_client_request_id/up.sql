-- `request_id` is the id that the server has given to the request. The client may have sent another one, which is here.
-- Entries of earlier releases have the client's id in `request_id`.
ALTER TABLE audit_log ADD COLUMN client_request_id TEXT;
