#!/bin/sh
# Runs in the container of PostgreSQL when its volume is empty: creates the role of the product, which owns its database
# but is no superuser. Without a password, the superuser `postgres` can only connect inside the container:
#   docker compose exec postgres psql -U postgres app
set -e
psql -v ON_ERROR_STOP=1 --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'END'
\getenv password POSTGRES_PASSWORD
\getenv database POSTGRES_DB
CREATE ROLE app LOGIN PASSWORD :'password';
ALTER DATABASE :"database" OWNER TO app;
-- The role that isolates the queries of organizations. The role of the product may not create roles.
CREATE ROLE saas_tenant NOLOGIN;
GRANT saas_tenant TO app;
ALTER ROLE CURRENT_USER PASSWORD NULL;
END
