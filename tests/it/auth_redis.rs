//! Counters of attempts: their keys in Redis, and the limits while Redis is full, read-only or unreachable.

use futures_util::{StreamExt, stream};
use reqwest::Method;
use saas::{
    attempts::{Operation, Rule},
    dev::{Purpose, Server, test_dir},
};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    authenticator::{Authenticator, answer, challenge, enable_two_factor, forget_used_codes},
    queue::connect,
    records::column,
};

const UNREACHABLE_REDIS: [&str; 2] = ["--redis-url=redis://127.0.0.1:1/", "--redis-timeout-ms=200"];
const WRONG_PASSWORD: &str = "wrong password";

/// The private Redis server of one test. The test may fill it or make it read-only.
struct OwnRedis(Server);

impl OwnRedis {
    async fn start() -> Self {
        Self(Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap())
    }

    async fn app(&self) -> TestApp {
        TestApp::with(&[&format!("--redis-url={}", self.0.url.expose_secret())]).await
    }

    async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut conn = connect(self.0.url.expose_secret()).await.unwrap();
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut conn).await.unwrap()
    }

    /// Sets `maxmemory` to one byte, so that Redis refuses commands that need memory, except in scripts with the flag
    /// `allow-oom`.
    async fn fill_up(&self) {
        self.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    }

    async fn throttle_keys(&self, app: &TestApp) -> Vec<String> {
        self.run(&["KEYS", &format!("{}:throttle:*", app.prefix)]).await
    }
}

/// Tries fifteen wrong passwords. Asserts that five are checked, or up to three more on a slow machine, and
/// that the others are throttled.
async fn assert_password_attempts_are_limited(app: &TestApp, user: &User) {
    let mut statuses = Vec::new();
    for _ in 0..15 {
        let answer = app.login(&user.email, WRONG_PASSWORD).await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses[..5], [401; 5]);
    let rest: Vec<_> = statuses[5..].iter().filter(|status| **status != 429).collect();
    assert!(rest.len() <= 3 && rest.iter().all(|status| **status == 401), "{statuses:?}");
}

/// Requests links of two kinds, each three times. Asserts that all requests are accepted, and that two to six messages are
/// written to the outbox. The limit of each kind is one message without Redis and three messages with Redis.
async fn assert_links_are_sent(app: &TestApp, user: &User) {
    let outbox =
        async || column(&app.database, "SELECT count(*) FROM job_outbox").await[0].parse::<u32>().unwrap();
    let before = outbox().await;
    for path in ["/auth/forgot-password", "/auth/verify-email/resend"] {
        for _ in 0..3 {
            assert_eq!(app.post(path, None, json!({ "email": user.email })).await.status, 202, "{path}");
        }
    }
    let sent = outbox().await - before;
    assert!((2..=6).contains(&sent), "{sent} messages");
}

#[tokio::test]
async fn smoke_attempts_are_counted_without_redis() {
    let app = TestApp::with(&UNREACHABLE_REDIS).await;
    let (user, other) = (app.user().await, app.user().await);
    assert_password_attempts_are_limited(&app, &user).await;
    assert_eq!(app.login(&other.email, PASSWORD).await.status, 200);
    assert_links_are_sent(&app, &other).await;
    // The process also counts the requests of one network for links, over all addresses.
    let mut refused = 0;
    for n in 0..20 {
        let email = format!("other{n}@example.com");
        let asked = app.post("/auth/forgot-password", None, json!({ "email": email })).await;
        match asked.status.as_u16() {
            429 => refused += 1,
            status => assert_eq!(status, 202),
        }
    }
    assert!(refused >= 10, "{refused} of 20");
}

#[tokio::test]
async fn attempts_are_counted_while_redis_is_full() {
    let redis = OwnRedis::start().await;
    let app = redis.app().await;
    let (user, other) = (app.user().await, app.user().await);
    redis.fill_up().await;
    let full = app.call(Method::POST, "/jobs/example?name=x&duration=0", &other).await;
    full.is_some_problem(503, "unavailable");
    assert_password_attempts_are_limited(&app, &user).await;
    assert_eq!(redis.throttle_keys(&app).await.len(), 1, "counted in Redis");
    assert_links_are_sent(&app, &other).await;
    redis.0.stop().await;
}

#[tokio::test]
async fn attempts_are_counted_while_redis_is_read_only() {
    let redis = OwnRedis::start().await;
    let app = redis.app().await;
    let user = app.user().await;
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_password_attempts_are_limited(&app, &user).await;
    assert_links_are_sent(&app, &user).await;
    redis.0.stop().await;
}

/// Each process also counts its own attempts while Redis works, so these counts do not start at zero when Redis fails.
#[tokio::test]
async fn an_outage_of_redis_does_not_reset_the_counters() {
    let redis = OwnRedis::start().await;
    let app = redis.app().await;
    let user = app.user().await;
    for _ in 0..4 {
        app.login(&user.email, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    }
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let answers =
        [app.login(&user.email, WRONG_PASSWORD).await, app.login(&user.email, WRONG_PASSWORD).await];
    answers[0].is_some_problem(401, "bad_credentials");
    answers[1].is_some_problem(429, "too_many_attempts");
    redis.0.stop().await;
}

#[tokio::test]
async fn an_unusable_redis_is_reported_and_readiness_stays_200() {
    let redis = OwnRedis::start().await;
    let app = redis.app().await;
    let check = async |state: &str| {
        let ready = app.get("/health/ready", None).await;
        assert_eq!((ready.status.as_u16(), &ready.body["redis"]), (200, &json!(state)));
        let healthy = state == "ok";
        assert_eq!(app.get("/health/redis", None).await.status, if healthy { 200 } else { 503 });
    };
    check("ok").await;
    redis.fill_up().await;
    check("degraded").await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    check("ok").await;
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    check("degraded").await;
    redis.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    check("ok").await;
    redis.0.stop().await;
}

static RULE: Rule = Rule {
    name: "many",
    free_attempts: 2,
    free_attempts_without_redis: 2,
    max_wait_seconds: 600,
    ttl_seconds: 3_600,
};

#[tokio::test]
async fn counters_have_a_limited_number_of_keys_that_are_not_evicted() {
    let redis = OwnRedis::start().await;
    let app = redis.app().await;
    let attempts = &app.app.attempts;
    let run =
        async |operation, subject: &str| attempts.run(operation, &[attempts.counter(&RULE, subject)]).await;
    for _ in 0..8 {
        run(Operation::Fail, "victim").await;
    }
    let strangers = stream::iter(0..20_000).map(|n| async move {
        attempts.run(Operation::Fail, &[attempts.counter(&RULE, &format!("stranger {n}"))]).await
    });
    strangers.buffer_unordered(200).collect::<Vec<_>>().await;
    let keys = redis.throttle_keys(&app).await;
    assert!((12_000..=16_384).contains(&keys.len()), "{} keys", keys.len());
    assert!(run(Operation::Check, "victim").await > 1, "its failures are still known");
    assert_eq!(run(Operation::Check, "unknown").await, 0);
    // The keys have no TTL, so a policy such as `volatile-lru` does not evict them.
    assert_eq!(redis.run::<i64>(&["TTL", &keys[0]]).await, -1);
    run(Operation::Reset, "victim").await;
    assert_eq!(run(Operation::Check, "victim").await, 0);
    redis.0.stop().await;
}

/// Tries wrong codes on four servers without Redis. The counters of each server start empty. Returns the number of
/// codes that were checked.
async fn try_wrong_codes(first: &TestApp, user: &User, authenticator: &Authenticator) -> usize {
    let mut tried = 0;
    for _ in 0..4 {
        let app = TestApp::on(first.database.clone(), &UNREACHABLE_REDIS).await;
        let wrong = authenticator.wrong_code();
        for n in 0..4 {
            let answer = match n % 2 {
                0 => answer(&app, &challenge(&app, user).await, &wrong).await,
                _ => {
                    let codes = app.request(Method::POST, "/users/me/two-factor/recovery-codes");
                    Answer::of(codes.bearer_auth(&user.token).json(&json!({ "code": wrong }))).await
                }
            };
            match answer.status.as_u16() {
                400 => tried += 1,
                _ => {
                    answer.is_some_problem(429, "too_many_attempts");
                    let seconds: u64 = answer.header("retry-after").parse().unwrap();
                    assert!((600..=900).contains(&seconds), "{seconds}");
                }
            }
        }
    }
    tried
}

#[tokio::test]
async fn wrong_codes_of_a_user_are_limited_over_all_processes_without_redis() {
    let app = TestApp::with(&UNREACHABLE_REDIS).await;
    let (user, other) = (app.user().await, app.user().await);
    let (authenticator, of_other) =
        (enable_two_factor(&app, &user).await, enable_two_factor(&app, &other).await);
    assert_eq!(try_wrong_codes(&app, &user, &authenticator).await, 10);
    // The right code is now refused too. Codes of another user are accepted.
    let fresh = TestApp::on(app.database.clone(), &UNREACHABLE_REDIS).await;
    let right = authenticator.code();
    answer(&fresh, &challenge(&fresh, &user).await, &right).await.is_some_problem(429, "too_many_attempts");
    assert_eq!(answer(&fresh, &challenge(&fresh, &other).await, &of_other.code()).await.status, 200);

    app.sql("UPDATE two_factor SET failures_since = failures_since - interval '15 min'").await;
    assert_eq!(answer(&fresh, &challenge(&fresh, &user).await, &right).await.status, 200);
    assert_eq!(column(&app.database, "SELECT max(failures) FROM two_factor").await, ["0"], "success resets");
}

#[tokio::test]
async fn a_password_reset_lets_the_owner_enter_codes_again() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    app.sql("UPDATE two_factor SET failures = 10, failures_since = now()").await;
    let code = authenticator.code();
    answer(&app, &challenge(&app, &user).await, &code).await.is_some_problem(429, "too_many_attempts");
    assert_eq!(app.post("/auth/forgot-password", None, json!({ "email": user.email })).await.status, 202);
    let reset = json!({ "token": app.mailed_token(&user.email).await, "password": PASSWORD });
    assert_eq!(app.post("/auth/reset-password", None, reset).await.status, 204);
    forget_used_codes(&app).await;
    assert_eq!(answer(&app, &challenge(&app, &user).await, &code).await.status, 200);
}
