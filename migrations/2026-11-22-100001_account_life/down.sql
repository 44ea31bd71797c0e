DROP TABLE outbox;
DROP TABLE recovery_codes;
DROP TABLE two_factor;
DROP TABLE one_time_tokens;
DROP INDEX users_search_idx;
DROP INDEX users_admins_idx;
DROP INDEX users_created_at_idx;
DROP INDEX users_deletion_due_at_idx;
-- The extension pg_trgm stays, because other objects may use it.
-- The old schema requires a hash. No known password has this one, so the user cannot log in with a password.
UPDATE users SET hashed_password = '$2b$12$abcdefghijklmnopqrstuu1234567890ABCDEFGHIJKLMNOPQRSTS'
    WHERE hashed_password IS NULL;
ALTER TABLE users
    DROP COLUMN deletion_due_at,
    DROP COLUMN password_set_at,
    DROP COLUMN pending_email,
    DROP COLUMN email_verified_at,
    ALTER COLUMN hashed_password SET NOT NULL;
