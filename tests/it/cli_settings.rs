//! Settings: the values that are refused, old names, and the documentation of each setting.

use clap::CommandFactory;
use saas::{cli::Cli, config::RENAMED_VARIABLES};

use crate::support::{
    app::SECRET,
    process::{Running, TempDir, production_command, run, saas},
    servers::{TestDatabase, servers},
};

#[tokio::test]
async fn smoke_production_reports_all_unsafe_settings_together() {
    for command in ["serve", "worker"] {
        let database = ["--database-url", "postgres://x:y@127.0.0.1:9/z"];
        let mut args = vec![command];
        args.extend(database);
        let ended = run(saas(&args)).await;
        ended.failed(1, &["SECRET_KEY is not set", "openssl rand -base64 32", "run `saas dev`"]);

        let mut weak = saas(&args);
        weak.env("SECRET_KEY", "short").env("SECRET_KEY_PREVIOUS", "x").env("BCRYPT_COST", "4");
        weak.env("FIRST_SUPERUSER_PASSWORD", "changethis123");
        let problems = [
            "SECRET_KEY has 5 bytes",
            "SECRET_KEY_PREVIOUS has 1 bytes",
            "FIRST_SUPERUSER_PASSWORD",
            "BCRYPT_COST is 4",
        ];
        run(weak).await.failed(1, &problems);

        let mut known = saas(&args);
        known
            .env("SECRET_KEY", "changethis-changethis-changethis-changethis")
            .env("SECRET_KEY_PREVIOUS", "abcdefghabcdefghabcdefghabcdefgh")
            .env("TWO_FACTOR_KEY", "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME")
            .env("TWO_FACTOR_KEY_PREVIOUS", "password12345678password12345678")
            .env("FIRST_SUPERUSER_PASSWORD", "choose one");
        let problems = [
            "SECRET_KEY is an",
            "SECRET_KEY_PREVIOUS is an",
            "TWO_FACTOR_KEY is an",
            "TWO_FACTOR_KEY_PREVIOUS is an",
            "FIRST_SUPERUSER_PASSWORD is an example",
        ];
        run(known).await.failed(1, &problems);
    }
}

#[tokio::test]
async fn serve_explains_why_it_cannot_start() {
    let mut command = saas(&["serve"]);
    command.env("SECRET_KEY", SECRET).env("FIRST_SUPERUSER_PASSWORD", "a password of ours");
    run(command).await.failed(1, &["DATABASE_URL", "POSTGRES_SERVER", "saas dev"]);

    let empty = TestDatabase::empty().await;
    let pending = run(production_command(&["serve", "--port", "0"], &empty, "p").await).await;
    pending.failed(1, &["pending migrations", "users", "saas migrate up", "--migrate"]);

    let mut unreachable = production_command(&["serve", "--port", "0"], &empty, "p").await;
    unreachable.env("DATABASE_URL", "postgres://someone:hunter2@127.0.0.1:9/z");
    unreachable.env("DATABASE_WAIT_SECONDS", "0");
    let ended = run(unreachable).await.failed(1, &["cannot reach PostgreSQL at 127.0.0.1:9", "DATABASE_URL"]);
    assert!(!ended.stderr.contains("hunter2"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = run(production_command(&["serve", "--port", &port], &empty, "p").await).await;
    ended.failed(1, &[&port, "choose another port", "--port"]);
}

#[tokio::test]
async fn invalid_settings_are_named() {
    let database = TestDatabase::migrated().await;
    for (name, value, problem) in [
        ("DATABASE_URL", "mysql://someone:hunter2@host/db", "DATABASE_URL must begin with postgres://"),
        ("DATABASE_URL", "nonsense hunter2", "DATABASE_URL is not a URL"),
        ("DATABASE_URL", "postgres://someone:hunter2@host:port/db", "DATABASE_URL cannot be read"),
        (
            "DATABASE_URL",
            "postgres://someone:hunter2@host/db?sslmode=perhaps",
            "sslmode has an unknown value; write one of disable",
        ),
        ("REDIS_URL", "http://:hunter2@host", "REDIS_URL cannot be read"),
        ("CACHE_REDIS_URL", "http://:hunter2@host", "CACHE_REDIS_URL cannot be read"),
        ("SMTP_URL", "http://someone:hunter2@host", "SMTP_URL cannot be read"),
        ("MAIL_FROM", "invalid", "MAIL_FROM \"invalid\" is not an address"),
        ("BACKEND_CORS_ORIGINS", "[\"https://a.example.com\"", "BACKEND_CORS_ORIGINS is not a JSON list"),
        ("BACKEND_CORS_ORIGINS", "*", "BACKEND_CORS_ORIGINS has \"*\""),
        ("BACKEND_CORS_ORIGINS", "https://a.example/x", "an origin has no path: remove /x"),
        ("PUBLIC_URL", "example.com", "PUBLIC_URL \"example.com\" is not the URL of a site"),
        ("PUBLIC_URL", "https://example.com/app", "the path /app"),
        ("FRONTEND_URL", "ftp://example.com", "FRONTEND_URL \"ftp://example.com\""),
        ("LOG_LEVEL", "loud", "LOG_LEVEL has \"loud\""),
        ("FIRST_SUPERUSER_EMAIL", "invalid", "FIRST_SUPERUSER_EMAIL \"invalid\""),
        ("FIRST_SUPERUSER_PASSWORD", "short", "FIRST_SUPERUSER_PASSWORD"),
        ("FIRST_SUPERUSER_PASSWORD", "Admin@Example.com1", "FIRST_SUPERUSER_PASSWORD: Password must not be"),
    ] {
        let mut command = production_command(&["serve", "--port", "0"], &database, "p").await;
        command.env(name, value);
        let ended = run(command).await.failed(1, &[problem]);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn invalid_and_unsafe_settings_are_reported_together() {
    let mut serve = saas(&["serve"]);
    serve.env("PUBLIC_URL", "example.com").env("SMTP_URL", "x").env("BACKEND_CORS_ORIGINS", "*");
    let reported = [
        "no database is configured",
        "PUBLIC_URL",
        "SMTP_URL",
        "BACKEND_CORS_ORIGINS",
        "SECRET_KEY is not set",
    ];
    run(serve).await.failed(1, &reported);
    // Values that the command-line parser refuses are reported together with other invalid settings.
    let mut serve = saas(&["serve"]);
    serve
        .env("PORT", "x")
        .env("MAX_CONNECTIONS", "0")
        .env("SECRET_KEY", "short")
        .env("PUBLIC_URL", "example.com");
    let reported = ["PORT", "write a whole number", "MAX_CONNECTIONS", "1..=", "SECRET_KEY", "PUBLIC_URL"];
    run(serve).await.failed(2, &reported);
    let mut dev = saas(&["dev"]);
    dev.env("PUBLIC_URL", "example.com").env("MAIL_FROM", "x").env("BACKEND_CORS_ORIGINS", "*");
    run(dev).await.failed(1, &["PUBLIC_URL", "MAIL_FROM", "BACKEND_CORS_ORIGINS"]);
}

#[tokio::test]
async fn old_names_of_settings_keep_working() {
    for (old, new) in RENAMED_VARIABLES {
        for command in ["serve", "worker"] {
            let mut help = saas(&[command, "--help"]);
            help.env(old, "7").env(new, "");
            let help = run(help).await.succeeded().stdout;
            let reads_setting =
                run(saas(&[command, "--help"])).await.stdout.contains(&format!("[env: {new}=]"));
            assert_eq!(help.contains(&format!("[env: {old}=7]")), reads_setting, "{old} in {help}");
            let mut both = saas(&[command, "--help"]);
            both.env(old, "7").env(new, "8");
            let both = run(both).await.succeeded().stdout;
            assert_eq!(both.contains(&format!("[env: {new}=8]")), reads_setting, "the new name wins: {both}");
        }
    }
    let mut invalid = saas(&["worker"]);
    invalid.env("WORKER_SHUTDOWN_GRACE", "x");
    run(invalid).await.failed(2, &["environment variable WORKER_SHUTDOWN_GRACE "]);
    for flag in ["--shutdown-delay=x", "--shutdown-timeout=x"] {
        run(saas(&["serve", flag])).await.failed(2, &["invalid value 'x'"]);
    }
    run(saas(&["worker", "--shutdown-grace=x"])).await.failed(2, &["invalid value 'x'"]);
    let database = TestDatabase::migrated().await;
    run(production_command(&["doctor", "--queue-prefix=p"], &database, "q").await).await.succeeded();
}

#[tokio::test]
async fn insecure_settings_cause_warnings_at_start_and_in_doctor() {
    let database = TestDatabase::migrated().await;
    let command = async |args: &[&str]| {
        let mut command = production_command(args, &database, "p").await;
        command
            .env("DEBUG", "true")
            .env("DATABASE_URL", "postgres://u:hunter2@db.invalid/app?sslmode=require")
            .env("DATABASE_WAIT_SECONDS", "1")
            .env("REDIS_URL", "redis://:hunter2@redis.invalid:6379/0")
            .env("SMTP_URL", "smtp://mail.invalid")
            .env("PUBLIC_URL", "http://api.example.com");
        command
    };
    let warnings = [
        "DEBUG is on",
        "PUBLIC_URL begins with http",
        "mails to mail.invalid may be sent unencrypted",
        "the certificate of PostgreSQL at db.invalid:5432 is not verified",
        "connections to Redis at redis.invalid are unencrypted",
    ];
    let serve = run(command(&["serve", "--port", "0"]).await).await.failed(1, &warnings);
    let mut worker = Running::start(command(&["worker"]).await);
    for warning in warnings {
        worker.wait_for_output(warning).await;
    }
    let doctor = run(command(&["doctor", "--secret-key", SECRET]).await).await;
    for warning in warnings.into_iter().chain(["use the environment or .env instead of --secret-key"]) {
        let found =
            doctor.stdout.lines().any(|line| line.starts_with("warn  settings") && line.contains(warning));
        assert!(found, "{warning} in {}", doctor.stdout);
    }
    for output in [serve.stderr, worker.output(), doctor.stdout] {
        assert!(!output.contains("hunter2") && !output.contains(SECRET), "{output}");
    }
}

/// Compares the tables in docs/settings.md with the definitions of the settings. With `BLESS` set, writes the tables.
#[test]
fn settings_are_documented() {
    let cli = Cli::command();
    let commands = ["serve", "worker", "dev"].map(|name| cli.find_subcommand(name).unwrap());
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let mut secrets = Vec::new();
    for arg in commands.into_iter().flat_map(clap::Command::get_arguments) {
        let Some(name) = arg.get_env() else { continue };
        let heading = arg.get_help_heading().unwrap();
        let at = groups.iter().position(|(group, _)| group == heading).unwrap_or_else(|| {
            groups.push((heading.to_owned(), Vec::new()));
            groups.len() - 1
        });
        let name = name.to_str().unwrap();
        if arg.is_hide_env_values_set() && !secrets.contains(&name) {
            secrets.push(name);
        }
        let row = settings_row(name, arg);
        if !groups[at].1.contains(&row) {
            groups[at].1.push(row);
        }
    }
    let mut text = String::new();
    for (heading, rows) in groups {
        text +=
            &format!("## {heading}\n\n| setting | default | meaning |\n|---|---|---|\n{}\n", rows.concat());
    }
    text += "## Secrets in files\n\n| variable | the file has |\n|---|---|\n";
    text.extend(secrets.iter().map(|name| format!("| `{name}_FILE` | `{name}` |\n")));
    text += "\n## Old names\n\n| old name | present name |\n|---|---|\n";
    text.extend(RENAMED_VARIABLES.iter().map(|(old, new)| format!("| `{old}` | `{new}` |\n")));

    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let written = std::fs::read_to_string(&file).unwrap();
    let (intro, tables) = written.split_at(written.find("## ").unwrap_or(written.len()));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, format!("{intro}{text}")).unwrap();
    } else {
        assert_eq!(tables, text, "docs/settings.md is outdated: run BLESS=1 ./scripts/test settings");
    }
}

fn settings_row(name: &str, arg: &clap::Arg) -> String {
    let defaults = arg.get_default_values().iter().map(|value| value.to_str().unwrap());
    let default: String =
        defaults.filter(|value| !value.is_empty()).map(|value| format!("`{value}`")).collect();
    let meaning = arg.get_help().unwrap().to_string().replace('|', "\\|");
    format!("| `{name}` | {default} | {}. |\n", meaning.trim_end_matches('.'))
}

#[tokio::test]
async fn settings_of_the_fastapi_starter_keep_working() {
    let database = TestDatabase::migrated().await;
    let url = database.url.strip_prefix("postgres://").unwrap();
    let (login, rest) = url.split_once('@').unwrap();
    let ((user, password), (host, name)) = (login.split_once(':').unwrap(), rest.split_once('/').unwrap());
    let (host, port) = host.split_once(':').unwrap();
    let mut parts = saas(&["migrate", "status"]);
    parts.env("POSTGRES_SERVER", host).env("POSTGRES_PORT", port).env("POSTGRES_USER", user);
    parts.env("POSTGRES_PASSWORD", password).env("POSTGRES_DB", name).env("DATABASE_URL", "");
    run(parts).await.succeeded();
    for debug in ["True", "False", "1", "0", ""] {
        let mut command = saas(&["migrate", "status"]);
        command.env("DATABASE_URL", &database.url).env("DEBUG", debug);
        run(command).await.succeeded();
    }
    let mut wrong = saas(&["migrate", "status"]);
    wrong.env("DATABASE_URL", &database.url).env("DEBUG", "perhaps");
    run(wrong).await.failed(2, &["perhaps", "DEBUG"]);
    let mut sqlalchemy = saas(&["migrate", "status"]);
    sqlalchemy.env("DATABASE_URL", format!("postgresql+asyncpg://{url}"));
    run(sqlalchemy).await.succeeded();
}

#[tokio::test]
async fn settings_are_read_from_dotenv() {
    let database = TestDatabase::migrated().await;
    let dir = TempDir::new();
    std::fs::write(dir.path().join(".env"), format!("# comment\nDATABASE_URL={}\n", database.url)).unwrap();
    let mut command = saas(&["migrate", "status"]);
    run({
        command.current_dir(dir.path());
        command
    })
    .await
    .succeeded();
    let mut flag_wins = saas(&["migrate", "status", "--database-url", "mysql://x"]);
    flag_wins.current_dir(dir.path());
    run(flag_wins).await.failed(1, &["mysql"]);
    std::fs::write(dir.path().join(".env"), "SECRET_KEY=hunter2 hunter2 hunter2\n").unwrap();
    let mut unreadable = saas(&["migrate", "status"]);
    unreadable.current_dir(dir.path());
    let ended = run(unreadable).await.failed(2, &[".env cannot be read"]);
    assert!(!ended.stderr.contains("hunter2"));
}

#[tokio::test]
async fn an_empty_environment_variable_counts_as_unset() {
    let database = TestDatabase::migrated().await;
    let mut command = saas(&["doctor"]);
    for name in
        ["PORT", "BCRYPT_COST", "LOG_FORMAT", "REDIS_HOST", "SMTP_URL", "FIRST_SUPERUSER_PASSWORD", "DEBUG"]
    {
        command.env(name, "");
    }
    command
        .env("DATABASE_URL", &database.url)
        .env("REDIS_URL", servers().await.redis_url())
        .env("SECRET_KEY", SECRET);
    let ended = run(command).await;
    assert!(ended.stdout.contains("FIRST_SUPERUSER_PASSWORD is not set"), "{ended:?}");
    assert!(ended.stdout.contains("ok    redis"));
}
