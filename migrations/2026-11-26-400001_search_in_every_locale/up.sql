DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_collation WHERE collname = 'und-x-icu' AND collnamespace = 'pg_catalog'::regnamespace
    ) THEN
        RAISE EXCEPTION 'this PostgreSQL server was built without ICU, which the search for users needs: use a build with '
            'ICU, such as the packages of Debian and PostgreSQL or the official container image';
    END IF;
END
$$;

-- Returns a text without the differences that a search ignores: case, and other Unicode forms of a character, such as a
-- full-width letter.
-- - The collation is fixed. Otherwise the case of letters depends on the locale of the database: C converts only ASCII
--   letters, and in Turkish the lower case of I is not i.
-- - `upper` comes before `lower`, so that ß matches SS. The capital ẞ is its own upper case, so it is replaced first.
-- - `translate` replaces the final sigma by the other one, and removes the combining dot that İ leaves in lower case.
CREATE FUNCTION search_fold(value TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT translate(
        lower(upper(replace(normalize(value, NFKC), chr(7838), 'SS') COLLATE "und-x-icu")),
        chr(962) || chr(775), chr(963)
    )
$$;

DROP INDEX users_search_idx;
-- The extension may be in a schema that is outside of the search path.
DO $$
BEGIN
    EXECUTE format(
        $index$
        CREATE INDEX users_search_idx ON users
            USING gin (search_fold(email || ' ' || coalesce(full_name, '')) %I.gin_trgm_ops)
        $index$,
        (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_trgm')
    );
END
$$;
