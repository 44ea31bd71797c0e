-- The jobs of organizations. A row is written in the transaction that enqueues the job, and is deleted after 30 days, or with
-- the organization. It says to which organization the job belongs. The state and the result of the job are in Redis.
CREATE TABLE org_jobs (
    org_id     BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE,
    -- The id of the job: a UUID of version 7, so the order of the ids is that of the time.
    id         UUID NOT NULL,
    task       TEXT NOT NULL,
    -- The member who has enqueued the job, or whose API key has. Null if the account was deleted.
    created_by BIGINT REFERENCES users ON DELETE SET NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id)
);

CREATE INDEX org_jobs_task_idx ON org_jobs (org_id, task, id);
CREATE INDEX org_jobs_created_by_idx ON org_jobs (created_by);
-- Finds the old rows to delete.
CREATE INDEX org_jobs_created_at_idx ON org_jobs (created_at);

SELECT tenant_table('org_jobs');
