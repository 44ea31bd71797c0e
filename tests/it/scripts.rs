//! The scripts that run before the first build. The test of `scripts/migrate` is in `cli_migrate`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::support::process::{Ended, TempDir, run, saas};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Creates a directory with a copy of `scripts/create-env`. The script writes `.env` into this directory.
fn create_project() -> TempDir {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("scripts")).unwrap();
    fs::copy(Path::new(ROOT).join("scripts/create-env"), dir.path().join("scripts/create-env")).unwrap();
    dir
}

async fn create_env(dir: &TempDir, args: &[&str]) -> Ended {
    let mut command = Command::new("/bin/sh");
    command.arg(dir.path().join("scripts/create-env")).args(args).current_dir("/");
    run(command).await
}

fn read_env(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join(".env")).unwrap()
}

fn find_value<'a>(env: &'a str, name: &str) -> &'a str {
    let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{name} is not in {env}"))
}

#[tokio::test]
async fn create_env_writes_private_random_secrets_that_production_accepts() {
    let (one, two) = (create_project(), create_project());
    let done = create_env(&one, &["ada@example.com"]).await.succeeded();
    create_env(&two, &[]).await.succeeded();
    let mode = fs::metadata(one.path().join(".env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (first, second) = (read_env(&one), read_env(&two));
    assert_eq!(find_value(&first, "FIRST_SUPERUSER_EMAIL"), "ada@example.com");
    assert!(!done.stdout.contains(find_value(&first, "FIRST_SUPERUSER_PASSWORD")), "{done:?}");

    let compose = fs::read_to_string(Path::new(ROOT).join("compose.yaml")).unwrap();
    let required: Vec<_> = compose.split("${").filter_map(|text| text.split_once(":?")).collect();
    assert!(required.len() > 3, "{required:?}");
    for (name, _) in required.into_iter().chain([("FIRST_SUPERUSER_PASSWORD", ""), ("TWO_FACTOR_KEY", "")]) {
        assert!(find_value(&first, name).len() >= 32, "{name}");
        assert_ne!(find_value(&first, name), find_value(&second, name), "{name}");
    }

    let mut doctor = saas(&["doctor"]);
    doctor.current_dir(one.path());
    let checked = run(doctor).await.stdout;
    assert!(checked.contains("ok    settings") && checked.contains("ok    two-factor"), "{checked}");
}

#[tokio::test]
async fn create_env_never_changes_an_existing_file() {
    let dir = create_project();
    create_env(&dir, &[]).await.succeeded();
    let written = read_env(&dir);
    let again = create_env(&dir, &["other@example.com"]).await.succeeded();
    assert!(again.stdout.contains("was not changed"), "{again:?}");
    assert_eq!(read_env(&dir), written);

    let incomplete = "SECRET_KEY=\nPOSTGRES_PASSWORD='x'\n# REDIS_PASSWORD=y\n";
    fs::write(dir.path().join(".env"), incomplete).unwrap();
    let refused = create_env(&dir, &[]).await;
    let refused =
        refused.failed(1, &["was not changed", "SECRET_KEY", "FIRST_SUPERUSER_PASSWORD", "REDIS_PASSWORD"]);
    assert!(!refused.stderr.contains("POSTGRES_PASSWORD"), "{refused:?}");
    assert_eq!(read_env(&dir), incomplete);
    create_env(&create_project(), &["not an address"]).await.failed(1, &["not an address"]);
}

#[tokio::test]
async fn a_missing_compiler_is_reported_before_the_build() {
    let dir = TempDir::new();
    let check = || {
        let mut command = Command::new("/bin/sh");
        command
            .arg(Path::new(ROOT).join("scripts/ensure-toolchain"))
            .env("PATH", dir.path())
            .env_remove("CC");
        run(command)
    };
    // Creates a program that the script looks for but never runs.
    let install = |name: &str| {
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    check().await.failed(1, &["cargo is not installed", "rustup.rs"]);
    install("cargo");
    check().await.failed(1, &["no C compiler", "gcc"]);
    install("clang");
    check().await.succeeded();
}
