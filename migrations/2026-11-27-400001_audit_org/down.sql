ALTER TABLE audit_log DROP COLUMN org_id;
