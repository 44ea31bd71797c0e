//! The sources of settings, how their values are normalized, and the messages about unusable values.

use std::process::Command;

use crate::support::{
    app::SECRET,
    process::{Running, TempDir, production_command, run, saas, start_server},
    records::column,
    servers::{TestDatabase, servers, unique},
};

/// Writes a `.env` file, and returns a command that runs in its directory.
fn with_dotenv(dir: &TempDir, args: &[&str], text: &str) -> Command {
    std::fs::write(dir.path().join(".env"), text).unwrap();
    let mut command = saas(args);
    command.current_dir(dir.path());
    command
}

/// Returns a production command without the password of the first admin.
async fn without_password(args: &[&str], database: &TestDatabase) -> Command {
    let mut command = production_command(args, database, &format!("s{}", unique())).await;
    command.env_remove("FIRST_SUPERUSER_PASSWORD");
    command
}

#[tokio::test]
async fn a_password_is_read_exactly_as_it_was_written() {
    let database = TestDatabase::migrated().await;
    let dir = TempDir::new();
    let file = dir.path().join("secret");
    std::fs::write(&file, " pa$word #1 \r\n").unwrap();
    let file = file.to_str().unwrap();
    for (number, (dotenv, variables, wanted)) in [
        ("FIRST_SUPERUSER_PASSWORD='pa$word #1 \\n\"'", vec![], r#"pa$word #1 \n""#),
        (r#"FIRST_SUPERUSER_PASSWORD="pa\$word 'x'" # comment"#, vec![], "pa$word 'x'"),
        ("FIRST_SUPERUSER_PASSWORD=pa#word=8\r", vec![], "pa#word=8"),
        ("", vec![("FIRST_SUPERUSER_PASSWORD", "a line end\n")], "a line end"),
        ("", vec![("FIRST_SUPERUSER_PASSWORD", " spaces are kept \r\n")], " spaces are kept "),
        ("", vec![("FIRST_SUPERUSER_PASSWORD_FILE", file)], " pa$word #1 "),
    ]
    .into_iter()
    .enumerate()
    {
        let email = format!("a{number}@example.com");
        let mut command = with_dotenv(&dir, &["create-admin"], dotenv);
        command.env("FIRST_SUPERUSER_EMAIL", &email);
        command.env("DATABASE_URL", format!("{}\n", database.url)).env("DEBUG", " true\n");
        command.env("BCRYPT_COST", "4\n").envs(variables);
        run(command).await.succeeded();
        let hash =
            column(&database, &format!("SELECT hashed_password FROM users WHERE email = '{email}'")).await;
        assert!(bcrypt::verify(wanted, &hash[0]).unwrap(), "{wanted:?}");
    }
}

#[tokio::test]
async fn an_ambiguous_line_of_dotenv_is_refused_with_its_number() {
    let dir = TempDir::new();
    for (line, fix) in [
        ("FIRST_SUPERUSER_PASSWORD=hunter2$word", "single quotes"),
        ("FIRST_SUPERUSER_PASSWORD=\"hunter2$word\"", "single quotes"),
        ("POSTGRES_PASSWORD=hunter2 # word", "single quotes"),
        ("PROJECT_NAME=hunter2 & Sons", "into quotes"),
        ("SECRET_KEY: hunter2", "write NAME=value"),
    ] {
        let command = with_dotenv(&dir, &["migrate", "status"], &format!("# comment\n{line}\n"));
        let ended = run(command).await.failed(2, &["line 2 of .env cannot be read", fix]);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    // Such a line does not affect commands that read no settings, or only other settings.
    let broken = "POSTGRES_PASSWORD=a$b\n";
    for args in [&["completions", "bash"][..], &["--help"], &["doctor", "--generate-secret"]] {
        run(with_dotenv(&dir, args, broken)).await.succeeded();
    }
    let database = TestDatabase::migrated().await;
    let mut other = with_dotenv(&dir, &["migrate", "status"], "REDIS_PASSWORD=a$$b\n");
    other.env("DATABASE_URL", &database.url);
    run(other).await.succeeded();
}

#[tokio::test]
async fn a_setting_that_is_not_used_is_not_parsed() {
    let database = TestDatabase::migrated().await;
    let redis = servers().await.redis_url();
    let kubernetes = [
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("POSTGRES_PORT", "tcp://10.0.0.1:5432"),
        ("SAAS_PORT", "tcp://10.0.0.1:8000"),
    ];
    let others = [
        ("DATABASE_POOL_SIZE", "many"),
        ("LOG_FORMAT", "xml"),
        ("LOG_CLIENT_ADDRESS", "perhaps"),
        ("WORKER_CONCURRENCY", "0"),
        ("PORT", "many"),
    ];
    for args in [&["migrate", "status"][..], &["queue", "stats"], &["openapi"]] {
        let mut command = saas(args);
        command.env("DATABASE_URL", &database.url).env("REDIS_URL", &redis);
        command.envs(kubernetes).envs(others).env("BCRYPT_COST", "x");
        run(command).await.succeeded();
    }
    let mut doctor = production_command(&["doctor"], &database, "p").await;
    doctor.envs(kubernetes);
    run(doctor).await.succeeded();

    for (args, name, parts) in [
        (&["queue", "stats"], "REDIS_PORT", [("REDIS_HOST", "127.0.0.1"), ("REDIS_DB", "0")]),
        (&["migrate", "status"], "POSTGRES_PORT", [("POSTGRES_SERVER", "127.0.0.1"), ("POSTGRES_DB", "x")]),
    ] {
        let mut command = saas(args);
        command.envs(kubernetes).envs(parts);
        run(command).await.failed(1, &[name, "tcp://10.0.0.1", "Kubernetes", "enableServiceLinks: false"]);
    }
}

#[tokio::test]
async fn secrets_are_read_from_files() {
    let database = TestDatabase::migrated().await;
    let dir = TempDir::new();
    let redis_url = servers().await.redis_url();
    let mut command = saas(&["doctor"]);
    for (name, value) in [
        ("SECRET_KEY", SECRET),
        ("SECRET_KEY_PREVIOUS", SECRET),
        ("TWO_FACTOR_KEY", &*SECRET.replace('a', "z")),
        ("DATABASE_URL", &*database.url),
        ("REDIS_URL", &*redis_url),
        ("SMTP_URL", "smtp://127.0.0.1:1025"),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, format!("{value}\n")).unwrap();
        command.env(format!("{name}_FILE"), file);
    }
    let doctor = run(command).await.succeeded().stdout;
    for line in ["ok    settings", "ok    database", "ok    redis", "ok    mail", "ok    two-factor"] {
        assert!(doctor.contains(line), "{line} in {doctor}");
    }

    let empty = dir.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let key = dir.path().join("SECRET_KEY");
    for (path, reason) in [
        ("/nowhere/key", "cannot be read"),
        (dir.path().to_str().unwrap(), "cannot be read"),
        (empty.to_str().unwrap(), "empty"),
    ] {
        let mut unreadable = production_command(&["serve", "--port", "0"], &database, "p").await;
        unreadable.env_remove("SECRET_KEY").env("SECRET_KEY_FILE", path);
        run(unreadable).await.failed(2, &["SECRET_KEY_FILE", path, reason]);
    }
    let mut both = production_command(&["serve", "--port", "0"], &database, "p").await;
    both.env("SECRET_KEY_FILE", &key);
    let ended = run(both).await.failed(2, &["SECRET_KEY and ", "SECRET_KEY_FILE are both set"]);
    assert!(!ended.stderr.contains(SECRET));
    // A command opens only the files of settings that it uses.
    let mut other = saas(&["queue", "stats"]);
    other.env("REDIS_URL", &redis_url).env("SECRET_KEY_FILE", "/nowhere/key");
    run(other).await.succeeded();
}

#[tokio::test]
async fn doctor_lists_every_invalid_setting_and_continues() {
    let database = TestDatabase::migrated().await;
    let invalid = [
        ("PORT", "abc"),
        ("HOST", "my-machine"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "xml"),
        ("WORKER_CONCURRENCY", "0"),
        ("DATABASE_POOL_SIZE", "-1"),
        ("SHUTDOWN_TIMEOUT", "soon"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "x"),
        ("REQUIRE_TWO_FACTOR", "maybe"),
        ("FIRST_SUPERUSER_EMAIL", "ada"),
        ("ALLOWED_HOSTS", "https://example.com"),
        ("PUBLIC_URL", "https://example.com/app"),
        ("MAIL_FROM", "ada"),
    ];
    let mut command = production_command(&["doctor"], &database, "p").await;
    command.envs(invalid);
    let doctor = run(command).await;
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    for (name, _) in invalid {
        let found = doctor.stdout.lines().any(|line| line.starts_with("FAIL") && line.contains(name));
        assert!(found, "{name} in {}", doctor.stdout);
    }
    assert!(doctor.stdout.contains("ok    database") && doctor.stdout.contains("ok    redis"));
    // `saas serve` reports several invalid settings in one run.
    let mut serve = production_command(&["serve"], &database, "p").await;
    serve.envs(invalid);
    run(serve).await.failed(2, &["PORT", "HOST", "LOG_FORMAT", "SHUTDOWN_TIMEOUT", "REQUIRE_TWO_FACTOR"]);
}

#[tokio::test]
async fn a_connection_that_fails_names_the_server_and_its_setting() {
    let dir = TempDir::new();
    let postgres = "DATABASE_URL=postgres://u:hunter2@127.0.0.1:9/app\n";
    let redis = "\nREDIS_URL=redis://:hunter2@127.0.0.1:9/0\n";
    let migrate = run(with_dotenv(&dir, &["migrate", "status"], postgres)).await;
    let queue = run(with_dotenv(&dir, &["queue", "stats"], redis)).await;
    let mut parts = with_dotenv(&dir, &["migrate", "status"], "");
    parts.env("POSTGRES_SERVER", "127.0.0.1").env("POSTGRES_PORT", "9").env("POSTGRES_PASSWORD", "hunter2");
    let parts = run(parts).await;
    for (ended, words) in [
        (
            migrate,
            ["127.0.0.1:9 (database app)", "correct DATABASE_URL", "DATABASE_URL is from line 1 of .env"],
        ),
        (queue, ["127.0.0.1:9", "check REDIS_URL", "REDIS_URL is from line 2 of .env"]),
        (parts, ["127.0.0.1:9 (database app)", "POSTGRES_SERVER and POSTGRES_PORT", "refused"]),
    ] {
        let ended = ended.failed(1, &words);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    let database = TestDatabase::migrated().await;
    let (_, rest) = database.url.split_once('@').unwrap();
    let mut wrong = saas(&["migrate", "status"]);
    wrong.env("DATABASE_URL", format!("postgres://stranger:hunter2@{rest}"));
    run(wrong)
        .await
        .failed(1, &[rest.split('/').next().unwrap(), "Correct the user or the password", "%40 for @"]);
}

#[tokio::test]
async fn misspelled_names_in_dotenv_cause_a_warning() {
    let database = TestDatabase::migrated().await;
    let dir = TempDir::new();
    std::fs::write(dir.path().join(".env"), "STRIPE_KEY=x\nSECRET_KYE=hunter2\nredis_url=x\n").unwrap();
    let command = async |args: &[&str]| {
        let mut command = production_command(args, &database, &format!("m{}", unique())).await;
        command.current_dir(dir.path());
        command
    };
    let doctor = run(command(&["doctor"]).await).await.succeeded().stdout;
    let (mut server, _) = start_server(command(&["serve", "--port", "0"]).await).await;
    server.signal("TERM");
    server.end().await;
    for output in [doctor, server.output()] {
        for words in
            ["line 2 of .env sets SECRET_KYE", "write SECRET_KEY if", "line 3 of .env sets redis_url"]
        {
            assert!(output.contains(words), "{words} in {output}");
        }
        assert!(!output.contains("STRIPE_KEY") && !output.contains("hunter2"), "{output}");
    }
}

#[tokio::test]
async fn serve_and_healthcheck_accept_localhost_as_host() {
    let database = TestDatabase::migrated().await;
    let mut command = production_command(&["serve", "--port", "0"], &database, "p").await;
    command.env("HOST", "localhost");
    let (_server, address) = start_server(command).await;
    let port = address.strip_prefix("127.0.0.1:").unwrap();
    let mut healthcheck = saas(&["healthcheck"]);
    healthcheck.env("HOST", "localhost").env("PORT", port);
    run(healthcheck).await.succeeded();
}

#[tokio::test]
async fn the_password_of_the_first_admin_is_optional_but_not_the_default() {
    let database = TestDatabase::migrated().await;
    let (mut server, _) = start_server(without_password(&["serve", "--port", "0"], &database).await).await;
    server.wait_for_output("there is no admin: run `saas create-admin").await;
    let doctor = run(without_password(&["doctor"], &database).await).await.succeeded();
    assert!(
        doctor.stdout.contains("warn  admins") && doctor.stdout.contains("saas create-admin"),
        "{doctor:?}"
    );
    let mut create =
        production_command(&["create-admin", "--email", "ada@example.com"], &database, "p").await;
    create.env("FIRST_SUPERUSER_EMAIL", "ada@example.com").env("FIRST_SUPERUSER_PASSWORD", "correct horse");
    run(create).await.succeeded();

    let (server, _) = start_server(without_password(&["serve", "--port", "0"], &database).await).await;
    assert!(!server.output().contains("there is no admin"), "{}", server.output());
    Running::start(without_password(&["worker"], &database).await).wait_for_output("worker started").await;
    let doctor = run(without_password(&["doctor"], &database).await).await.succeeded();
    assert!(doctor.stdout.contains("ok    admins"), "{doctor:?}");
    for args in [&["serve"][..], &["worker"]] {
        let mut command = without_password(args, &database).await;
        command.env("FIRST_SUPERUSER_PASSWORD", saas::config::DEFAULT_ADMIN_PASSWORD);
        let ended =
            run(command).await.failed(1, &["FIRST_SUPERUSER_PASSWORD is the default", "choose a password"]);
        assert!(!ended.stderr.contains("DEBUG=true"), "{}", ended.stderr);
    }
}
