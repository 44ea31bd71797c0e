DROP TABLE outbox;
DROP TABLE recovery_codes;
DROP TABLE two_factor;
DROP TABLE one_time_tokens;
DROP INDEX users_search_idx;
DROP INDEX users_admins_idx;
DROP INDEX users_created_at_idx;
DROP INDEX users_deletion_due_at_idx;
-- pg_trgm stays: others may have come to use it.
-- Nobody can sign in with this: it is no hash of anything.
UPDATE users SET hashed_password = '' WHERE hashed_password IS NULL;
ALTER TABLE users
    DROP COLUMN deletion_due_at,
    DROP COLUMN email_verified_at,
    ALTER COLUMN hashed_password SET NOT NULL;
