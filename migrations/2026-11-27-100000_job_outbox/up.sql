-- Jobs that transactions enqueue. A row is written in the transaction, and deleted when the queue has the job. The table
-- `outbox` stays for the messages that release 0.1.0 writes.
CREATE TABLE job_outbox (
    -- The id of the job: a UUID of version 7, so the order of the ids is that of the time.
    id            UUID PRIMARY KEY,
    queue         TEXT NOT NULL,
    task          TEXT NOT NULL,
    -- The user who owns the job. Without a foreign key: when a user is deactivated, deleted or scheduled for deletion,
    -- the purge of the user's jobs deletes the row.
    owner         BIGINT,
    -- The JSON that Redis gets. Text, because JSONB would not keep its bytes.
    envelope      TEXT NOT NULL,
    -- Not JSONB, which refuses the character U+0000.
    options       JSON NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- When the claim of a relay ends. A relay is a task that enqueues jobs. Other relays skip the row until then.
    claimed_until TIMESTAMPTZ,
    -- When a relay first claimed the row. From then on, the queue may have the job.
    tried_at      TIMESTAMPTZ,
    -- When the row was set aside, because the queue refuses the job, the relay cannot read it, or it may already have run.
    -- No relay claims the row.
    set_aside_at  TIMESTAMPTZ
    -- Most rows are deleted within milliseconds. By default, autovacuum of a large table would wait until a fifth of it is dead
    -- rows, which queries would read meanwhile.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX job_outbox_owner_idx ON job_outbox (owner) WHERE owner IS NOT NULL;
CREATE INDEX job_outbox_set_aside_idx ON job_outbox (id) WHERE set_aside_at IS NOT NULL;
