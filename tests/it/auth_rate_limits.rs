//! Passwords: rate limits on attempts, the cost of hashes, guessable passwords, and too many logins at once.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    TestApp,
    app::{Answer, PASSWORD, fields},
    four_at_a_time,
    queue::connect,
    records::column,
    servers::servers,
};

const BEHIND_PROXY: &str = "--trusted-proxies=1";
const WRONG_PASSWORD: &str = "wrong password";
const ADDRESS: &str = "203.0.113.7";
const OTHER_ADDRESS: &str = "198.51.100.7";

impl TestApp {
    /// Moves the end of every wait of the throttle by `seconds`. A negative value moves it to an earlier time. Returns the
    /// number of waits.
    pub async fn move_waits(&self, seconds: i32) -> usize {
        let mut conn = connect(&servers().await.redis_url()).await.unwrap();
        let pattern = format!("{}:throttle:*", self.prefix);
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut conn).await.unwrap();
        let mut waits = 0;
        for key in keys {
            let until: Option<f64> =
                redis::cmd("HGET").arg(&key).arg("until").query_async(&mut conn).await.unwrap();
            if let Some(until) = until {
                let mut set = redis::cmd("HSET");
                set.arg(&key).arg("until").arg(until + f64::from(seconds));
                set.query_async::<()>(&mut conn).await.unwrap();
                waits += 1;
            }
        }
        waits
    }
}

/// Logs in from a client address.
async fn log_in_from(app: &TestApp, address: &str, email: &str, password: &str) -> Answer {
    let form = app.form("/auth/login", &[("username", email), ("password", password)]);
    Answer::of(form.header("x-forwarded-for", address)).await
}

async fn fail_logins(app: &TestApp, times: u32, address: &str, email: &str) {
    for _ in 0..times {
        log_in_from(app, address, email, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    }
}

/// Asserts that the response is a rate limit, and returns the seconds to wait.
#[track_caller]
fn retry_after(answer: &Answer) -> u64 {
    answer.is_some_problem(429, "too_many_attempts");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!(seconds >= 1);
    seconds
}

#[tokio::test]
async fn smoke_five_wrong_passwords_delay_the_next_attempt() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (user, other) = (app.user().await, app.user().await);
    fail_logins(&app, 4, ADDRESS, &user.email).await;
    assert_eq!(app.move_waits(60).await, 0);
    fail_logins(&app, 1, ADDRESS, &user.email).await;
    assert_eq!(app.move_waits(60).await, 1);
    for password in [WRONG_PASSWORD, PASSWORD] {
        retry_after(&log_in_from(&app, ADDRESS, &user.email, password).await);
    }
    // The wait is for one network and one account: other networks and other accounts do not wait. Their successful
    // logins do not end it.
    assert_eq!(log_in_from(&app, OTHER_ADDRESS, &user.email, PASSWORD).await.status, 200);
    assert_eq!(log_in_from(&app, ADDRESS, &other.email, PASSWORD).await.status, 200);
    retry_after(&log_in_from(&app, ADDRESS, &user.email.to_uppercase(), PASSWORD).await);
    app.move_waits(-120).await;
    assert_eq!(log_in_from(&app, ADDRESS, &user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn the_wait_after_failed_logins_grows_to_five_minutes() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    let mut waits = Vec::new();
    for failures in [5, 6, 4] {
        for _ in 0..failures {
            app.move_waits(-1_000).await;
            fail_logins(&app, 1, ADDRESS, &user.email).await;
        }
        app.move_waits(1_000).await;
        waits.push(retry_after(&log_in_from(&app, ADDRESS, &user.email, PASSWORD).await) + 60 - 1_000);
        app.move_waits(-1_000).await;
    }
    // The waits are 1, 64 and 300 seconds. The code above adds 60 to each, so that the duration of the test makes none
    // negative.
    assert!(waits.is_sorted_by(|one, next| one < next) && waits[2] <= 360, "{waits:?}");
}

#[tokio::test]
async fn an_unregistered_address_is_throttled_like_a_registered_one() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    let mut seen = Vec::new();
    for email in [user.email.as_str(), "unknown@example.com"] {
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(log_in_from(&app, ADDRESS, email, WRONG_PASSWORD).await);
        }
        app.move_waits(60).await;
        answers.push(log_in_from(&app, ADDRESS, email, WRONG_PASSWORD).await);
        retry_after(&answers[5]);
        let answers = answers.iter().map(|answer| (answer.status.as_u16(), answer.body["code"].clone()));
        seen.push(answers.collect::<Vec<_>>());
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_successful_login_resets_the_failures() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    for _ in 0..3 {
        fail_logins(&app, 4, ADDRESS, &user.email).await;
        assert_eq!(log_in_from(&app, ADDRESS, &user.email, PASSWORD).await.status, 200);
    }
    assert_eq!(app.move_waits(0).await, 0);
}

#[tokio::test]
async fn smoke_an_attacker_cannot_lock_a_user_out() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (user, other) = (app.user().await, app.user().await);
    assert_eq!(log_in_from(&app, ADDRESS, &user.email, PASSWORD).await.status, 200);
    for n in 0..20 {
        fail_logins(&app, 1, &format!("198.51.100.{n}"), &user.email).await;
    }
    assert_eq!(app.move_waits(60).await, 1, "the limit of the account");
    retry_after(&log_in_from(&app, "192.0.2.1", &user.email, PASSWORD).await);
    assert_eq!(log_in_from(&app, "192.0.2.1", &other.email, PASSWORD).await.status, 200);
    assert_eq!(log_in_from(&app, ADDRESS, &user.email, PASSWORD).await.status, 200, "a known network");
    retry_after(&log_in_from(&app, "192.0.2.1", &user.email, PASSWORD).await);
    // On a known network, the limit of the account does not apply, but the limit of the pair of account and network does.
    fail_logins(&app, 5, ADDRESS, &user.email).await;
    app.move_waits(60).await;
    retry_after(&log_in_from(&app, ADDRESS, &user.email, PASSWORD).await);
}

#[tokio::test]
async fn one_network_cannot_try_many_accounts() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (user, known) = (app.user().await, app.user().await);
    assert_eq!(log_in_from(&app, ADDRESS, &known.email, PASSWORD).await.status, 200);
    for n in 0..100 {
        fail_logins(&app, 1, ADDRESS, &format!("unknown{n}@example.com")).await;
    }
    assert_eq!(app.move_waits(60).await, 1, "the limit of the network");
    retry_after(&log_in_from(&app, ADDRESS, &user.email, PASSWORD).await);
    assert_eq!(log_in_from(&app, ADDRESS, &known.email, PASSWORD).await.status, 200);
    assert_eq!(log_in_from(&app, OTHER_ADDRESS, &user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn an_ipv6_network_counts_as_one_client() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    for n in 0..5 {
        fail_logins(&app, 1, &format!("2001:db8:1:1::{n}"), &user.email).await;
    }
    assert_eq!(app.move_waits(60).await, 1);
    retry_after(&log_in_from(&app, "2001:db8:1:1:ffff::1", &user.email, PASSWORD).await);
    assert_eq!(log_in_from(&app, "2001:db8:1:2::1", &user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn a_forged_forwarded_header_does_not_evade_the_limit() {
    let cases: [(&[&str], &str); 2] = [(&[], "203.0.113.{n}"), (&[BEHIND_PROXY], "203.0.113.{n}, 192.0.2.1")];
    for (flags, header) in cases {
        let app = TestApp::with(flags).await;
        let user = app.user().await;
        for n in 0..5 {
            fail_logins(&app, 1, &header.replace("{n}", &n.to_string()), &user.email).await;
        }
        assert_eq!(app.move_waits(60).await, 1);
        retry_after(&log_in_from(&app, &header.replace("{n}", "9"), &user.email, PASSWORD).await);
    }
}

#[tokio::test]
async fn clients_with_an_unreadable_address_count_as_one_network() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    fail_logins(&app, 5, "unknown", &user.email).await;
    assert_eq!(app.move_waits(60).await, 1);
    retry_after(&log_in_from(&app, "203.0.113.7, _hidden", &user.email, PASSWORD).await);
    // Without the header, the client address is the address of the connection.
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn password_guesses_from_a_session_are_throttled() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let change = async |current: &str| {
        let body = json!({ "current_password": current, "new_password": "battery staple" });
        app.post("/users/me/password", Some(&user), body).await
    };
    for _ in 0..5 {
        change(WRONG_PASSWORD).await.is_some_problem(400, "wrong_password");
    }
    app.move_waits(60).await;
    retry_after(&change(PASSWORD).await);
    retry_after(&app.login(&user.email, PASSWORD).await);
    app.move_waits(-120).await;
    assert_eq!(change(PASSWORD).await.status, 204);
}

#[tokio::test]
async fn a_login_replaces_a_hash_with_a_lower_cost() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let costlier = TestApp::on(app.database.clone(), &["--bcrypt-cost=5"]).await;
    let cost = async || column(&app.database, "SELECT left(hashed_password, 7) FROM users").await;
    costlier.login(&user.email, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    assert_eq!(cost().await, ["$2b$04$"]);
    assert_eq!(costlier.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(cost().await, ["$2b$05$"]);
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(cost().await, ["$2b$05$"], "the cost is never lowered");
    assert!(costlier.is_signed_in(&user).await, "the session stays valid");
}

#[tokio::test]
async fn concurrent_logins_succeed_while_the_hash_is_replaced() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let costlier = TestApp::on(app.database.clone(), &["--bcrypt-cost=5"]).await;
    for login in four_at_a_time((0..20).map(|_| costlier.login(&user.email, PASSWORD))).await {
        assert_eq!(login.status, 200, "{}", login.text);
    }
}

#[tokio::test]
async fn a_guessable_password_is_refused() {
    let app = TestApp::start().await;
    for bad in [
        "password",
        "12345678",
        "qwertyuiop",
        "Passw0rd",
        "drowssap",
        "ada.lovelace",
        "ada.lovelace@example.com",
    ] {
        let body = json!({ "email": "ada.lovelace@example.com", "password": bad });
        let refused = app.post("/auth/register", None, body).await;
        assert_eq!(refused.invalid_fields(), fields(&[("body.password", "value_error")]), "{bad}");
    }
    assert_eq!(column(&app.database, "SELECT count(*) FROM users").await, ["0"]);
}

/// Logins whose password cannot be hashed in time are refused with 503. Other requests are not affected.
#[tokio::test]
async fn too_many_concurrent_logins_are_partly_refused() {
    let app = TestApp::with(&["--bcrypt-cost=13"]).await;
    let user = app.user().await;
    let logins = 16 * std::thread::available_parallelism().unwrap().get();
    let emails: Vec<_> = (0..logins).map(|n| format!("unknown{n}@example.com")).collect();
    let flood = join_all(emails.iter().map(|email| app.login(email, "any password")));
    let reads = async {
        for _ in 0..20 {
            assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
        }
    };
    let (answers, ()) = tokio::join!(flood, reads);
    let (refused, served): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 503);
    assert!(!refused.is_empty() && !served.is_empty(), "{} of {logins} were refused", refused.len());
    for answer in refused {
        answer.is_problem(503, "unavailable", "Login is unavailable, try again in a moment");
        assert!(!answer.header("retry-after").is_empty());
    }
    assert!(served.iter().all(|answer| [401, 429].contains(&answer.status.as_u16())));
}
