//! Limits of the mails and password hashes that clients can cause.

use futures_util::future::join_all;
use reqwest::Method;
use saas::security::{HashFor, HashPermit};
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    four_at_a_time,
    records::column,
};

const BEHIND_PROXY: &str = "--trusted-proxies=1";
const ADDRESS: &str = "203.0.113.7";
const OTHER_ADDRESS: &str = "198.51.100.7";

/// Sends a POST request from a client address.
async fn post(app: &TestApp, address: &str, path: &str, user: Option<&User>, body: Value) -> Answer {
    let mut request = app.request(Method::POST, path).header("x-forwarded-for", address).json(&body);
    if let Some(user) = user {
        request = request.bearer_auth(&user.token);
    }
    Answer::of(request).await
}

async fn register(app: &TestApp, address: &str, email: &str) -> Answer {
    post(app, address, "/auth/register", None, json!({ "email": email, "password": PASSWORD })).await
}

async fn login(app: &TestApp, address: &str, email: &str) -> Answer {
    let form = app.form("/auth/login", &[("username", email), ("password", PASSWORD)]);
    Answer::of(form.header("x-forwarded-for", address)).await
}

#[track_caller]
fn assert_throttled(answer: &Answer) {
    answer.is_some_problem(429, "too_many_attempts");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn smoke_all_addresses_of_a_mailbox_share_a_limit_of_registrations() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    // Each registration comes from another network, so only the limit of the mailbox applies.
    let from = |n: usize| format!("203.0.113.{n}");
    for (n, email) in
        ["victim@gmail.com", "victim+1@gmail.com", "v.ictim+2@googlemail.com"].iter().enumerate()
    {
        assert_eq!(register(&app, &from(n), email).await.status, 201, "{email}");
    }
    assert_eq!(app.move_waits(600).await, 1, "the limit of the mailbox");
    for (n, email) in
        ["victim+3@gmail.com", "vic.tim@gmail.com", "\"victim+5\"@gmail.com", "VICTIM+x@GMAIL.COM"]
            .iter()
            .enumerate()
    {
        assert_throttled(&register(&app, &from(10 + n), email).await);
    }
    let taken = register(&app, &from(20), "victim+1@gmail.com").await;
    taken.is_some_problem(400, "email_taken");
    assert_eq!(register(&app, &from(21), "bob@gmail.com").await.status, 201);
    assert_eq!(column(&app.database, "SELECT count(*) FROM users").await, ["4"]);
    assert_eq!(app.mails().await.len(), 4);
    app.move_waits(-1_200).await;
    assert_eq!(register(&app, ADDRESS, "victim+4@gmail.com").await.status, 201);
}

#[tokio::test]
async fn smoke_the_mails_that_one_network_causes_are_limited() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    let emails: Vec<_> = (0..30).map(|n| format!("stranger{n}@example.com")).collect();
    for answer in four_at_a_time(emails.iter().map(|email| register(&app, ADDRESS, email))).await {
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    assert_eq!(app.move_waits(600).await, 1, "the limit of the network");
    let address = json!({ "email": "another@example.com" });
    let new_email = json!({ "email": "another@example.com", "password": PASSWORD });
    for (path, user, body) in [
        ("/auth/register", None, new_email.clone()),
        ("/auth/forgot-password", None, address.clone()),
        ("/auth/verify-email/resend", None, address),
        ("/users/me/email", Some(&user), new_email),
    ] {
        assert_throttled(&post(&app, ADDRESS, path, user, body).await);
    }
    assert_eq!(register(&app, OTHER_ADDRESS, "another@example.com").await.status, 201);
    assert_eq!(login(&app, ADDRESS, &user.email).await.status, 200, "only mails are limited");
}

#[tokio::test]
async fn operations_that_mail_an_unverified_address_are_limited() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    // Unverified accounts with addresses of two mailboxes, and an unverified account that changes its password
    // repeatedly.
    let accounts = "INSERT INTO users (email, hashed_password) SELECT kind || '+' || n || '@example.com', 'x'
                    FROM generate_series(0, 24) n, unnest(ARRAY['forgot', 'resend']) kind";
    app.sql(accounts).await;
    assert_eq!(register(&app, OTHER_ADDRESS, "notice@example.com").await.status, 201);
    let unverified = User::signed_in(0, "", &login(&app, OTHER_ADDRESS, "notice@example.com").await);
    let before = app.mails().await.len();

    let passwords = [PASSWORD, "another horse battery"];
    let of = |kind: &str, n: usize| json!({ "email": format!("{kind}+{n}@example.com") });
    let with_password =
        |kind: &str, n: usize| json!({ "email": format!("{kind}+{n}@example.com"), "password": PASSWORD });
    let mut accepted = [0; 6];
    for n in 0..25 {
        let change = json!({ "current_password": passwords[accepted[5] % 2], "new_password": passwords[(accepted[5] + 1) % 2] });
        for (kind, (path, user, body)) in [
            ("/auth/register", None, with_password("register", n)),
            ("/auth/forgot-password", None, of("forgot", n)),
            ("/auth/verify-email/resend", None, of("resend", n)),
            ("/users/me/email", Some(&user), with_password("change", n)),
            ("/users", Some(&admin), of("invite", n)),
            ("/users/me/password", Some(&unverified), change),
        ]
        .into_iter()
        .enumerate()
        {
            let answer = post(&app, &format!("203.0.113.{n}"), path, user, body).await;
            match answer.status.as_u16() {
                201 | 202 | 204 => accepted[kind] += 1,
                _ => assert_throttled(&answer),
            }
        }
        // Extends the waits, so that none ends during the test.
        app.move_waits(600).await;
    }
    // `forgot-password` and `resend` also accept requests over the limit of the mailbox, so that the response does not reveal
    // whether a link was sent.
    assert_eq!(accepted, [3, 25, 25, 3, 20, 3]);
    let mails = app.mails().await;
    let to = |kind: &str| mails[before..].iter().filter(|mail| mail.to.starts_with(kind)).count();
    assert_eq!(["register", "forgot", "resend", "invite", "notice"].map(to), [3, 3, 3, 20, 3]);
    // A change replaces the address of the previous change. The job of a mail to a replaced address sends nothing.
    assert!(to("change") <= 3);
}

/// The verified address has a limit of its own: requests for sub-addresses of the mailbox do not use it up.
#[tokio::test]
async fn a_verified_address_has_a_separate_limit() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    let sub_address = user.email.replace('@', "+x@");
    for _ in 0..4 {
        let body = json!({ "email": sub_address });
        assert_eq!(post(&app, OTHER_ADDRESS, "/auth/forgot-password", None, body).await.status, 202);
        app.move_waits(600).await;
    }
    assert_eq!(register(&app, OTHER_ADDRESS, &sub_address).await.status, 201);
    let body = json!({ "email": user.email });
    assert_eq!(post(&app, ADDRESS, "/auth/forgot-password", None, body).await.status, 202);
    let sent = app.mails().await;
    assert!(
        sent.iter().any(|mail| mail.to == user.email && mail.subject == "Reset your password"),
        "{sent:#?}"
    );
}

/// Takes all hash permits of a class of callers, like a flood of requests.
async fn take_all_permits(app: &TestApp, caller: HashFor) -> Vec<HashPermit> {
    let passwords = &app.app.passwords;
    join_all(
        (0..passwords.share_size(caller)).map(|_| async move { passwords.permit(caller).await.unwrap() }),
    )
    .await
}

#[tokio::test]
async fn smoke_hashes_for_unknown_callers_do_not_delay_those_for_known_callers() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let user = app.user().await;
    assert_eq!(login(&app, ADDRESS, &user.email).await.status, 200);
    let registrations = take_all_permits(&app, HashFor::Registration).await;
    register(&app, ADDRESS, "a@example.com").await.is_some_problem(503, "unavailable");
    assert_eq!(login(&app, OTHER_ADDRESS, &user.email).await.status, 200, "from a new network");

    let logins = take_all_permits(&app, HashFor::Login).await;
    login(&app, "192.0.2.1", &user.email).await.is_some_problem(503, "unavailable");
    assert_eq!(login(&app, ADDRESS, &user.email).await.status, 200, "from a known network");
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    assert_eq!(post(&app, "192.0.2.1", "/users/me/password", Some(&user), change).await.status, 204);
    drop((registrations, logins));
    assert_eq!(register(&app, ADDRESS, "a@example.com").await.status, 201);
}

/// An attacker can register accounts and sign in to them, which makes the network of the attacker a known network. This
/// must not delay other users on other known networks.
#[tokio::test]
async fn many_logins_from_one_network_do_not_delay_those_from_other_known_networks() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (owner, attackers) = (app.user().await, join_all((0..8).map(|_| app.user())).await);
    assert_eq!(login(&app, OTHER_ADDRESS, &owner.email).await.status, 200);
    for _ in 0..26 {
        let logins = attackers.iter().map(|attacker| login(&app, ADDRESS, &attacker.email));
        assert!(four_at_a_time(logins).await.iter().all(|answer| answer.status == 200));
    }
    let logins = take_all_permits(&app, HashFor::Login).await;
    login(&app, ADDRESS, &attackers[0].email).await.is_some_problem(503, "unavailable");
    assert_eq!(login(&app, OTHER_ADDRESS, &owner.email).await.status, 200);
    drop(logins);
    assert_eq!(login(&app, ADDRESS, &attackers[0].email).await.status, 200, "not refused");
}

/// A correct password costs as much CPU time as a wrong password, so a successful login counts too.
#[tokio::test]
async fn logins_of_one_account_are_limited_even_with_the_right_password() {
    let app = TestApp::with(&[BEHIND_PROXY]).await;
    let (user, other) = (app.user().await, app.user().await);
    // After 30 logins, each one doubles the wait, so some of the 60 are refused even on a slow machine.
    let answers = four_at_a_time((0..60).map(|_| login(&app, ADDRESS, &user.email))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(accepted.len() >= 30 && !refused.is_empty(), "{} of 60", accepted.len());
    refused.into_iter().for_each(assert_throttled);
    assert_eq!(login(&app, OTHER_ADDRESS, &user.email).await.status, 200, "another network");
    assert_eq!(login(&app, ADDRESS, &other.email).await.status, 200, "another account");
}
