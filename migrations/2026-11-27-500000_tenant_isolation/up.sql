-- Creates the role in which the queries of an organization run, by `SET LOCAL ROLE saas_tenant`. No client logs in with this
-- role. Roles belong to the whole server: a migration of another database may have created the role, or may do so now.
DO $$
DECLARE
    -- The role in DATABASE_URL or POSTGRES_USER. The product sets `saas.product_role` before it runs migrations, since these can
    -- run as another role.
    product TEXT := coalesce(
        (SELECT rolname FROM pg_roles WHERE rolname = current_setting('saas.product_role', true)), current_user
    );
    -- Before PostgreSQL 16, every member of a role may set this role. Since then, a member needs the option SET.
    may_set TEXT := CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END;
    missing TEXT := '';
BEGIN
    FOR attempt IN 1..20 LOOP
        BEGIN
            IF to_regrole('saas_tenant') IS NULL THEN
                CREATE ROLE saas_tenant NOLOGIN;
            END IF;
            IF NOT pg_has_role(product, 'saas_tenant', may_set) THEN
                EXECUTE format('GRANT saas_tenant TO %I', product);
            END IF;
            EXIT;
        EXCEPTION
            WHEN insufficient_privilege THEN
                EXIT;
            -- Another process creates or grants the role at the same time. The internal error is "tuple concurrently updated".
            -- This session sees the change of the other process a moment later.
            WHEN duplicate_object OR unique_violation OR internal_error THEN
                PERFORM pg_sleep(0.05);
        END;
    END LOOP;
    IF to_regrole('saas_tenant') IS NULL THEN
        missing := format('CREATE ROLE saas_tenant NOLOGIN; GRANT saas_tenant TO %I;', product);
    ELSIF NOT pg_has_role(product, 'saas_tenant', may_set) THEN
        missing := format('GRANT saas_tenant TO %I;', product);
    END IF;
    IF missing <> '' THEN
        RAISE EXCEPTION 'the role % has to be a member of the role saas_tenant, and % may not arrange it', product, current_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'As a superuser, run ' || missing;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'saas_tenant' AND (rolsuper OR rolbypassrls))
        OR EXISTS (SELECT FROM pg_auth_members WHERE member = to_regrole('saas_tenant')) THEN
        RAISE EXCEPTION 'the role saas_tenant must not bypass row-level security, nor be a superuser or a member of a role'
            USING HINT = 'As a superuser, run ALTER ROLE saas_tenant NOSUPERUSER NOBYPASSRLS; and revoke its memberships';
    END IF;
    IF NOT has_schema_privilege('saas_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO saas_tenant', current_schema());
    END IF;
END
$$;

-- A change of an organization's data also writes rows of these tables. The role may not read them.
GRANT INSERT ON audit_log TO saas_tenant;
GRANT INSERT ON job_outbox TO saas_tenant;
GRANT INSERT ON idempotency_keys TO saas_tenant;

-- Makes a table belong to organizations: the migration that creates the table calls `SELECT tenant_table('products');`. In the
-- role saas_tenant, a statement then sees and writes only the rows of the organization in `app.org_id`, and no rows if this
-- setting is missing. The owner of the table is not restricted: migrations, `ON DELETE CASCADE` and pg_dump work as before.
CREATE FUNCTION tenant_table(name REGCLASS) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    -- After a transaction with SET LOCAL, the setting `app.org_id` is '' in this session, and not NULL.
    own CONSTANT TEXT := $own$ org_id = NULLIF(current_setting('app.org_id', true), '')::bigint $own$;
    counter REGCLASS;
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY tenant ON %s TO saas_tenant USING (%s) WITH CHECK (%s)', name, own, own);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO saas_tenant', name);
    -- The sequences of `serial` columns. An identity column needs no privilege.
    FOR counter IN
        SELECT objid FROM pg_depend JOIN pg_class ON oid = objid AND relkind = 'S'
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = name AND deptype = 'a'
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO saas_tenant', counter);
    END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION tenant_table FROM PUBLIC;
