-- The organization in which the action was made. Without a foreign key: an entry outlives its organization.
ALTER TABLE audit_log ADD COLUMN org_id BIGINT;
