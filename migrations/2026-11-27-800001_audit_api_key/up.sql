-- The API key by which the actor made the change. Without a foreign key: an entry outlives its key.
ALTER TABLE audit_log ADD COLUMN api_key_id BIGINT;
