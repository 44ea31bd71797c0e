//! `saas dev` as a process. After it ends, none of its servers may run.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    eventually,
    process::{Running, TempDir, run, saas},
};

fn dev_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = saas(&[&["dev", "--port", "0", "--bcrypt-cost", "4"], args].concat());
    command.current_dir(dir);
    command
}

/// A running `saas dev`.
struct DevProcess {
    process: Running,
    /// The URL of the API.
    api: String,
}

async fn start(command: Command) -> DevProcess {
    let mut process = Running::start(command);
    let api = process.wait_for_output("API       ").await;
    process.wait_for_output("worker started").await;
    DevProcess { process, api }
}

/// Returns the command lines of all processes that contain the name of the directory. These processes are the servers, and
/// the `sh` processes that stop the servers (`dev::guard`).
fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.file_name().unwrap().to_str().unwrap();
    command_lines().into_iter().filter(|line| line.contains(name)).collect()
}

fn command_lines() -> Vec<String> {
    // macOS has no /proc, and some Linux systems have no `ps`.
    if let Ok(entries) = std::fs::read_dir("/proc") {
        let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
        let lines = entries.flatten().filter_map(read);
        return lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect();
    }
    let listed = Command::new("ps").args(["-axww", "-o", "args="]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

async fn wait_until_gone(dir: &Path) {
    eventually("all its processes have ended", || async { processes_of(dir).is_empty().then_some(()) }).await;
}

impl DevProcess {
    /// Waits until all processes have ended and the ports of the servers are closed.
    async fn wait_until_gone(&self, dir: &Path) {
        wait_until_gone(dir).await;
        let output = self.process.output();
        let hosts: Vec<_> = output
            .lines()
            .filter(|line| line.contains("://"))
            .filter_map(|line| line.split_once('@'))
            .collect();
        assert_eq!(hosts.len(), 2, "{output}");
        for (_, host) in hosts {
            let address = host.split('/').next().unwrap();
            eventually("its port is closed", || async {
                tokio::net::TcpStream::connect(address).await.is_err().then_some(())
            })
            .await;
        }
    }
}

async fn login(api: &str) -> u16 {
    let form = [("username", "admin@example.com"), ("password", "changethis123")];
    reqwest::Client::new()
        .post(format!("{api}/auth/login"))
        .form(&form)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn smoke_dev_runs_the_whole_product_and_keeps_its_data() {
    let dir = TempDir::new();
    let mut first = start(dev_command(dir.path(), &[])).await;
    assert_eq!(login(&first.api).await, 200);
    let output = first.process.output();
    for expected in
        ["/docs", "/redoc", "admin@example.com / changethis123", "Ctrl-C", "postgres://", "redis://"]
    {
        assert!(output.contains(expected), "{expected} is not in {output}");
    }
    assert!(processes_of(dir.path()).iter().any(|line| line.contains("postgres")));

    let client = reqwest::Client::new();
    let form = [("username", "admin@example.com"), ("password", "changethis123")];
    let answer: Value = client
        .post(format!("{}/auth/login", first.api))
        .form(&form)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let get = |api: &str, path: &str| client.get(format!("{api}{path}")).bearer_auth(&token).send();
    let enqueued = client.post(format!("{}/jobs/example?name=x&duration=0", first.api)).bearer_auth(&token);
    let job: Value = enqueued.send().await.unwrap().json().await.unwrap();
    let path = format!("/jobs/{}/status", job["job_id"].as_str().unwrap());
    eventually("its worker has run the job", || async {
        let status: Value = get(&first.api, &path).await.unwrap().json().await.unwrap();
        (status["status"] == "finished").then_some(())
    })
    .await;

    // Two processes of `saas dev` must not use the same data.
    run(dev_command(dir.path(), &[])).await.failed(1, &["already runs in this directory", "--state-dir"]);
    first.process.signal("INT");
    assert_eq!(first.process.end().await.code(), Some(0));
    first.wait_until_gone(dir.path()).await;

    let mut second = start(dev_command(dir.path(), &[])).await;
    assert_eq!(
        get(&second.api, "/users/me").await.unwrap().status(),
        200,
        "the account and the key are kept"
    );
    let status: Value = get(&second.api, &path).await.unwrap().json().await.unwrap();
    assert_eq!(status["status"], "finished", "the data in Redis is kept");
    second.process.signal("TERM");
    assert_eq!(second.process.end().await.code(), Some(0));
    second.wait_until_gone(dir.path()).await;
}

/// Adds to `found` each file and directory below `dir` whose mode has permissions for users other than its owner.
fn collect_accessible_to_others(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The entry may be gone: servers remove files at any time.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() && std::fs::read_dir(&path).is_ok() {
            collect_accessible_to_others(&path, found);
        }
    }
}

#[tokio::test]
async fn other_users_cannot_access_the_state_directory() {
    let dir = TempDir::new();
    let state = dir.path().join(".saas");
    let old_mail = state.join("mail/old.eml");
    std::fs::create_dir_all(old_mail.parent().unwrap()).unwrap();
    std::fs::write(&old_mail, "Subject: Hi\r\n\r\n").unwrap();
    for (path, mode) in [(&state, 0o755), (&state.join("mail"), 0o755), (&old_mail, 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut product = start(dev_command(dir.path(), &[])).await;
    let body = serde_json::json!({ "email": "ada@example.com", "password": "correct horse" });
    let register = reqwest::Client::new().post(format!("{}/auth/register", product.api)).json(&body);
    assert_eq!(register.send().await.unwrap().status(), 201);
    product.process.wait_for_output("mail captured").await;
    let mails = std::fs::read_dir(state.join("mail")).unwrap().count();
    assert_eq!(mails, 2);
    let mut found = Vec::new();
    if std::fs::metadata(&state).unwrap().permissions().mode() & 0o777 != 0o700 {
        found.push(state.clone());
    }
    collect_accessible_to_others(&state, &mut found);
    assert!(found.is_empty(), "{found:#?}");
    product.process.signal("INT");
    product.process.end().await;
}

#[tokio::test]
async fn after_a_kill_no_server_runs_and_dev_starts_again() {
    let dir = TempDir::new();
    for signal in ["KILL", "HUP"] {
        let mut product = start(dev_command(dir.path(), &[])).await;
        assert_eq!(login(&product.api).await, 200);
        product.process.signal(signal);
        product.process.end().await;
        // Starts at once, while the previous servers may still be shutting down.
        let mut again = start(dev_command(dir.path(), &[])).await;
        assert_eq!(login(&again.api).await, 200);
        again.process.signal("INT");
        again.process.end().await;
        again.wait_until_gone(dir.path()).await;
        product.wait_until_gone(dir.path()).await;
    }
}

#[tokio::test]
async fn after_an_interrupt_during_start_no_server_runs() {
    let dir = TempDir::new();
    let mut starting = Running::start(dev_command(dir.path(), &[]));
    eventually("its servers are starting", || async { (!processes_of(dir.path()).is_empty()).then_some(()) })
        .await;
    starting.signal("INT");
    starting.end().await;
    wait_until_gone(dir.path()).await;
    let mut product = start(dev_command(dir.path(), &[])).await;
    assert_eq!(login(&product.api).await, 200);
    product.process.signal("INT");
    product.process.end().await;
}

#[tokio::test]
async fn other_commands_in_the_directory_use_the_servers_of_dev() {
    let dir = TempDir::new();
    let command = |args: &[&str]| {
        let mut command = saas(args);
        command.current_dir(dir.path());
        command
    };
    let missing = ["no database is configured"];
    // Returns the part of each URL before `@`, which contains the password.
    let logins = |output: &str| {
        let urls = output.lines().filter(|line| line.contains("://")).filter_map(|line| line.split_once('@'));
        urls.map(|(login, _)| login.trim().to_owned()).collect::<Vec<_>>()
    };
    let mut first = start(dev_command(dir.path(), &[])).await;
    for args in [&["migrate", "status"][..], &["queue", "stats"], &["doctor"]] {
        let ended = run(command(args)).await.succeeded();
        assert!(ended.stderr.contains("using the servers of `saas dev`"), "{ended:?}");
    }
    let mut production = command(&["migrate", "status"]);
    production.env("DEBUG", "false");
    run(production).await.failed(1, &missing);
    let mut configured = command(&["migrate", "status"]);
    configured.env("POSTGRES_SERVER", "127.0.0.1").env("POSTGRES_PORT", "9");
    let ended = run(configured).await.failed(1, &["127.0.0.1:9"]);
    assert!(!ended.stderr.contains("using the servers"), "{ended:?}");
    first.process.signal("INT");
    first.process.end().await;
    run(command(&["migrate", "status"])).await.failed(1, &missing);

    let mut second = start(dev_command(dir.path(), &[])).await;
    assert_eq!(logins(&first.process.output()), logins(&second.process.output()));
    second.process.signal("KILL");
    second.process.end().await;
    run(command(&["migrate", "status"])).await.failed(1, &missing);
}

#[tokio::test]
async fn a_port_in_use_is_reported_before_anything_starts() {
    let dir = TempDir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = saas(&["dev", "--port", &port]);
    command.current_dir(dir.path());
    run(command).await.failed(1, &[&port, "choose another port", "--port"]);
    assert!(!dir.path().join(".saas").exists());
}

#[tokio::test]
async fn dev_with_reset_deletes_all_data() {
    let dir = TempDir::new();
    let mut first = start(dev_command(dir.path(), &[])).await;
    let body = serde_json::json!({ "email": "ada@example.com", "password": "correct horse" });
    let client = reqwest::Client::new();
    let register = |api: String| client.post(format!("{api}/auth/register")).json(&body).send();
    assert_eq!(register(first.api.clone()).await.unwrap().status(), 201);
    first.process.signal("INT");
    first.process.end().await;
    let key = || std::fs::read_to_string(dir.path().join(".saas/secret-key")).unwrap();
    let before = key();
    let mut second = start(dev_command(dir.path(), &["--reset"])).await;
    assert_ne!(key(), before, "an old token must not be valid for a new user with the same id");
    assert_eq!(register(second.api.clone()).await.unwrap().status(), 201);
    second.process.signal("INT");
    second.process.end().await;
}

#[tokio::test]
async fn a_weak_admin_password_is_refused() {
    let dir = TempDir::new();
    let mut command = dev_command(dir.path(), &["--first-superuser-password", "short"]);
    command.env("FIRST_SUPERUSER_EMAIL", "");
    run(command).await.failed(1, &["FIRST_SUPERUSER_PASSWORD", "at least 8 characters"]);
}
