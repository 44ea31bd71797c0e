-- Trigger functions that notify the processes of the product of changed rows, with the id of the transaction. PostgreSQL
-- delivers a notification after the commit. The tables of cached rows have triggers that call both functions. Their
-- primary key is `id`.
CREATE FUNCTION tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.* IS DISTINCT FROM NEW.* THEN
        PERFORM pg_notify('changes', TG_TABLE_NAME || ':' || OLD.id || ' ' || pg_current_xact_id());
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION tell_of_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('changes', '* ' || pg_current_xact_id());
    RETURN NULL;
END
$$;

CREATE TRIGGER users_tell_of_change
    AFTER UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION tell_of_change();
CREATE TRIGGER users_tell_of_truncate
    AFTER TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_truncate();

CREATE TRIGGER sessions_tell_of_change
    AFTER UPDATE OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION tell_of_change();
CREATE TRIGGER sessions_tell_of_truncate
    AFTER TRUNCATE ON sessions
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_truncate();

-- With ALWAYS, the triggers also fire for rows that logical replication writes.
ALTER TABLE users ENABLE ALWAYS TRIGGER users_tell_of_change, ENABLE ALWAYS TRIGGER users_tell_of_truncate;
ALTER TABLE sessions ENABLE ALWAYS TRIGGER sessions_tell_of_change, ENABLE ALWAYS TRIGGER sessions_tell_of_truncate;
