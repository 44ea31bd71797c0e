-- When a message was set aside, because it was at least a day old and could not be read. It stays in the table, but is not read
-- again.
ALTER TABLE outbox ADD COLUMN set_aside_at TIMESTAMPTZ;
