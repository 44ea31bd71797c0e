-- When an unreadable message was set aside. It is not enqueued any more.
ALTER TABLE outbox ADD COLUMN set_aside_at TIMESTAMPTZ;
