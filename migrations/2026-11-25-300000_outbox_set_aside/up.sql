-- When a message that no release could read was set aside. It is not handed over any more.
ALTER TABLE outbox ADD COLUMN set_aside_at TIMESTAMPTZ;
