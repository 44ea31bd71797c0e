//! Connections to PostgreSQL: TLS, channel binding, several servers, and the settings for these.

use std::path::{Path, PathBuf};

use diesel::{QueryableByName, sql_types::Text};
use diesel_async::RunQueryDsl;
use saas::{
    db,
    dev::{Purpose, Server, test_dir},
};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener},
};

use crate::support::{
    TestApp, eventually,
    process::{TempDir, production_command, run, saas},
    servers::{TestDatabase, database_settings, execute, servers, unique},
};

#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    value: String,
}

/// Connects as the product does. Returns the result of a query as text, or the message if the connection fails.
async fn connect_and_query(url: &str, query: &str) -> Result<String, String> {
    let mut conn = db::connect(&database_settings(url)).await.map_err(|error| format!("{error:#}"))?;
    let sql = format!("SELECT ({query})::text AS value");
    Ok(diesel::sql_query(sql).get_result::<TextRow>(&mut conn).await.unwrap().value)
}

const IS_ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn certificate_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates").join(name)
}

/// Starts a server that offers TLS.
async fn start_tls_server() -> Server {
    let server = Server::postgres(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let url = server.url.expose_secret();
    for (from, to) in [("server.pem", "server.crt"), ("server.key", "server.key")] {
        let pem = std::fs::read_to_string(certificate_path(from)).unwrap();
        // PostgreSQL writes the file, because the server may run under another account than this test.
        let write =
            format!("COPY (SELECT regexp_split_to_table('{pem}', '\\n')) TO PROGRAM 'umask 077; cat > {to}'");
        execute(url, &write).await;
    }
    execute(url, "ALTER SYSTEM SET ssl = on").await;
    execute(url, "SELECT pg_reload_conf()").await;
    eventually("the server offers TLS", || async {
        connect_and_query(&format!("{url}?sslmode=require"), "SELECT 1").await.ok()
    })
    .await;
    server
}

#[tokio::test]
async fn connections_are_encrypted_according_to_the_parameters() {
    let server = start_tls_server().await;
    let url = server.url.expose_secret();
    let authority = certificate_path("ca.pem");
    let authority = authority.to_str().unwrap();
    let with_authority = |mode: &str| format!("sslmode={mode}&sslrootcert={authority}");
    for (query, expected) in [
        (String::new(), "true"),
        ("sslmode=disable".into(), "false"),
        ("sslmode=allow".into(), "false"),
        ("sslmode=prefer".into(), "true"),
        ("sslmode=require".into(), "true"),
        (with_authority("require"), "true"),
        (with_authority("verify-ca"), "true"),
        (with_authority("verify-full"), "true"),
        ("channel_binding=require".into(), "true"),
        ("sslmode=allow&channel_binding=require".into(), "true"),
        ("sslmode=require&channel_binding=require".into(), "true"),
        ("sslmode=require&channel_binding=disable".into(), "true"),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3&sslsni=0&gssencmode=disable".into(), "true"),
    ] {
        assert_eq!(
            connect_and_query(&format!("{url}?{query}"), IS_ENCRYPTED).await.as_deref(),
            Ok(expected),
            "{query}"
        );
    }
    let other_name = url.replace("127.0.0.1", "127.0.0.2");
    let other = with_authority("verify-full");
    for (url, why) in [
        // The certificate is not trusted, the certificate is for another name (twice), or the client key is missing.
        (
            format!("{url}?sslmode=verify-ca&sslrootcert={}", certificate_path("server.pem").display()),
            "certificate",
        ),
        (format!("{url}?hostaddr=127.0.0.1&host=db.example.com&{other}"), "certificate"),
        (format!("{other_name}?hostaddr=127.0.0.1&{other}"), "certificate"),
        (format!("{url}?sslmode=require&sslcert=/nowhere.pem&sslkey=/nowhere.key"), "/nowhere.key"),
    ] {
        let error = connect_and_query(&url, IS_ENCRYPTED).await.unwrap_err();
        assert!(error.contains(why), "{url}: {error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_if_the_parameters_require_tls() {
    let database = TestDatabase::empty().await;
    for query in ["", "sslmode=prefer", "sslmode=allow", "channel_binding=prefer"] {
        let encrypted = connect_and_query(&format!("{}?{query}", database.url), IS_ENCRYPTED).await;
        assert_eq!(encrypted.as_deref(), Ok("false"), "{query}");
    }
    for (query, why) in [
        ("sslmode=require", "server does not support TLS"),
        ("channel_binding=require", "channel_binding=require needs TLS"),
        ("sslmode=prefer&channel_binding=require", "channel_binding=require needs TLS"),
        ("sslmode=require&channel_binding=require", "channel_binding=require needs TLS"),
        ("sslmode=disable&channel_binding=require", "channel_binding=require needs TLS"),
    ] {
        let error = connect_and_query(&format!("{}?{query}", database.url), IS_ENCRYPTED).await.unwrap_err();
        assert!(error.contains(why), "{query}: {error}");
    }
}

#[tokio::test]
async fn an_unusable_server_is_skipped() {
    let database = TestDatabase::empty().await;
    let (login, rest) = database.url.split_once('@').unwrap();
    let (address, name) = rest.split_once('/').unwrap();
    let (_, port) = address.split_once(':').unwrap();
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frozen = frozen.local_addr().unwrap();

    // A Unix socket that leads to the server of the tests.
    let (dir, target) = (TempDir::in_memory(), address.to_owned());
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.7")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let socket = dir.path().display();
    for url in [
        format!("{login}@127.0.0.1:1,{address}/{name}"),
        format!("{login}@{frozen},{address}/{name}"),
        format!("{login}@{address},{frozen}/{name}?load_balance_hosts=random"),
        format!("{login}@{frozen},{address}/{name}?connect_timeout=1"),
        format!("{login}@nowhere.invalid:1,{address}/{name}"),
        format!("{login}@/{name}?hostaddr=127.0.0.1&port={port}"),
        format!("{login}@nowhere.invalid:{port}/{name}?hostaddr=127.0.0.1"),
        format!("{login}@/{name}?host={socket}&port=7"),
        format!("{login}@/{name}?host=/nowhere,{socket}&port=7&sslmode=verify-full"),
        format!("{login}@/{name}?host=/nowhere,127.0.0.1,{socket}&port=7,{port},7"),
    ] {
        assert_eq!(connect_and_query(&url, "SELECT current_database()").await.as_deref(), Ok(name), "{url}");
    }
    let error =
        connect_and_query(&format!("{login}@127.0.0.1:1,127.0.0.1:2/{name}"), "SELECT 1").await.unwrap_err();
    assert!(error.contains("127.0.0.1:1: ") && error.contains("127.0.0.1:2: "), "{error}");
}

#[tokio::test]
async fn target_session_attrs_decide_which_servers_are_accepted() {
    let database = TestDatabase::empty().await;
    let read_only = TestDatabase::empty().await;
    read_only.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$").await;
    let refused = "see target_session_attrs";
    for (url, attrs, expected) in [
        (&database.url, "any", Ok(())),
        (&database.url, "read-write", Ok(())),
        (&database.url, "primary", Ok(())),
        (&database.url, "prefer-standby", Ok(())),
        (&database.url, "read-only", Err(refused)),
        (&database.url, "standby", Err(refused)),
        (&read_only.url, "any", Ok(())),
        (&read_only.url, "", Err(refused)),
        (&read_only.url, "read-write", Err(refused)),
        (&read_only.url, "read-only", Ok(())),
        (&read_only.url, "primary", Ok(())),
    ] {
        let answer = connect_and_query(&format!("{url}?target_session_attrs={attrs}"), "SELECT 1").await;
        match expected {
            Ok(()) => assert_eq!(answer.as_deref(), Ok("1"), "{attrs}"),
            Err(why) => assert!(answer.as_ref().unwrap_err().contains(why), "{attrs}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn the_postgres_settings_may_contain_any_character() {
    let database = TestDatabase::migrated().await;
    let (user, password) = (format!("u:@/?#%20 {}", unique()), "p:@/?#%41 ü");
    servers().await.sql(&format!("CREATE ROLE \"{user}\" SUPERUSER LOGIN PASSWORD '{password}'")).await;
    let (_, rest) = database.url.split_once('@').unwrap();
    let (address, name) = rest.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let with = |settings: &[(&str, &str)]| {
        let mut command = saas(&["migrate", "status"]);
        command.env("POSTGRES_SERVER", host).env("POSTGRES_PORT", port).env("POSTGRES_DB", name);
        command.env("POSTGRES_USER", &user).env("POSTGRES_PASSWORD", password);
        command.envs(settings.iter().copied());
        run(command)
    };
    with(&[]).await.succeeded();
    with(&[("POSTGRES_SSLMODE", "disable")]).await.succeeded();
    with(&[("POSTGRES_SSLMODE", "")]).await.succeeded();
    with(&[("POSTGRES_SSLMODE", "require")]).await.failed(1, &["server does not support TLS"]);
    with(&[("POSTGRES_SSLMODE", "maybe")])
        .await
        .failed(1, &["POSTGRES_", "sslmode has an unknown value", "verify-full"]);
    with(&[("POSTGRES_SSLROOTCERT", "/nowhere.pem"), ("POSTGRES_SSLMODE", "verify-full")])
        .await
        .failed(1, &["/nowhere.pem"]);
    servers().await.sql(&format!("DROP ROLE \"{user}\"")).await;
}

#[tokio::test]
async fn unsupported_parameters_are_reported_with_the_other_problems() {
    let database = TestDatabase::migrated().await;
    for (query, problem) in [
        ("pgbouncer=true", "DATABASE_URL cannot be read: the parameter pgbouncer is not supported"),
        ("sslmode=require&connection_limit=5", "set DATABASE_POOL_SIZE"),
        ("sslmod=require", "the parameter sslmod is unknown"),
    ] {
        let mut command = production_command(&["serve", "--port", "0"], &database, "p").await;
        command.env("DATABASE_URL", format!("{}?{query}", database.url)).env("SECRET_KEY", "short");
        run(command).await.failed(1, &[problem, "SECRET_KEY has 5 bytes"]);
    }
}

#[tokio::test]
async fn doctor_checks_the_privileges_of_the_postgresql_role() {
    let database = TestDatabase::migrated().await;
    let role = format!("limited_{}", unique());
    servers().await.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let (_, place) = database.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:x@{place}");
    database.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let doctor = async || {
        let mut command = production_command(&["doctor"], &database, "p").await;
        command.env("DATABASE_URL", &url);
        run(command).await
    };
    let denied = doctor().await;
    let line = denied.stdout.lines().find(|line| line.starts_with("FAIL  privileges")).unwrap_or_default();
    assert!(
        denied.code == Some(1) && line.contains("INSERT on users") && line.contains("GRANT"),
        "{denied:?}"
    );

    let guide =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/databases.md")).unwrap();
    let grant = guide.lines().map(str::trim).find(|line| line.starts_with("GRANT SELECT, INSERT")).unwrap();
    database.sql(&grant.replace("TO saas", &format!("TO {role}"))).await;
    let grant = guide.lines().map(str::trim).find(|line| line.starts_with("GRANT saas_tenant")).unwrap();
    database.sql(&grant.replace("TO saas;", &format!("TO {role};"))).await;
    assert!(doctor().await.succeeded().stdout.contains("ok    privileges"));
    let app = TestApp::with(&[&format!("--database-url={url}")]).await;
    let body = json!({ "email": "ada@example.com", "password": "correct horse" });
    assert_eq!(app.post("/auth/register", None, body).await.status, 201);
}

/// Runs the statements of docs/databases.md that create the role of the product, and then the migrations as another role.
#[tokio::test]
async fn migrations_can_run_as_another_role_than_the_product() {
    let database = TestDatabase::empty().await;
    let role = format!("product_{}", unique());
    let guide =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/databases.md")).unwrap();
    for beginning in ["CREATE ROLE saas", "GRANT SELECT, INSERT", "ALTER DEFAULT PRIVILEGES"] {
        let statement = guide.lines().map(str::trim).find(|line| line.starts_with(beginning)).unwrap();
        database.sql(&statement.replace(" saas", &format!(" {role}")).replace("'...'", "'x'")).await;
    }
    let (_, place) = database.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:x@{place}");
    let mut migrate = production_command(&["migrate", "up"], &database, "p").await;
    migrate.env("DATABASE_URL", &url).env("DATABASE_DIRECT_URL", &database.url);
    run(migrate).await.succeeded();
    let mut doctor = production_command(&["doctor"], &database, "p").await;
    doctor.env("DATABASE_URL", &url);
    assert!(run(doctor).await.succeeded().stdout.contains("ok    privileges"));
}
