//! Help, usage errors, and commands of the binary that end without a signal.

use std::os::unix::fs::PermissionsExt;

use crate::support::{
    TestApp, User,
    app::PASSWORD,
    process::{Ended, production_command, run, run_with_input, saas},
    servers::{TestDatabase, servers},
};

#[tokio::test]
async fn smoke_help_lists_commands_examples_and_settings() {
    let all = run(saas(&["--help"])).await.succeeded().stdout;
    let commands = [
        "dev",
        "serve",
        "worker",
        "queue",
        "migrate",
        "create-admin",
        "openapi",
        "doctor",
        "healthcheck",
        "completions",
    ];
    for command in commands {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not in {all}");
        let help = run(saas(&[command, "--help"])).await.succeeded().stdout;
        assert!(help.contains("Example"), "{command} has no example");
        assert!(help.contains("Usage: saas"));
    }
    for action in ["up", "down", "redo", "status", "new", "lint", "schema"] {
        run(saas(&["migrate", action, "--help"])).await.succeeded();
    }
    let worker = run(saas(&["worker", "--help"])).await.succeeded().stdout;
    for expected in ["WORKER_CONCURRENCY", "DATABASE_URL", "[default: 10]", "--queues"] {
        assert!(worker.contains(expected), "{expected}");
    }
    assert!(!worker.contains("BACKEND_CORS_ORIGINS"), "help lists only the settings that the command reads");
    assert!(run(saas(&["--version"])).await.succeeded().stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn help_shows_no_secret() {
    let mut command = saas(&["serve", "--help"]);
    let secrets = [
        "SECRET_KEY",
        "SECRET_KEY_PREVIOUS",
        "DATABASE_URL",
        "REDIS_URL",
        "CACHE_REDIS_URL",
        "SMTP_URL",
        "POSTGRES_PASSWORD",
        "FIRST_SUPERUSER_PASSWORD",
    ];
    for name in secrets {
        command.env(name, "hunter2hunter2");
    }
    let help = run(command).await.succeeded().stdout;
    assert!(help.contains("SECRET_KEY") && !help.contains("hunter2"));
}

#[tokio::test]
async fn wrong_usage_is_explained_and_exits_with_2() {
    run(saas(&[])).await.failed(2, &["Usage: saas"]);
    run(saas(&["sevre"])).await.failed(2, &["sevre", "serve"]);
    run(saas(&["serve", "--prot", "1"])).await.failed(2, &["--prot", "--port"]);
    run(saas(&["serve", "--port", "many"])).await.failed(2, &["many", "--port"]);
    let mut from_environment = saas(&["serve"]);
    from_environment.env("PORT", "many");
    run(from_environment).await.failed(2, &["many", "--port", "environment variable PORT"]);
    let mut concurrency = saas(&["worker"]);
    concurrency.env("WORKER_CONCURRENCY", "0");
    run(concurrency).await.failed(2, &["--concurrency", "environment variable WORKER_CONCURRENCY"]);
}

#[tokio::test]
async fn migrate_up_applies_and_down_reverts_migrations() {
    let database = TestDatabase::empty().await;
    let migrate = |args: &[&'static str]| {
        let mut command = saas(&[&["migrate"], args].concat());
        command.env("DATABASE_URL", &database.url);
        run(command)
    };
    let before = migrate(&["status"]).await;
    assert_eq!((before.code, before.stdout.contains("users  pending")), (Some(1), true), "{before:?}");
    assert!(migrate(&["up"]).await.succeeded().stdout.contains("applied 2026-11-22-000000_users"));
    assert!(migrate(&["up"]).await.succeeded().stdout.contains("nothing to apply"));
    assert!(migrate(&["status"]).await.succeeded().stdout.contains("users  applied"));
    assert!(migrate(&["redo", "--yes"]).await.succeeded().stdout.contains("reverted and applied"));
    migrate(&["down", "-n", "100", "--yes"]).await.failed(1, &["100", "nothing was reverted"]);
    let count: &'static str = migrate(&["status"]).await.stdout.lines().count().to_string().leak();
    let reverted = migrate(&["down", "-n", count, "--yes"]).await.succeeded();
    assert!(reverted.stdout.contains("reverted 2026-11-22-000000_users"));
    assert!(migrate(&["down"]).await.succeeded().stdout.contains("nothing to revert"));
}

#[tokio::test]
async fn smoke_create_admin_creates_and_promotes_admins() {
    let app = TestApp::start().await;
    let create = |args: &[&'static str], input: &'static str| {
        let mut command = saas(&[&["create-admin"], args].concat());
        command
            .env("DATABASE_URL", &app.database.url)
            .env("BCRYPT_COST", "4")
            .env("ALLOW_WEAK_HASHES", "true");
        run_with_input(command, input)
    };
    let with_stdin = ["--email", "Root@Example.com", "--password-stdin"];
    let made = create(&with_stdin, "correct horse\n").await.succeeded();
    assert!(made.stdout.contains("created admin root@example.com"));
    assert!(!made.stdout.contains("horse") && !made.stderr.contains("horse"));
    assert_eq!(app.login("root@example.com", "correct horse").await.status, 200);
    let again = create(&with_stdin, "another password\n").await.succeeded();
    assert!(again.stdout.contains("nothing changed"));
    assert_eq!(
        app.login("root@example.com", "correct horse").await.status,
        200,
        "the password has not changed"
    );

    create(&["--email", "x@example.com", "--password-stdin"], "short")
        .await
        .failed(1, &["at least 8 characters"]);
    create(&["--email", "x@example.com", "--password-stdin"], "X@example.com 1")
        .await
        .failed(1, &["must not be your email address"]);
    create(&["--email", "invalid", "--password-stdin"], "correct horse")
        .await
        .failed(1, &["--email", "invalid"]);
    create(&["--email", "x@example.com"], "")
        .await
        .failed(1, &["--password-stdin", "FIRST_SUPERUSER_PASSWORD"]);

    let user = app.user().await;
    let email: &'static str = user.email.clone().leak();
    create(&["--email", email, "--password-stdin"], "correct horse").await.failed(1, &["--promote"]);
    assert!(
        create(&["--email", email, "--promote"], "").await.succeeded().stdout.contains("is an admin now")
    );
    let user = User::signed_in(user.id, email, &app.login(email, PASSWORD).await);
    assert_eq!(app.get("/users/admin-only", Some(&user)).await.status, 200);
}

#[tokio::test]
async fn create_admin_takes_the_password_from_the_environment() {
    let database = TestDatabase::migrated().await;
    for (args, email) in [
        (&["create-admin"][..], "root@example.org"),
        (&["create-admin", "--email", " Second@Example.org"][..], "second@example.org"),
    ] {
        let mut command = production_command(args, &database, "p").await;
        command.env("FIRST_SUPERUSER_EMAIL", email);
        let done = run(command).await.succeeded().stdout;
        assert!(
            done.contains(&format!("created admin {email} with"))
                && done.contains("FIRST_SUPERUSER_PASSWORD")
        );
    }
    let empty = TestDatabase::empty().await;
    let command = production_command(&["create-admin", "--email", "a@example.com"], &empty, "p").await;
    run(command).await.failed(1, &["saas migrate up"]);
    let mut weak = production_command(&["create-admin", "--email", "a@example.com"], &database, "p").await;
    weak.env_remove("ALLOW_WEAK_HASHES");
    run(weak).await.failed(1, &["BCRYPT_COST is 4"]);
}

/// In the containers of compose.yaml, the commands of `saas` have FIRST_SUPERUSER_PASSWORD in their environment.
#[tokio::test]
async fn create_admin_does_not_use_the_password_of_the_first_admin_for_another() {
    let app = TestApp::start().await;
    for (setting, email) in
        [("FIRST_SUPERUSER_EMAIL", "first@example.com"), ("PROJECT_NAME", "the default address of the first")]
    {
        for piped in ["", "piped without the flag\n"] {
            let mut command =
                production_command(&["create-admin", "--email", "other@example.com"], &app.database, "p")
                    .await;
            command.env(setting, email);
            run_with_input(command, piped)
                .await
                .failed(1, &["no password", "--password-stdin", "FIRST_SUPERUSER_EMAIL"]);
        }
    }
    let args = ["create-admin", "--email", "other@example.com", "--password-stdin"];
    let command = production_command(&args, &app.database, "p").await;
    run_with_input(command, "another password\n").await.succeeded();
    assert_eq!(app.login("other@example.com", "a password of ours").await.status, 401);
    assert_eq!(app.login("other@example.com", "another password").await.status, 200);
}

#[tokio::test]
async fn doctor_reports_each_problem() {
    let database = TestDatabase::migrated().await;
    let healthy = run(production_command(&["doctor"], &database, "p").await).await;
    for line in [
        "FAIL  settings",
        "ok    database",
        "ok    migrations",
        "ok    clock",
        "ok    redis",
        "ok    disk",
        "warn  mail",
    ] {
        let expected = !line.starts_with("FAIL");
        assert_eq!(healthy.stdout.contains(line), expected, "{line} in {}", healthy.stdout);
    }
    assert_eq!(healthy.code, Some(0), "{}", healthy.stdout);

    let mut broken = saas(&["doctor", "--database-url", "postgres://x:hunter2@127.0.0.1:9/z"]);
    broken.env("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0").env("BACKEND_CORS_ORIGINS", "*");
    let broken = run(broken).await;
    for line in [
        "FAIL  settings",
        "FAIL  database",
        "FAIL  redis",
        "FAIL  http",
        "SECRET_KEY",
        "DATABASE_URL",
        "REDIS_URL",
    ] {
        assert!(broken.stdout.contains(line), "{line} in {}", broken.stdout);
    }
    assert!(!broken.stdout.contains("hunter2"));
    assert_eq!(broken.code, Some(1));

    let empty = TestDatabase::empty().await;
    let behind = run(production_command(&["doctor"], &empty, "p").await).await;
    assert!(behind.stdout.contains("FAIL  migrations") && behind.stdout.contains("saas migrate up"));
}

#[tokio::test]
async fn doctor_generates_a_key_that_it_accepts() {
    let generate = || run(saas(&["doctor", "--generate-secret"]));
    let (one, two) = (generate().await.succeeded().stdout, generate().await.succeeded().stdout);
    assert_ne!(one, two);
    let database = TestDatabase::migrated().await;
    let mut command = production_command(&["doctor"], &database, "p").await;
    command.env("SECRET_KEY", one.trim());
    assert!(run(command).await.stdout.contains("ok    settings"));
}

#[tokio::test]
async fn completions_exist_for_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(saas(&["completions", shell])).await.succeeded().stdout;
        assert!(script.contains("create-admin"), "{shell}");
    }
    run(saas(&["completions", "tcsh"])).await.failed(2, &["tcsh", "bash"]);
}

#[tokio::test]
async fn healthcheck_fails_without_a_server() {
    let ended: Ended = run(saas(&["healthcheck", "--port", "9"])).await;
    ended.failed(1, &["no server answers at 127.0.0.1:9"]);
}

#[test]
fn scripts_are_executable() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for script in [
        "scripts/dev",
        "scripts/test",
        "scripts/create-env",
        "scripts/create-migration",
        "scripts/migrate",
        "scripts/ensure-servers",
        "scripts/ensure-toolchain",
        ".ci/run",
        ".ci/image",
        "ops/compose/create-role.sh",
    ] {
        let mode = std::fs::metadata(root.join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
    }
}

#[tokio::test]
async fn a_worker_refuses_invalid_queue_names() {
    let database = TestDatabase::migrated().await;
    run(production_command(&["worker", "--queues", ","], &database, "p").await)
        .await
        .failed(2, &["--queues default"]);
    run(production_command(&["worker", "--queues", "a b"], &database, "p").await)
        .await
        .failed(2, &["\"a b\""]);
    let _ = servers().await;
}

#[tokio::test]
async fn a_closed_output_pipe_is_not_a_failure() {
    let binary = env!("CARGO_BIN_EXE_saas");
    for args in ["openapi", "completions bash", "--help"] {
        let mut shell = std::process::Command::new("/bin/sh");
        // The reader exits before the command writes.
        shell.args(["-c", &format!("{{ sleep 0.2; {binary} {args}; echo \"code $?\" >&2; }} | true")]);
        run(shell).await.assert_stderr("code 0");
    }
}
