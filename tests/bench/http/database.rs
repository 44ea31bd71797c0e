//! SQL of the fixture: users, sessions, an organization with products, and API keys.

use anyhow::Result;
use saas::security::{TokenSubject, Tokens, api_key, hash};
use tokio_postgres::Client;
use uuid::Uuid;

use super::fixture::{BCRYPT_COST, PASSWORD, TOKEN_MINUTES};

/// Creates users with confirmed addresses, who all have the password [`PASSWORD`].
pub async fn create_users(sql: &Client, count: usize) -> Result<()> {
    let hash = bcrypt::hash(PASSWORD, BCRYPT_COST)?;
    let make = format!(
        "INSERT INTO users (email, hashed_password, full_name, email_verified_at) \
         SELECT 'user' || n || '@example.com', '{hash}', 'User ' || n, now() \
         FROM generate_series(1, {count}) n"
    );
    sql.batch_execute(&make).await?;
    // A test server has no autovacuum.
    Ok(sql.batch_execute("VACUUM ANALYZE").await?)
}

/// Adds users until there are `count`. The first added users, up to a tenth of `count`, have names that begin with "Zoe
/// Imported". They are the oldest users, and sort last by address, and by name among the users that have a name.
pub async fn add_crowd(sql: &Client, count: u32) -> Result<()> {
    let make = format!(
        "INSERT INTO users (email, full_name, created_at) \
         SELECT CASE WHEN n <= {count} / 10 THEN 'z' ELSE '' END || 'person' || n || '@' || \
             (ARRAY['example.com', 'example.org', 'globex.example', 'mail.example'])[1 + n % 4], \
             CASE WHEN n <= {count} / 10 THEN 'Zoe Imported ' || n \
                  WHEN n % 10 > 0 THEN 'Person ' || n % 1000 || ' Müller' END, \
             now() - ({count} - n) * interval '1 minute' - interval '1 day' \
         FROM generate_series(1, {count} - (SELECT count(*) FROM users)) n"
    );
    sql.batch_execute(&make).await?;
    // A test server has no autovacuum.
    Ok(sql.batch_execute("VACUUM ANALYZE").await?)
}

/// Creates an organization with 1,000 products. Its members are the first `members` users. Returns the ids of the
/// organization and of one product.
pub async fn create_org(sql: &Client, members: i64) -> Result<[i64; 2]> {
    let make = "WITH org AS (INSERT INTO organizations (name) VALUES ('Acme') RETURNING id), \
                members AS (INSERT INTO memberships (org_id, user_id, role) SELECT org.id, users.id, 'viewer' FROM org, \
                    (SELECT id FROM users WHERE role = 'user' ORDER BY id LIMIT $1) users), \
                items AS (INSERT INTO products (org_id, sku, name, price, currency) \
                    SELECT id, 'T-' || n, 'Tea ' || n, 100, 'EUR' FROM org, generate_series(1, 1000) n RETURNING org_id, id) \
                SELECT org_id, max(id) FROM items GROUP BY org_id";
    let row = sql.query_one(make, &[&members]).await?;
    // A test server has no autovacuum.
    sql.batch_execute("VACUUM ANALYZE organizations, memberships, products").await?;
    Ok([row.try_get(0)?, row.try_get(1)?])
}

/// Creates an API key for each member of an organization. Returns the keys.
pub async fn create_keys(sql: &Client, org: i64) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for row in sql.query("SELECT user_id FROM memberships WHERE org_id = $1", &[&org]).await? {
        let (creator, key): (i64, _) = (row.try_get(0)?, api_key::random()?);
        let make = "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint, lifetime_days, expires_at) \
                    VALUES ($1, $2, 'bench', 'product:read', $3, '', 90, now() + interval '90 days')";
        sql.execute(make, &[&org, &creator, &hash(&key)]).await?;
        keys.push(key);
    }
    // A test server has no autovacuum.
    sql.batch_execute("VACUUM ANALYZE api_keys").await?;
    Ok(keys)
}

/// Inserts a session for each of `count` users with a role, without hashing a password. Returns their access
/// tokens. Later logins of these users count as logins from a known network.
pub async fn sign_in_many(sql: &Client, secret: &str, role: &str, count: i64) -> Result<Vec<String>> {
    let make = "INSERT INTO sessions (id, user_id, address, expires_at) \
                SELECT gen_random_uuid(), id, '127.0.0.1', now() + interval '30 days' FROM users \
                WHERE role = $1 ORDER BY id LIMIT $2 RETURNING user_id, id::text";
    let tokens = Tokens::new(secret, None, TOKEN_MINUTES, 0);
    let mut issued = Vec::new();
    for row in sql.query(make, &[&role, &count]).await? {
        let session_id = Uuid::parse_str(row.try_get(1)?)?;
        issued.push(tokens.issue(TokenSubject { user_id: row.try_get(0)?, session_id })?.0);
    }
    Ok(issued)
}

/// Returns the version of PostgreSQL.
pub async fn describe_postgres(sql: &Client) -> Result<String> {
    let version: String = sql.query_one("SHOW server_version", &[]).await?.try_get(0)?;
    Ok(format!("PostgreSQL {}", version.split(' ').next().unwrap_or_default()))
}
