-- Attempts with wrong codes, over all challenges and operations of the user. They bound how many codes can be guessed.
ALTER TABLE two_factor
    ADD COLUMN failures INTEGER NOT NULL DEFAULT 0,
    -- The first of these failures. They are forgotten together.
    ADD COLUMN failures_since TIMESTAMPTZ NOT NULL DEFAULT now();
