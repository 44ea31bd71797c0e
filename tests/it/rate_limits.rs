//! Rate limits of requests: the caller that a request counts for, the refusals, and limits that replicas share.
//!
//! Most tests stop the clock of the limits, so that no bucket gains tokens while a test sends requests.

use std::{iter, sync::Arc, time::Duration};

use reqwest::{Client, Method};
use saas::rate_limits::{Caller, Class, Limit, RateLimits};
use serde_json::json;

use crate::{
    openapi::list_operations,
    support::{
        TestApp, User,
        app::{Answer, SECRET},
        eventually,
        process::{production_command, start_server},
        queue::connect,
        servers::{TestDatabase, servers, unique},
    },
};

const RATE_LIMITS_ON: &str = "--rate-limits=true";
const CLASSES: [Class; 4] = [Class::Auth, Class::Read, Class::Write, Class::Enqueue];
const ADDRESS: &str = "203.0.113.7";

/// Starts an application behind a proxy, with rate limits and a stopped clock.
async fn start_limited(flags: &[&str]) -> TestApp {
    let app = TestApp::with(&[&[RATE_LIMITS_ON, "--trusted-proxies=1"][..], flags].concat()).await;
    set_clock(&app.app.rate_limits, 1);
    app
}

fn set_clock(limits: &RateLimits, seconds: u64) {
    limits.clock().stop_at(Duration::from_secs(seconds));
}

/// Uses up all requests that a caller may send.
fn exhaust(app: &TestApp, caller: Caller) {
    for class in CLASSES {
        while app.app.rate_limits.take(caller, class, Limit::per_minute(1)).is_allowed {}
    }
}

/// Sends a request without a body from a client address.
async fn send_from(app: &TestApp, address: &str, method: Method, path: &str, token: Option<&str>) -> Answer {
    let request = app.at_root(method, path).header("x-forwarded-for", address);
    Answer::of(match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    })
    .await
}

/// Asserts that the response is 429 for a class of operations, with a wait of `wait` seconds.
#[track_caller]
fn assert_limited(answer: &Answer, class: &str, wait: u64) {
    answer.is_problem(429, "rate_limited", &format!("Too many requests, try again in {wait} seconds"));
    assert_eq!(answer.header("retry-after"), wait.to_string());
    assert_eq!(answer.header("ratelimit"), format!("\"{class}\";r=0;t={wait}"));
    assert!(answer.header("ratelimit-policy").starts_with(&format!("\"{class}\";q=")));
}

#[tokio::test]
async fn smoke_each_user_has_a_limit_for_each_class() {
    let app = start_limited(&[
        "--rate-limit-read-per-minute=3",
        "--rate-limit-write-per-minute=2",
        "--rate-limit-enqueue-per-minute=1",
    ])
    .await;
    let (user, other) = (app.user().await, app.user().await);
    let read = async |user: &User| app.get("/users/me", Some(user)).await;
    for (remaining, reset) in [(2, 20), (1, 40), (0, 20)] {
        let answer = read(&user).await;
        assert_eq!((answer.status.as_u16(), answer.header("ratelimit-policy")), (200, "\"read\";q=3;w=60"));
        assert_eq!(answer.header("ratelimit"), format!("\"read\";r={remaining};t={reset}"));
    }
    assert_limited(&read(&user).await, "read", 20);

    let change = app.request(Method::PATCH, "/users/me").bearer_auth(&user.token);
    let change = change.json(&json!({ "full_name": "Ada" }));
    for _ in 0..2 {
        assert_eq!(Answer::of(change.try_clone().unwrap()).await.status, 200);
    }
    assert_limited(&Answer::of(change).await, "write", 30);

    let enqueue = async || app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    assert_eq!(enqueue().await.status, 200);
    assert_limited(&enqueue().await, "enqueue", 60);

    assert_eq!(read(&other).await.header("ratelimit"), "\"read\";r=2;t=20");
    set_clock(&app.app.rate_limits, 21);
    assert_eq!(read(&user).await.status, 200, "a third of a minute later");
    assert_limited(&read(&user).await, "read", 20);
}

#[tokio::test]
async fn requests_without_a_user_count_for_the_network_of_the_client() {
    let app = start_limited(&["--rate-limit-auth-per-minute=2"]).await;
    let invalid_link = json!({ "token": "0".repeat(64), "password": "another horse battery" });
    for addresses in [
        [ADDRESS, "::ffff:203.0.113.7", "203.0.113.7:4711"],
        ["203.0.113.8", "203.0.113.8", "203.0.113.8"],
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "[2001:db8:1:2::3]:4711"],
        ["2001:db8:1:3::1", "2001:db8:1:3::2", "2001:db8:1:3::3"],
        // Here the client has no known address. The address of the proxy must not count instead.
        ["unknown", "", "203.0.113"],
    ] {
        let mut codes = Vec::new();
        for address in addresses {
            let request = app.request(Method::POST, "/auth/reset-password").json(&invalid_link);
            codes.push(Answer::of(request.header("x-forwarded-for", address)).await.body["code"].clone());
        }
        assert_eq!(codes, ["invalid_link", "invalid_link", "rate_limited"], "{addresses:?}");
    }
    // A request without the header did not come through a proxy, so it counts for the address of its connection.
    let direct = app.request(Method::POST, "/auth/reset-password").json(&invalid_link);
    assert_eq!(Answer::of(direct).await.body["code"], "invalid_link");
    let login = app.form("/auth/login", &[("username", "ada@example.com"), ("password", "a password")]);
    let login = Answer::of(login.header("x-forwarded-for", ADDRESS)).await;
    assert_limited(&login, "auth", 30);
    assert_eq!(login.body["error"], "temporarily_unavailable", "for OAuth2 clients");
}

#[tokio::test]
async fn failed_requests_count_for_the_network_and_not_for_its_users() {
    let app = start_limited(&["--rate-limit-read-per-minute=2"]).await;
    let (user, signed_out) = (app.user().await, app.user().await);
    assert_eq!(app.call(Method::POST, "/auth/logout", &signed_out).await.status, 204);
    for (n, (path, token, status)) in [
        ("/users/me", None, 401),
        ("/users/me", Some("invalid"), 401),
        ("/users/me", Some(&*signed_out.token), 401),
        ("/nothing", None, 404),
        ("/nothing", Some(&*user.token), 404),
        ("/users//me", None, 404),
    ]
    .into_iter()
    .enumerate()
    {
        let (address, path) = (format!("198.51.100.{n}"), format!("/api/v1{path}"));
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(send_from(&app, &address, Method::GET, &path, token).await.status.as_u16());
        }
        assert_eq!(statuses, [status, status, 429], "{path} {token:?}");
    }
    for expected in [200, 200, 429] {
        let own = send_from(&app, "198.51.100.0", Method::GET, "/api/v1/users/me", Some(&user.token)).await;
        assert_eq!(own.status, expected, "the requests of the user, in a network without any left");
    }
}

/// The test reads the operations from the API document, so it covers new operations.
#[tokio::test]
async fn every_operation_but_health_checks_is_refused_before_it_acts() {
    let app = start_limited(&[]).await;
    let admin = app.admin().await;
    let document = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    exhaust(&app, Caller::User(admin.id));
    exhaust(&app, Caller::network(Some(ADDRESS.parse().unwrap())));
    let (mut refused, mut health_checks) = (0, 0);
    for (path, method, operation) in list_operations(&document) {
        let method: Method = method.to_uppercase().parse().unwrap();
        let url = path.replace("{id}", &admin.id.to_string()).replace("{name}", "default");
        let is_public = operation["security"].as_array().unwrap().is_empty();
        let anonymous = send_from(&app, ADDRESS, method.clone(), &url, None).await;
        if path.contains("/health") {
            assert!(anonymous.status == 200 && !anonymous.headers.contains_key("ratelimit"), "{path}");
            health_checks += 1;
            continue;
        }
        assert_eq!(anonymous.body["code"], "rate_limited", "{method} {path}: {}", anonymous.text);
        let enqueues = operation["responses"]["200"].to_string().contains("/schemas/Enqueued\"");
        let is_enqueue = anonymous.header("ratelimit").starts_with("\"enqueue\"");
        assert_eq!(is_enqueue, enqueues, "{method} {path}: {}", anonymous.header("ratelimit"));
        if !is_public {
            let own = send_from(&app, "203.0.113.8", method.clone(), &url, Some(&admin.token)).await;
            assert_eq!(own.body["code"], "rate_limited", "{method} {path}: {}", own.text);
        }
        refused += 1;
    }
    assert!(refused > 40 && health_checks == 5, "{refused} {health_checks}");
    set_clock(&app.app.rate_limits, 3_600);
    assert_eq!(app.get("/users/me", Some(&admin)).await.status, 200, "nothing has changed the session");
}

#[tokio::test]
async fn conditional_reads_have_the_headers_of_the_limits() {
    let app = start_limited(&["--rate-limit-read-per-minute=6"]).await;
    let user = app.user().await;
    for (known, status, remaining) in [("\"x\"", 200, 5), ("*", 304, 4), ("x", 400, 3)] {
        let request = app.request(Method::GET, "/users/me").bearer_auth(&user.token);
        let answer = Answer::of(request.header("if-none-match", known)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("ratelimit-policy")),
            (status, "\"read\";q=6;w=60")
        );
        let start = format!("\"read\";r={remaining};");
        assert!(answer.header("ratelimit").starts_with(&start), "{known}: {}", answer.header("ratelimit"));
    }
}

#[tokio::test]
async fn pages_and_preflights_are_not_rate_limited() {
    let app = start_limited(&[]).await;
    exhaust(&app, Caller::network(Some(ADDRESS.parse().unwrap())));
    for path in ["/docs", "/openapi.json", "/account/reset-password"] {
        let answer = send_from(&app, ADDRESS, Method::GET, path, None).await;
        assert!(answer.status == 200 && !answer.headers.contains_key("ratelimit"), "{path}");
    }
    let preflight = app.request(Method::OPTIONS, "/users/me").header("origin", "http://localhost:3000");
    let preflight = preflight.header("access-control-request-method", "GET");
    assert_eq!(Answer::of(preflight.header("x-forwarded-for", ADDRESS)).await.status, 204);
}

#[tokio::test]
async fn rate_limits_can_be_turned_off() {
    let app = TestApp::with(&["--rate-limits=false", "--rate-limit-read-per-minute=1"]).await;
    for _ in 0..3 {
        let answer = app.get("/users/me", None).await;
        assert!(answer.status == 401 && !answer.headers.contains_key("ratelimit-policy"), "{answer:?}");
    }
}

#[tokio::test]
async fn replicas_share_a_limit_through_redis() {
    let database = Arc::new(TestDatabase::migrated().await);
    let prefix = format!("l{}", unique());
    let prefix_flag = format!("--redis-key-prefix={prefix}");
    let flags = [RATE_LIMITS_ON, "--rate-limit-read-per-minute=2", prefix_flag.as_str()];
    let (here, there) = (TestApp::on(database.clone(), &flags).await, TestApp::on(database, &flags).await);
    set_clock(&here.app.rate_limits, 1);
    set_clock(&there.app.rate_limits, 1);
    let user = here.user().await;
    let read = async |app: &TestApp| app.get("/users/me", Some(&user)).await.status.as_u16();
    assert_eq!((read(&here).await, read(&here).await, read(&here).await), (200, 200, 429));
    here.app.rate_limits.settle().await.unwrap();
    // A replica reads the totals of the other replicas when it reports a request of its own.
    assert_eq!(read(&there).await, 200);
    there.app.rate_limits.settle().await.unwrap();
    assert_eq!(read(&there).await, 429);

    let mut conn = connect(&servers().await.redis_url()).await.unwrap();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{prefix}:requests:*")).query_async(&mut conn).await.unwrap();
    for key in &keys {
        let ttl: i64 = redis::cmd("PTTL").arg(key).query_async(&mut conn).await.unwrap();
        assert!(ttl <= 90_000 && ttl != -1, "{key} {ttl}");
    }
    assert!(keys.iter().any(|key| key.contains(":requests:read:")), "{keys:?}");
}

#[tokio::test]
async fn replicas_exceed_a_limit_once_and_then_allow_less() {
    let app = TestApp::start().await;
    let replica = || RateLimits::new(app.app.redis.clone(), &app.prefix, SECRET);
    let take = |replica: &RateLimits| replica.take(Caller::User(7), Class::Write, Limit::per_minute(4));
    let replicas = [replica(), replica(), replica()];
    // Returns how many requests all replicas together allow before they refuse.
    let allowed = |seconds| -> usize {
        let each = replicas.iter().map(|replica| {
            set_clock(replica, seconds);
            iter::repeat_with(|| take(replica).is_allowed).take_while(|is_allowed| *is_allowed).count()
        });
        each.sum()
    };
    let settle = async || {
        for replica in &replicas {
            replica.settle().await.unwrap();
        }
    };
    // Before the first settlement, no replica knows the requests of the others. So the three replicas allow the limit of 4
    // and a surplus of 2 * 4.
    assert_eq!(allowed(1), 12);
    settle().await;
    // The replica that settled first does not know the later reports of the others.
    assert_eq!(allowed(16), 1);
    settle().await;
    assert_eq!(allowed(40), 0, "replicas that do not share would have allowed 6");

    // The debt is limited, so that a jump of the Redis clock does not block a caller for long.
    for _ in 0..20 {
        let another = replica();
        while take(&another).is_allowed {}
        another.settle().await.unwrap();
    }
    let last = replica();
    set_clock(&last, 1);
    assert!(take(&last).is_allowed);
    last.settle().await.unwrap();
    let wait = take(&last).reset_seconds;
    assert!((500..=615).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_report_does_not_extend_the_announced_wait() {
    let app = TestApp::start().await;
    let limits = RateLimits::new(app.app.redis.clone(), &app.prefix, SECRET);
    let take = |user: i64, quota: u32| limits.take(Caller::User(user), Class::Read, Limit::per_minute(quota));
    set_clock(&limits, 1);
    assert!(take(7, 1).is_allowed);
    assert_eq!(take(7, 1).reset_seconds, 60);
    // When this request is reported, its bucket is full again.
    assert!(take(8, 60).is_allowed);
    set_clock(&limits, 5);
    limits.settle().await.unwrap();
    assert_eq!((take(7, 1).reset_seconds, take(8, 60).remaining), (56, 59));
    set_clock(&limits, 61);
    assert!(take(7, 1).is_allowed);
}

#[tokio::test]
async fn without_redis_each_process_limits_by_itself() {
    let unreachable = ["--redis-url=redis://127.0.0.1:1/", "--redis-timeout-ms=200"];
    let app = start_limited(&[&unreachable[..], &["--rate-limit-read-per-minute=2"][..]].concat()).await;
    let read = async || app.get("/users/me", None).await.status.as_u16();
    assert_eq!((read().await, read().await, read().await), (401, 401, 429));
    assert!(app.app.rate_limits.settle().await.is_err());
    assert_eq!(read().await, 429);
    set_clock(&app.app.rate_limits, 31);
    assert_eq!((read().await, read().await), (401, 429));
}

#[tokio::test]
async fn rate_limits_are_on_by_default_and_a_refusal_is_logged_once_a_minute() {
    let database = TestDatabase::migrated().await;
    let prefix = format!("l{}", unique());
    let mut command = production_command(&["serve", "--port", "0"], &database, &prefix).await;
    command.env_remove("RATE_LIMITS").env("RATE_LIMIT_READ_PER_MINUTE", "1");
    let (mut process, address) = start_server(command).await;
    let (client, url) = (Client::new(), format!("http://{address}/api/v1"));
    let sign_in = Answer::of(client.post(format!("{url}/auth/login"))).await;
    assert_eq!(sign_in.header("ratelimit-policy"), "\"auth\";q=120;w=60");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let read = client.get(format!("{url}/users/me")).header("x-forwarded-for", ADDRESS);
        statuses.push(Answer::of(read).await.status.as_u16());
    }
    assert_eq!(statuses, [401, 429, 429, 429]);

    // The process reports its requests to Redis in the background.
    let redis_url = servers().await.redis_url();
    eventually("the use is in Redis", || async {
        let mut conn = connect(&redis_url).await.ok()?;
        let pattern = format!("{prefix}:requests:read:*");
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut conn).await.ok()?;
        (keys.len() == 1).then_some(())
    })
    .await;
    process.signal("TERM");
    process.wait_for_output("\"stopped\"").await;
    process.end().await;
    let output = process.output();
    let lines = |text: &str| output.lines().filter(|line| line.contains(text)).collect::<Vec<_>>();
    let events = lines("\"event\":\"request.throttled\"");
    assert!(events.len() == 1 && events[0].contains("\"rule\":\"read\""), "{events:?}");
    assert_eq!(lines("set TRUSTED_PROXIES").len(), 1, "{output}");
}
