//! The queries of the operations that these tests call scan no large table, according to the statistics of PostgreSQL.
//! Every foreign key has an index, according to the catalog of PostgreSQL.

use serde_json::json;

use crate::support::{TestApp, User, app::PASSWORD, eventually, records::column, servers::TestDatabase};

/// The number of users that a test inserts. Most of the other tables that the test fills get about as many rows.
const ROWS: u32 = 20_000;
/// A table with more rows counts as large. PostgreSQL may scan a smaller table, because that is faster than an index.
const LARGE_TABLE_ROWS: u32 = 10_000;

/// Selects the foreign keys without an index that begins with their columns, in any order.
const FOREIGN_KEYS_WITHOUT_INDEX: &str = "
    SELECT format('%s (%s)', f.conrelid::regclass, (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY array_position(f.conkey, attnum))
        FROM pg_attribute WHERE attrelid = f.conrelid AND attnum = ANY (f.conkey)))
    FROM pg_constraint f
    WHERE f.contype = 'f' AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
        WHERE i.indrelid = f.conrelid AND i.indisvalid AND am.amname IN ('btree', 'hash')
              AND (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey
              AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
                  SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute
                  WHERE attrelid = f.conrelid AND attnum = ANY (f.conkey))))
    ORDER BY 1";

/// Inserts enough rows for the planner to prefer an index to a scan, and updates its statistics.
async fn insert_rows(app: &TestApp) {
    let sql = format!(
        "INSERT INTO users (email, hashed_password, full_name, created_at, email_verified_at)
             SELECT 'crowd' || n || '@example.com', 'x', 'Name ' || n, now() - n * interval '1 minute', now()
             FROM generate_series(1, {ROWS}) n;
         INSERT INTO sessions (id, user_id, address, expires_at)
             SELECT gen_random_uuid(), id, '203.0.113.7', now() + interval '90 days' FROM users;
         INSERT INTO refresh_tokens (hash, session_id)
             SELECT sha256(id::text::bytea), id FROM sessions;
         INSERT INTO one_time_tokens (hash, user_id, purpose, expires_at)
             SELECT sha256(id::text::bytea), id, 'verify_email', now() + interval '1 day' FROM users;
         INSERT INTO recovery_codes (user_id, hash)
             SELECT id, sha256(id::text::bytea) FROM users;
         INSERT INTO two_factor (user_id, secret, confirmed_at)
             SELECT id, 'x', now() FROM users WHERE hashed_password = 'x';
         INSERT INTO audit_log (actor_id, action, target_type, target_id)
             SELECT n, 'crowd.' || n % 100, 'user', n::text FROM generate_series(1, {ROWS}) n;
         INSERT INTO organizations (name) SELECT 'Crowd ' || n FROM generate_series(1, 200) n;
         INSERT INTO memberships (org_id, user_id, role)
             SELECT o.id, u.id, 'owner'
             FROM (SELECT id, row_number() OVER () AS number FROM organizations WHERE name LIKE 'Crowd %') o
             JOIN (SELECT id, row_number() OVER () AS number FROM users WHERE hashed_password = 'x') u USING (number);
         INSERT INTO invitations (org_id, email, email_key, role, invited_by, link_id, token_hash, link_shown, expires_at)
             SELECT o.org_id, 'guest' || n || '@example.com', 'guest' || n || '@example.com', 'member', o.user_id,
                 gen_random_uuid(), sha256(('invitation ' || n)::bytea), false, now() + interval '7 days'
             FROM generate_series(1, {ROWS}) n
             JOIN (SELECT *, row_number() OVER () AS number FROM memberships) o ON o.number = n % 200 + 1"
    );
    app.sql(&sql).await;
    // Does the work of autovacuum, which test servers do not run. VACUUM also moves pending entries into the
    // search index.
    app.sql("VACUUM ANALYZE").await;
}

/// Calls operations that read or change the tables that [`insert_rows`] fills, and runs housekeeping.
async fn call_operations(app: &TestApp, user: &User, admin: &User) {
    let get = async |path: &str, who: &User| assert_eq!(app.get(path, Some(who)).await.status, 200, "{path}");
    for path in ["/users/me", "/users/me/sessions", "/users/me/two-factor"] {
        get(path, user).await;
    }
    let filters = ["", "role=admin", "role=user", "is_active=true", "is_active=false", "search=crowd1234"];
    let searches = ["search=rowd", "search=zq", "is_active=false&search=zq", "role=user&search=crowd12"];
    for sort in ["created_at", "-created_at", "email", "-email", "full_name", "-full_name"] {
        for filter in filters.iter().chain(&searches) {
            let path = format!("/users?limit=20&sort={sort}&{filter}");
            let page = app.get(&path, Some(admin)).await;
            assert_eq!(page.status, 200, "{path}: {}", page.text);
            if let Some(cursor) = page.body["next_cursor"].as_str() {
                get(&format!("{path}&cursor={cursor}"), admin).await;
            }
        }
    }
    let org = app.post("/orgs", Some(user), json!({ "name": "Acme" })).await.body["id"].to_string();
    get("/orgs", user).await;
    for path in [
        "",
        "/members",
        "/members?role=owner&state=active&search=user",
        "/audit",
        "/audit?action=org.created",
        "/invitations",
        "/invitations?state=pending&limit=5",
    ] {
        get(&format!("/orgs/{org}{path}"), user).await;
    }
    get("/users/me/invitations", user).await;
    let guest = "guest7@example.com";
    let body = json!({ "email": guest, "role": "member" });
    assert_eq!(app.post(&format!("/orgs/{org}/invitations"), Some(user), body).await.status, 201);
    let token = app.mailed_token(guest).await;
    assert_eq!(app.post("/invitations/preview", None, json!({ "token": token })).await.status, 200);
    let sign_up = json!({ "token": token, "password": PASSWORD });
    assert_eq!(app.post("/invitations/register", None, sign_up).await.status, 200);
    get("/admin/orgs?search=acme", admin).await;
    let all = app.get("/users", Some(admin)).await;
    assert_eq!(all.body["total"], 10_000, "the count is limited");
    for path in [
        format!("/users/{}", user.id),
        format!("/audit?actor_id={}&limit=5", user.id),
        format!("/audit?user_id={}&limit=5", user.id),
        "/audit?action=crowd.7&limit=5".into(),
        "/audit?limit=5&before=1000".into(),
    ] {
        get(&path, admin).await;
    }
    let session = column(&app.database, "SELECT id FROM sessions ORDER BY id LIMIT 1").await;
    app.app.session_uses.record(session[0].parse().unwrap());
    saas::services::session_uses::flush(&app.app).await.unwrap();
    let refreshed = app.post("/auth/refresh", None, json!({ "refresh_token": user.refresh_token })).await;
    assert_eq!(refreshed.status, 200);
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(app.login("unknown@example.com", PASSWORD).await.status, 401);
    for path in ["/auth/forgot-password", "/auth/verify-email/resend"] {
        assert_eq!(app.post(path, None, json!({ "email": user.email })).await.status, 202);
    }
    let token = app.mailed_token(&user.email).await;
    let reset = json!({ "token": token, "password": "another good password" });
    assert_eq!(app.post("/auth/reset-password", None, reset).await.status, 204);
    let role = json!({ "role": "admin" });
    let path = format!("/users/{}", user.id);
    for role in [role, json!({ "role": "user" }), json!({ "is_active": false })] {
        let patch = app.request(reqwest::Method::PATCH, &path).bearer_auth(&admin.token).json(&role);
        assert_eq!(patch.send().await.unwrap().status(), 200);
    }
    app.call(reqwest::Method::DELETE, &path, admin).await;
    saas::services::housekeeping::run(&app.app).await.unwrap();
}

#[tokio::test]
async fn every_foreign_key_has_an_index() {
    let database = TestDatabase::migrated().await;
    let missing: Vec<_> = column(&database, FOREIGN_KEYS_WITHOUT_INDEX)
        .await
        .iter()
        .map(|key| {
            let (table, columns) = key.split_once(' ').unwrap();
            format!("CREATE INDEX ON {table} {columns};")
        })
        .collect();
    assert!(
        missing.is_empty(),
        "to delete a row, PostgreSQL looks for the rows that refer to it, and reads these tables from end to end. Add to \
         up.sql of the migration that creates them:\n{}",
        missing.join("\n")
    );
}

/// The check reads the catalog, so it also finds foreign keys of empty tables.
#[tokio::test]
async fn a_foreign_key_without_an_index_is_found() {
    let database = TestDatabase::migrated().await;
    database.sql("CREATE TABLE pairs (b INT, c INT, PRIMARY KEY (b, c))").await;
    let pair = ", FOREIGN KEY (b, c) REFERENCES pairs";
    let cases: [(&str, &str, &[&str]); 11] = [
        ("bad1", "", &[]),
        ("bad2", "", &["(b, a)"]),
        ("bad3", "", &["(a) WHERE b > 3"]),
        ("bad4", "", &["((a + 0))"]),
        ("bad5", "", &["USING brin (a)"]),
        ("bad6", pair, &["(a)", "(b, a, c)"]),
        ("good1", "", &["(a)"]),
        ("good2", "", &["(a, b DESC)"]),
        ("good3", "", &["(a) WHERE a IS NOT NULL"]),
        ("good4", pair, &["(a)", "(c, b, a)"]),
        ("good5", ", PRIMARY KEY (a)", &[]),
    ];
    for (name, key, indexes) in cases {
        database.sql(&format!("CREATE TABLE {name} (a BIGINT REFERENCES users, b INT, c INT{key})")).await;
        for index in indexes {
            database.sql(&format!("CREATE INDEX ON {name} {index}")).await;
        }
    }
    let found = column(&database, FOREIGN_KEYS_WITHOUT_INDEX).await;
    assert_eq!(found, ["bad1 (a)", "bad2 (a)", "bad3 (a)", "bad4 (a)", "bad5 (a)", "bad6 (b, c)"]);
}

/// Checks only the large tables, which [`insert_rows`] fills. The other tables are small here, so PostgreSQL may scan them.
#[tokio::test]
async fn no_query_scans_a_large_table() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    insert_rows(&app).await;
    let large =
        format!("SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND reltuples > {LARGE_TABLE_ROWS}");
    let large = column(&app.database, &format!("{large} AND relnamespace = 'public'::regnamespace")).await;
    assert!(large.len() >= 7, "{large:?}");
    app.sql("SELECT pg_stat_reset()").await;
    call_operations(&app, &user, &admin).await;
    let mut scanned = stop_and_list_scanned_tables(app).await;
    scanned.retain(|table| large.contains(table));
    assert!(scanned.is_empty(), "{scanned:?}");
}

/// Stops the application. Returns the tables that were read by a sequential scan since `pg_stat_reset`.
async fn stop_and_list_scanned_tables(app: TestApp) -> Vec<String> {
    let database = app.database.clone();
    drop(app);
    // A connection may report its statistics only when it is closed.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    eventually("all connections have ended", || async {
        (column(&database, others).await == ["0"]).then_some(())
    })
    .await;
    column(&database, "SELECT relname FROM pg_stat_user_tables WHERE seq_scan > 0 ORDER BY relname").await
}

/// The migration of a large database creates a personal organization for each user. The planner has no statistics of these
/// organizations until autovacuum has run.
#[tokio::test]
async fn an_identity_is_read_by_indexes_before_new_tables_have_statistics() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql(&format!(
        "INSERT INTO users (email) SELECT 'crowd' || n || '@example.com' FROM generate_series(1, {ROWS}) n;
         INSERT INTO organizations (name, personal_of) SELECT 'Personal', id FROM users WHERE email LIKE 'crowd%';
         INSERT INTO memberships (org_id, user_id, role) SELECT id, personal_of, 'owner' FROM organizations
             WHERE personal_of <> {}",
        user.id
    ))
    .await;
    app.sql("SELECT pg_stat_reset()").await;
    assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
    let scanned = stop_and_list_scanned_tables(app).await;
    assert!(scanned.iter().all(|table| table != "organizations" && table != "memberships"), "{scanned:?}");
}

/// Checks the plans of queries of the user list, the login and housekeeping, but not of the query that counts the users of
/// the list.
#[tokio::test]
async fn queries_of_users_use_indexes() {
    let app = TestApp::start().await;
    insert_rows(&app).await;
    for (condition, order) in [
        ("search_fold(email || ' ' || coalesce(full_name, '')) LIKE '%crowd1234%'", "created_at"),
        ("lower(email) = 'crowd7@example.com' OR email_key = 'crowd7@example.com'", "lower(email)"),
        ("email_key IS NULL AND id > 7", "id"),
        // Conditions of the second and later pages.
        ("(created_at, id) < (now() - interval '9 days', 7)", "created_at DESC, id DESC"),
        ("lower(email) > lower('crowd7@example.com')", "lower(email)"),
        ("(full_name, id) > ('Name 7', 7)", "full_name NULLS LAST, id"),
        ("(full_name, id) < ('Name 7', 7)", "full_name DESC NULLS LAST, id DESC"),
        ("full_name IS NULL AND id > 7", "full_name NULLS LAST, id"),
        // The first page, admins, and accounts to delete.
        ("true", "created_at DESC, id DESC"),
        ("true", "lower(email)"),
        ("role = 'admin'", "id"),
        ("deletion_due_at <= now() AND id > 7", "id"),
    ] {
        let sql = format!("EXPLAIN SELECT * FROM users WHERE {condition} ORDER BY {order} LIMIT 20");
        let plan = column(&app.database, &sql).await.join("\n");
        assert!(plan.contains("Index") && !plan.contains("Seq Scan"), "{sql}\n{plan}");
    }
}

/// Row-level security applies to these queries. A query reads only rows of its organization, and a page follows the order
/// of an index.
#[tokio::test]
async fn the_products_of_an_organization_are_found_by_indexes() {
    let database = TestDatabase::migrated().await;
    database
        .sql(
            "INSERT INTO organizations (id, name) SELECT n, 'Org' FROM generate_series(1, 40) n;
             INSERT INTO products (org_id, sku, name, price, currency, created_at)
                 SELECT o, n::text, 'Name ' || n, 1, 'EUR', now() - n * interval '1 minute'
                 FROM generate_series(1, 40) o, generate_series(1, 1000) n",
        )
        .await;
    database.sql("VACUUM ANALYZE products").await;
    for (condition, order, index) in [
        ("id = 7", "id", "products_pkey"),
        ("true", "created_at DESC, id DESC", "products_created_at_idx"),
        (
            "(created_at, id) < (now() - interval '1 hour', 9)",
            "created_at DESC, id DESC",
            "products_created_at_idx",
        ),
        ("(name_key, id) > ('name 5', 9)", "name_key, id", "products_name_key_idx"),
        ("sku = '7'", "id", "products_sku_key"),
        ("strpos(name_key, (SELECT search_fold('77'))) > 0", "id", "products"),
    ] {
        let sql = format!(
            "BEGIN; SET LOCAL ROLE saas_tenant; SELECT set_config('app.org_id', '3', true);
             EXPLAIN SELECT * FROM products WHERE org_id = 3 AND {condition} ORDER BY {order} LIMIT 20; ROLLBACK"
        );
        let plan = column(&database, &sql).await.join("\n");
        assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{sql}\n{plan}");
        let is_page = index.ends_with("_idx");
        assert!(!is_page || !plan.contains("Sort"), "{sql}\n{plan}");
    }
}

/// A connection caches the definition of an index with the body of `search_fold`. If the function changes, and the cached
/// definition does not, queries no longer match the index.
#[tokio::test]
async fn open_connections_use_the_search_index_after_its_function_has_changed() {
    let app = TestApp::start().await;
    insert_rows(&app).await;
    let (client, connection) =
        tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let explain = "EXPLAIN SELECT FROM users
                   WHERE search_fold(email || ' ' || coalesce(full_name, '')) LIKE '%crowd1234%'";
    let uses_index = async || {
        let plan = client.query(explain, &[]).await.unwrap();
        plan.iter().any(|row| row.get::<_, String>(0).contains("users_search_idx"))
    };
    for script in [
        include_str!("../../migrations/2026-11-27-300000_faster_search/down.sql"),
        include_str!("../../migrations/2026-11-27-300000_faster_search/up.sql"),
    ] {
        assert!(uses_index().await);
        app.sql(script).await;
        assert!(uses_index().await, "{script}");
    }
}
