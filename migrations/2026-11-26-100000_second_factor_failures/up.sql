-- Counts the wrong codes of a user, over all logins and operations, to limit how many codes can be guessed.
ALTER TABLE two_factor
    ADD COLUMN failures INTEGER NOT NULL DEFAULT 0,
    -- The time of the first of these failures. The count starts again 15 minutes later.
    ADD COLUMN failures_since TIMESTAMPTZ NOT NULL DEFAULT now();
