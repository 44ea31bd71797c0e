-- Counts the attempts with a code of a user in the current window since the last successful attempt or reset of the password,
-- over all logins and operations, to limit how many codes can be guessed.
ALTER TABLE two_factor
    ADD COLUMN failures INTEGER NOT NULL DEFAULT 0,
    -- When the current window of 15 minutes began. The first attempt after its end begins a new window and a new count.
    ADD COLUMN failures_since TIMESTAMPTZ NOT NULL DEFAULT now();
