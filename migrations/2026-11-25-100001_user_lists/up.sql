-- Indexes for the sort orders and filters of the list of users. Users without a name come last in both directions.
CREATE INDEX users_full_name_idx ON users (full_name, id);
CREATE INDEX users_full_name_desc_idx ON users (full_name DESC NULLS LAST, id DESC);
CREATE INDEX users_inactive_idx ON users (id) WHERE NOT is_active;
