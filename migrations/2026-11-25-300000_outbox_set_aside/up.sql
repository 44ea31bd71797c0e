-- When a message was set aside because no release could read it. Such a message is not enqueued.
ALTER TABLE outbox ADD COLUMN set_aside_at TIMESTAMPTZ;
