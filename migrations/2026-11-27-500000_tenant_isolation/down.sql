DROP FUNCTION tenant_table(REGCLASS);
REVOKE INSERT ON idempotency_keys FROM saas_tenant;
REVOKE INSERT ON job_outbox FROM saas_tenant;
REVOKE INSERT ON audit_log FROM saas_tenant;
-- The role stays, because other databases of the server may use it.
