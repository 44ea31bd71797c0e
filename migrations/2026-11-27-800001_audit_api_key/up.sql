-- The API key with which the actor made the change. Null for a change without an API key. Without a foreign key: an entry
-- outlives its API key.
ALTER TABLE audit_log ADD COLUMN api_key_id BIGINT;
