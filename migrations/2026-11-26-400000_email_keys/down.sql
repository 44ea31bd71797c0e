DROP TRIGGER users_set_updated_at ON users;
CREATE TRIGGER users_set_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION set_updated_at();
DROP TRIGGER users_clear_email_key ON users;
DROP FUNCTION clear_email_key();
ALTER TABLE users DROP COLUMN email_key;
