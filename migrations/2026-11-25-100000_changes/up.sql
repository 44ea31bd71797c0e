-- Tells whoever keeps a copy of a row that it has changed, and in which transaction: heard when that is committed, and
-- only then.
CREATE FUNCTION tell_of_row(of_row text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('changes', of_row || ' ' || pg_current_xact_id());
    RETURN of_row;
END
$$;

-- Attach both to every table whose rows are cached, and whose key is `id`.
CREATE FUNCTION tell_of_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.* IS DISTINCT FROM NEW.* THEN
        PERFORM tell_of_row(TG_TABLE_NAME || ':' || OLD.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION tell_of_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell_of_row('*');
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

-- Which transactions a statement can see, and of which server: another one, or the same one after a restart, counts
-- them anew.
CREATE FUNCTION snapshot_text() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint || ':' || pg_current_snapshot()
$$;
