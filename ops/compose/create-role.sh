#!/bin/sh
# Runs in the container of PostgreSQL when its volume is empty. Creates the role `app` of the product, which owns the database
# but is no superuser. Removes the password of the superuser `postgres`, who can then connect only inside the container:
#   docker compose exec postgres psql -U postgres app
set -e
psql -v ON_ERROR_STOP=1 --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'END'
\getenv password POSTGRES_PASSWORD
\getenv database POSTGRES_DB
CREATE ROLE app LOGIN PASSWORD :'password';
ALTER DATABASE :"database" OWNER TO app;
-- The role that isolates the queries of organizations. It is created here because the role `app` may not create roles.
CREATE ROLE saas_tenant NOLOGIN;
GRANT saas_tenant TO app;
ALTER ROLE CURRENT_USER PASSWORD NULL;
END
