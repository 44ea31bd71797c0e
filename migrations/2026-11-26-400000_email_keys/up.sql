-- A key that is the same for all spellings of an address, so that an address has at most one account. The application
-- computes the key. In rows of earlier releases, it is null until the application has filled it in. It stays null if another
-- account has the same key, or if the address is not valid any more.
ALTER TABLE users ADD COLUMN email_key TEXT UNIQUE;
CREATE INDEX users_without_email_key_idx ON users (id) WHERE email_key IS NULL;

-- Clears the key if a client changes the address but not the key. The previous release does this, because it does not
-- know the column.
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

-- `updated_at` does not change when the application fills in a key.
DROP TRIGGER users_set_updated_at ON users;
CREATE TRIGGER users_set_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW WHEN (
        OLD.* IS DISTINCT FROM NEW.*
        AND (OLD.email_key IS NOT DISTINCT FROM NEW.email_key OR OLD.email IS DISTINCT FROM NEW.email)
    )
    EXECUTE FUNCTION set_updated_at();
