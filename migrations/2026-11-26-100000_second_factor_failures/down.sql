ALTER TABLE two_factor DROP COLUMN failures_since, DROP COLUMN failures;
