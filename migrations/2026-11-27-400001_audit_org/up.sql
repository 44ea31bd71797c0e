-- The organization that the change belongs to. Null for a change outside of organizations. Without a foreign key: an entry
-- outlives its organization.
ALTER TABLE audit_log ADD COLUMN org_id BIGINT;
