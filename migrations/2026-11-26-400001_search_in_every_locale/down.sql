DROP INDEX users_search_idx;
CREATE INDEX users_search_idx ON users
    USING gin ((lower(email) || ' ' || lower(coalesce(full_name, ''))) gin_trgm_ops);
DROP FUNCTION search_fold(TEXT);
