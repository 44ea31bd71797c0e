DROP INDEX CONCURRENTLY audit_log_org_idx;
