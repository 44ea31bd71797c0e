DROP INDEX users_search_idx;
-- The extension may be in a schema that is outside of the search path.
DO $$
BEGIN
    EXECUTE format(
        $index$
        CREATE INDEX users_search_idx ON users
            USING gin ((lower(email) || ' ' || lower(coalesce(full_name, ''))) %I.gin_trgm_ops)
        $index$,
        (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_trgm')
    );
END
$$;
DROP FUNCTION search_fold(TEXT);
