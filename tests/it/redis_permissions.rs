//! The permissions that the Redis user needs, and the error messages about missing permissions.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use reqwest::Method;
use saas::dev::{Purpose, Server, test_dir};
use secrecy::ExposeSecret;

use crate::support::{
    TestApp, eventually,
    process::{Running, production_command, run, saas, start_server},
    queue::{Behavior, TestQueue, connect},
    servers::{TestDatabase, servers},
};

const GUIDE: &str = "docs/databases.md";
/// Commands of the scripts that the probe tries without a key or not at all. `TYPE` is an option of SCAN.
const NOT_TRIED_WITH_A_KEY: [&str; 5] = ["PING", "SCRIPT", "TIME", "SCAN", "TYPE"];

fn read_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A Redis server for one test, in which the test creates the user `saas`.
struct OwnRedis {
    server: Server,
}

impl OwnRedis {
    async fn start() -> Self {
        Self { server: Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap() }
    }

    async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut conn = connect(self.server.url.expose_secret()).await.unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await.unwrap()
    }

    /// Returns the URL for the user `saas`, with the password from the documentation.
    fn url(&self) -> String {
        let (_, place) = self.server.url.expose_secret().split_once('@').unwrap();
        format!("redis://saas:password@{place}")
    }

    async fn saas_command(&self, args: &[&str], database: &TestDatabase) -> Command {
        let mut command = production_command(args, database, "rq").await;
        command.env("REDIS_URL", self.url());
        command
    }
}

#[tokio::test]
async fn the_documented_redis_permissions_are_sufficient() {
    let guide = read_file(GUIDE);
    let line = guide.lines().find(|line| line.starts_with("ACL SETUSER saas ")).unwrap();
    let redis = OwnRedis::start().await;
    redis.command::<()>(&line.split_whitespace().collect::<Vec<_>>()).await;
    let app = TestApp::with(&[&format!("--redis-url={}", redis.url()), "--redis-key-prefix=rq"]).await;
    let user = app.user().await;

    let doctor = run(redis.saas_command(&["doctor"], &app.database).await).await.succeeded().stdout;
    assert!(doctor.contains("ok    redis") && !doctor.contains("may not"), "{doctor}");

    // The worker starts before the first job, so the job has to wake the worker.
    let mut worker = Running::start(redis.saas_command(&["worker"], &app.database).await);
    worker.wait_for_output("worker started").await;
    let enqueue = |seconds: u32| {
        let path = format!("/jobs/example?name=x&duration={seconds}");
        let (app, user) = (&app, &user);
        async move { app.call(Method::POST, &path, user).await.body["job_id"].as_str().unwrap().to_owned() }
    };
    let until = |id: String, state: &'static str| {
        let (app, user) = (&app, &user);
        async move {
            eventually(state, || async {
                let status = app.get(&format!("/jobs/{id}/status"), Some(user)).await;
                (status.body["status"] == state).then_some(())
            })
            .await;
            id
        }
    };
    until(enqueue(0).await, "finished").await;
    let long = until(enqueue(3_600).await, "started").await;
    app.call(Method::DELETE, &format!("/jobs/{long}"), &user).await;
    until(long, "canceled").await;

    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(app.login(&user.email, "wrong password").await.status.as_u16());
    }
    assert!(statuses.contains(&401) && statuses.contains(&429), "{statuses:?}");
    eventually("a value is cached", || async {
        let load = async || Ok(7);
        let _: i32 = app.app.cache.get_or_load("rights", Duration::from_secs(3_600), load).await.unwrap();
        (redis.command::<Option<String>>(&["GET", "rq:cache:rights"]).await? == "7").then_some(())
    })
    .await;
    app.app.cache.invalidate("rights").await;
    assert_eq!(app.get("/health/redis", None).await.status, 200);
    for command in [
        &["queue", "stats"][..],
        &["queue", "workers"],
        &["queue", "failed"],
        &["queue", "pause", "default"],
        &["queue", "resume", "default"],
        &["queue", "limit", "default", "--concurrency", "2"],
    ] {
        run(redis.saas_command(command, &app.database).await).await.succeeded();
    }
    worker.signal("TERM");
    assert!(worker.end().await.success());
    let denied: Vec<redis::Value> = redis.command(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
}

#[tokio::test]
async fn a_missing_redis_permission_is_named_by_doctor_and_at_start() {
    let database = TestDatabase::migrated().await;
    let redis = OwnRedis::start().await;
    for (at, (permissions, problem)) in [
        (
            &["~*", "+@all", "-@scripting"][..],
            "may not run EVALSHA: grant it with `ACL SETUSER <name> +@scripting`",
        ),
        (
            &["~*", "+@all", "-script|load"][..],
            "may not run SCRIPT|LOAD: grant it with `ACL SETUSER <name> +@scripting`",
        ),
        (
            &["~*", "+@all", "-hset", "-zadd"][..],
            "may not run HSET, ZADD: grant it with `ACL SETUSER <name> +hset +zadd`",
        ),
        (&["~*", "+@all", "-bzpopmin"][..], "may not run BZPOPMIN"),
        (&["~*", "+@all", "-psetex", "-ping"][..], "may not run PSETEX, PING"),
        (&["~other:*", "+@all"][..], "grant them with `ACL SETUSER <name> ~rq ~rq:*`"),
        (&["~rq", "+@all"][..], "grant them with `ACL SETUSER <name> ~rq ~rq:*`"),
        (&["~rq", "~rq:queue:*", "+@all"][..], "grant them with `ACL SETUSER <name> ~rq ~rq:*`"),
    ]
    .into_iter()
    .enumerate()
    {
        let user = [&["ACL", "SETUSER", "saas", "reset", "on", ">password"][..], permissions].concat();
        redis.command::<()>(&user).await;
        let doctor = run(redis.saas_command(&["doctor"], &database).await).await;
        let line = doctor.stdout.lines().find(|line| line.starts_with("FAIL  redis")).unwrap_or_default();
        assert!(doctor.code == Some(1) && line.contains(problem) && line.contains(GUIDE), "{doctor:?}");
        // `worker` and `serve` run the same checks.
        let command = if at % 2 == 0 { &["worker", "--burst"][..] } else { &["serve", "--port", "0"] };
        run(redis.saas_command(command, &database).await).await.failed(1, &[problem]);
    }
}

#[tokio::test]
async fn the_permission_to_run_info_is_optional() {
    let database = TestDatabase::migrated().await;
    let redis = OwnRedis::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "saas", "on", ">password", "~*", "+@all", "-info"]).await;
    let doctor = run(redis.saas_command(&["doctor"], &database).await).await.succeeded().stdout;
    assert!(doctor.contains("warn  redis") && doctor.contains("may not run INFO"), "{doctor}");
    let worker = run(redis.saas_command(&["worker", "--burst"], &database).await).await.succeeded();
    assert!(worker.stderr.contains("may not run INFO"), "{}", worker.stderr);
    let (mut server, _) = start_server(redis.saas_command(&["serve", "--port", "0"], &database).await).await;
    server.wait_for_output("may not run INFO").await;
}

#[tokio::test]
async fn a_move_without_the_permission_to_scan_is_refused_before_it_moves_a_job() {
    let redis = OwnRedis::start().await;
    redis.command::<()>(&["ACL", "SETUSER", "saas", "on", ">password", "~*", "+@all", "-scan"]).await;
    let old = TestQueue::on(redis.server.url.expose_secret(), "old");
    old.push("one", Behavior::Succeed).await;
    let mut command = saas(&["queue", "move", "--from", "old"]);
    command.env("REDIS_URL", redis.url());
    run(command).await.failed(1, &["'scan'"]);
    let left: u64 = redis.command(&["LLEN", "old:queue:default"]).await;
    assert_eq!(left, 1);
}

#[tokio::test]
async fn the_permission_probe_tries_every_command_of_the_scripts() {
    let mut conn = connect(&servers().await.redis_url()).await.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/queue/scripts");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    scripts.push_str(&read_file("src/attempts/attempts.lua"));
    scripts.push_str(&read_file("src/rate_limits/settle.lua"));
    let probe = read_file("src/queue/scripts/probe.lua");
    let (_, list) = probe.split_once("local COMMANDS = ").unwrap();
    let (list, _) = list.split_once("\nif ").unwrap();
    let mut tried: Vec<_> = list.split(|c: char| !c.is_ascii_uppercase()).collect();
    tried.extend(NOT_TRIED_WITH_A_KEY);
    // Takes the text from each quote to the next quote. Quotes cannot be paired, because comments contain apostrophes.
    let quoted = scripts.match_indices('\'').filter_map(|(at, _)| scripts[at + 1..].split('\'').next());
    let is_word = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let words: BTreeSet<_> = quoted.filter(is_word).collect();
    let mut commands = 0;
    for word in words {
        let info: Vec<redis::Value> =
            redis::cmd("COMMAND").arg("INFO").arg(word).query_async(&mut conn).await.unwrap();
        if info[0] != redis::Value::Nil {
            assert!(tried.contains(&word), "add {word} to src/queue/scripts/probe.lua, and check {GUIDE}");
            commands += 1;
        }
    }
    assert!(commands > 30, "{commands}");
}
