CREATE OR REPLACE FUNCTION search_fold(value TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT translate(
        lower(upper(replace(normalize(value, NFKC), chr(7838), 'SS') COLLATE "und-x-icu")),
        chr(962) || chr(775), chr(963)
    )
$$;
ALTER INDEX users_search_idx ALTER COLUMN 1 SET STATISTICS -1;
