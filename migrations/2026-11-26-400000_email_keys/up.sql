-- The same text for all spellings of a mailbox, so that a mailbox has at most one account. The application computes it.
-- Null in rows from before this column until the application has filled them, and in those of accounts that share a
-- mailbox with an earlier one.
ALTER TABLE users ADD COLUMN email_key TEXT UNIQUE;
CREATE INDEX users_without_email_key_idx ON users (id) WHERE email_key IS NULL;

-- A client that does not know the column, such as the previous release, has changed the address: the old key is wrong.
CREATE FUNCTION clear_email_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.email_key = NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER users_clear_email_key
    BEFORE UPDATE ON users
    FOR EACH ROW WHEN (OLD.email IS DISTINCT FROM NEW.email AND OLD.email_key IS NOT DISTINCT FROM NEW.email_key)
    EXECUTE FUNCTION clear_email_key();

-- Filling the column does not count as a change of the user.
DROP TRIGGER users_set_updated_at ON users;
CREATE TRIGGER users_set_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW WHEN (
        OLD.* IS DISTINCT FROM NEW.*
        AND (OLD.email_key IS NOT DISTINCT FROM NEW.email_key OR OLD.email IS DISTINCT FROM NEW.email)
    )
    EXECUTE FUNCTION set_updated_at();
