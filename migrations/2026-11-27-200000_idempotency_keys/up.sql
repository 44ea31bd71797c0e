-- The answers to requests with the header `Idempotency-Key`. An answer is written in the transaction of the change that it
-- reports. For 24 hours, a repeated request with the same key and content gets the same answer, unless its caller is
-- now refused. An answer belongs to a caller, not to an organization, so the table has no column `org_id` and no row-level
-- security policy.
CREATE TABLE idempotency_keys (
    -- The caller of the operation, such as `user:7`. Text, since not every caller is a user.
    caller      TEXT NOT NULL,
    -- The id of the operation in the API document.
    operation   TEXT NOT NULL,
    key         TEXT NOT NULL,
    -- SHA-256 of the method, path, query and body of the request, in a normalized form.
    fingerprint BYTEA NOT NULL,
    status      SMALLINT NOT NULL,
    -- An array of pairs of name and value.
    headers     JSONB NOT NULL,
    -- Text, because JSONB would not keep the bytes.
    body        TEXT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, operation, key)
);
-- Finds the old rows to delete.
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);
