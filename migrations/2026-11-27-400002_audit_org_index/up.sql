CREATE INDEX CONCURRENTLY audit_log_org_idx ON audit_log (org_id, id) WHERE org_id IS NOT NULL;
