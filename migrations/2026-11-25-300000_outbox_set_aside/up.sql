-- When a message was set aside, because no running release could read it for a day. It stays in the table, but is not read again.
ALTER TABLE outbox ADD COLUMN set_aside_at TIMESTAMPTZ;
