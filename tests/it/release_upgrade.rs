//! Release 0.1.0 and this release on the same database and Redis, as during an upgrade and after a rollback.
//!
//! `OLD_SAAS` is the path of the binary of release 0.1.0. Without it, the tests build the commit that added the release
//! to CHANGELOG.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::PASSWORD,
    eventually,
    process::{Running, production_command, run, start_server},
    queue::client,
    servers::{TestDatabase, servers, unique},
    smtp::SmtpServer,
};

const FIRST_RELEASE: &str = "0.1.0";
const ADMIN: (&str, &str) = ("admin@example.com", "a password of ours");
const NEW_PASSWORD: &str = "another good password";

/// Runs a program and returns its output.
fn output_of(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the path of the binary of the first release: `OLD_SAAS`, or a binary that is built if no earlier run has built it.
fn first_release() -> PathBuf {
    if let Some(path) = std::env::var_os("OLD_SAAS").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let heading = format!(r"^## \[?{}([^0-9.]|$)", FIRST_RELEASE.replace('.', r"\."));
    let log = ["log", "--reverse", "--format=%H", "-G", &heading, "--", "CHANGELOG.md"];
    let commits = output_of("git", &log, root);
    let commit = commits.lines().next().unwrap_or_else(|| {
        panic!(
            "the upgrade from {FIRST_RELEASE} is not tried: no commit has added this release to CHANGELOG.md. Fetch the \
             whole history, or set OLD_SAAS to the binary of the release"
        )
    });
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("saas-{FIRST_RELEASE}-{commit}"));
    let (source, target) = (dir.join("source"), dir.join("target"));
    let binary = target.join("debug/saas");
    if !binary.exists() {
        fs::create_dir_all(&source).unwrap();
        let archive = dir.join("source.tar");
        let archive = archive.to_str().unwrap();
        output_of("git", &["archive", "--output", archive, commit], root);
        output_of("tar", &["-xf", archive], &source);
        let mut build = Command::new("cargo");
        build.args(["build", "--locked", "--quiet", "--bin", "saas"]).current_dir(&source);
        let status = build.env("CARGO_TARGET_DIR", &target).status().unwrap();
        assert!(status.success(), "release {FIRST_RELEASE} cannot be built");
    }
    binary
}

/// A release, with the settings of its processes.
struct Release<'a> {
    binary: PathBuf,
    database: &'a TestDatabase,
    prefix: String,
    smtp_url: String,
}

impl Release<'_> {
    async fn command(&self, args: &[&str]) -> Command {
        let current = production_command(args, self.database, &self.prefix).await;
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir("/").env_clear().env("SMTP_URL", &self.smtp_url);
        command.envs(current.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    async fn migrate(&self) -> String {
        run(self.command(&["migrate", "up"]).await).await.succeeded().stdout
    }

    async fn serve(&self) -> Api {
        let (process, address) = start_server(self.command(&["serve", "--port", "0"]).await).await;
        Api { process, url: format!("http://{address}/api/v1"), client: Client::new() }
    }

    async fn work(&self) -> Running {
        let mut worker = Running::start(self.command(&["worker"]).await);
        worker.wait_for_output("worker started").await;
        worker
    }
}

struct Api {
    process: Running,
    url: String,
    client: Client,
}

impl Api {
    /// Sends a request that must succeed.
    async fn send(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.try_send(method, path, token, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn try_send(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn sign_in(&self, (email, password): (&str, &str)) -> Value {
        let form = [("username", email), ("password", password)];
        let login = self.client.post(format!("{}/auth/login", self.url)).form(&form).send().await.unwrap();
        let login: Value = login.json().await.unwrap();
        assert!(login["access_token"].is_string(), "{login}");
        login
    }

    /// Enqueues jobs of the three kinds that both releases offer. Returns their ids.
    async fn enqueue(&self, admin: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for number in 0..5 {
            for (path, body) in [
                ("/jobs/example?name=x&duration=0", None),
                ("/jobs/process-data", Some(json!({ "number": number }))),
                ("/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello", None),
            ] {
                let made = self.send(Method::POST, path, admin, body).await;
                ids.push(made["job_id"].as_str().unwrap().to_owned());
            }
        }
        ids
    }

    /// Waits until this API reports the jobs as finished.
    async fn wait_until_finished(&self, admin: &str, ids: &[String]) {
        for id in ids {
            eventually("the job has finished", || async {
                let job = self.send(Method::GET, &format!("/jobs/{id}/status"), admin, None).await;
                assert!(job["status"] != "failed" && job["status"] != "canceled", "{job}");
                (job["status"] == "finished").then_some(())
            })
            .await;
        }
    }

    /// Reads the user repeatedly until `stop` is canceled. Each request must succeed. Returns the number of requests.
    fn start_load(&self, token: &str, stop: CancellationToken) -> JoinHandle<u64> {
        let (client, url, token) = (Client::new(), format!("{}/users/me", self.url), token.to_owned());
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.is_cancelled() {
                let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
                assert_eq!(answer.status(), 200, "request {count}");
                answer.bytes().await.unwrap();
                count += 1;
            }
            count
        })
    }

    async fn stop(self) -> String {
        stop(self.process).await
    }
}

/// Stops a process, which must end without an error. Returns its output.
async fn stop(mut process: Running) -> String {
    process.signal("TERM");
    assert!(process.end().await.success(), "{}", process.output());
    process.output()
}

/// Uses one account from registration to deactivation. Some requests go to one release, and some to the other.
async fn use_an_account(here: &Api, there: &Api, admin: &str, smtp: &SmtpServer) {
    let email = format!("upgrade{}@example.com", unique());
    let account = json!({ "email": email, "password": PASSWORD });
    let id = here.send(Method::POST, "/auth/register", admin, Some(account)).await["id"].to_string();
    let login = there.sign_in((&email, PASSWORD)).await;
    let refresh = json!({ "refresh_token": login["refresh_token"] });
    let login = here.send(Method::POST, "/auth/refresh", admin, Some(refresh)).await;
    let token = login["access_token"].as_str().unwrap();
    for api in [there, here] {
        assert_eq!(api.send(Method::GET, "/users/me", token, None).await["email"], email.as_str());
    }
    there.send(Method::PATCH, "/users/me", token, Some(json!({ "full_name": "Ada" }))).await;
    eventually("the other release has the name", || async {
        (here.send(Method::GET, "/users/me", token, None).await["full_name"] == "Ada").then_some(())
    })
    .await;
    let new = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    here.send(Method::POST, "/users/me/password", token, Some(new)).await;
    there.sign_in((&email, NEW_PASSWORD)).await;
    there.send(Method::PATCH, &format!("/users/{id}"), admin, Some(json!({ "is_active": false }))).await;
    eventually("the other release refuses the user", || async {
        (here.try_send(Method::GET, "/users/me", token, None).await.0 == 403).then_some(())
    })
    .await;
    let list = here.send(Method::GET, &format!("/users?search={email}"), admin, None).await;
    assert!(list.to_string().contains(&email), "{list}");
    // A worker sends the mail of the registration.
    eventually("the user has got a mail", || async {
        smtp.mails().iter().any(|mail| mail.to.contains(&email)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds the first release: ./scripts/test --full release"]
async fn the_first_release_and_this_one_work_side_by_side() {
    let binary = tokio::task::spawn_blocking(first_release).await.unwrap();
    let (smtp, database) = (SmtpServer::start().await, TestDatabase::empty().await);
    let prefix = format!("v{}", unique());
    let release = |binary: PathBuf| Release {
        binary,
        database: &database,
        prefix: prefix.clone(),
        smtp_url: smtp.url.clone(),
    };
    let (old, new) = (release(binary), release(env!("CARGO_BIN_EXE_saas").into()));

    assert!(old.migrate().await.contains("applied"));
    let (old_api, old_worker) = (old.serve().await, old.work().await);
    let login = old_api.sign_in(ADMIN).await;
    let admin = login["access_token"].as_str().unwrap();
    database.sql("UPDATE users SET email_verified_at = now()").await;
    let finished = CancellationToken::new();
    let load = old_api.start_load(admin, finished.clone());

    // The new schema and the new API with an old worker.
    new.migrate().await;
    let new_api = new.serve().await;
    old_api.wait_until_finished(admin, &new_api.enqueue(admin).await).await;
    // Workers of both releases.
    let new_worker = new.work().await;
    let jobs = [old_api.enqueue(admin).await, new_api.enqueue(admin).await].concat();
    new_api.wait_until_finished(admin, &jobs).await;
    use_an_account(&old_api, &new_api, admin, &smtp).await;
    use_an_account(&new_api, &old_api, admin, &smtp).await;
    // The old API with a new worker.
    let mut outputs = vec![stop(old_worker).await];
    new_api.wait_until_finished(admin, &old_api.enqueue(admin).await).await;
    finished.cancel();
    assert!(load.await.unwrap() > 0);
    outputs.push(old_api.stop().await);

    // A rollback: the old release on the new schema, with jobs and sessions of the new one.
    let jobs = new_api.enqueue(admin).await;
    outputs.push(stop(new_worker).await);
    let (old_api, old_worker) = (old.serve().await, old.work().await);
    assert_eq!(old_api.send(Method::GET, "/health/ready", admin, None).await["migrations"], "ok");
    old_api.wait_until_finished(admin, &jobs).await;
    use_an_account(&old_api, &new_api, admin, &smtp).await;
    outputs.extend([new_api.stop().await, old_api.stop().await, stop(old_worker).await]);

    for output in outputs {
        let errors: Vec<_> = output.lines().filter(|line| line.contains("\"level\":\"error\"")).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    let queue = client(&servers().await.redis_url(), &prefix);
    for info in queue.queues().await.unwrap() {
        assert_eq!((info.failed, info.totals.failed), (0, 0), "{}", info.name);
    }
}
