use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{PASSWORD, SECRET, fields},
    four_at_a_time,
    records::column,
};

#[tokio::test]
async fn smoke_a_user_registers_logs_in_and_reads_the_account() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "full_name": "Ada Lovelace" });
    let made = app.post("/auth/register", None, body).await;
    assert_eq!((made.status.as_u16(), made.header("location")), (201, "/api/v1/users/me"));
    assert_eq!(made.body["email"], "ada@example.com");
    assert_eq!(made.body["full_name"], "Ada Lovelace");
    assert_eq!(made.body["role"], "user");
    assert_eq!(made.body["is_active"], true);
    assert!(made.body["id"].is_i64());
    assert!(made.body.get("password").is_none() && made.body.get("hashed_password").is_none());
    assert_eq!(made.body["created_at"], made.body["updated_at"]);

    let login = app.login("ada@example.com", PASSWORD).await;
    assert_eq!(login.status, 200);
    assert_eq!((&login.body["token_type"], &login.body["expires_in"]), (&json!("bearer"), &json!(1_800)));
    let token = login.body["access_token"].as_str().unwrap().to_owned();
    let user = User::with_token(token);
    let me = app.get("/users/me", Some(&user)).await;
    assert_eq!((me.status.as_u16(), me.body), (200, made.body));
}

#[tokio::test]
async fn a_registration_needs_no_full_name() {
    let app = TestApp::start().await;
    for (email, extra) in [("a@example.com", json!({})), ("b@example.com", json!({ "full_name": null }))] {
        let mut body = json!({ "email": email, "password": PASSWORD });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let made = app.post("/auth/register", None, body).await;
        assert_eq!((made.status.as_u16(), &made.body["full_name"]), (201, &Value::Null));
    }
}

#[tokio::test]
async fn an_email_address_is_trimmed_and_compared_without_case() {
    let app = TestApp::start().await;
    let made = app
        .post("/auth/register", None, json!({ "email": "  Ada@Example.COM ", "password": PASSWORD }))
        .await;
    assert_eq!((made.status.as_u16(), &made.body["email"]), (201, &json!("ada@example.com")));
    for same in ["ada@example.com", "ADA@EXAMPLE.COM", " ada@Example.com"] {
        let again = app.post("/auth/register", None, json!({ "email": same, "password": PASSWORD })).await;
        again.is_problem(400, "email_taken", "Email already registered");
        assert_eq!(app.login(same, PASSWORD).await.status, 200);
    }
}

#[tokio::test]
async fn concurrent_registrations_of_one_address_create_one_account() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let answers = four_at_a_time((0..20).map(|_| app.post("/auth/register", None, body.clone()))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    let (made, others): (Vec<_>, Vec<_>) = statuses.iter().partition(|status| **status == 201);
    assert_eq!(made.len(), 1, "{statuses:?}");
    // A registration may also get 429: until the account exists, each registration counts as a mail to the mailbox, and
    // mails to a mailbox are rate-limited.
    assert!(others.iter().all(|status| [400, 429].contains(*status)), "{statuses:?}");
    assert_eq!(column(&app.database, "SELECT count(*) FROM users").await, ["1"]);
    assert_eq!(app.mails().await.len(), 1);
}

#[tokio::test]
async fn a_registration_reports_every_invalid_field() {
    let app = TestApp::start().await;
    for (body, wrong) in [
        (json!({}), vec![("body.email", "missing"), ("body.password", "missing")]),
        (
            json!({ "email": "x", "password": "short" }),
            vec![("body.email", "value_error"), ("body.password", "value_error")],
        ),
        (
            json!({ "email": 5, "password": true }),
            vec![("body.email", "string_type"), ("body.password", "string_type")],
        ),
        (json!({ "email": null, "password": PASSWORD }), vec![("body.email", "string_type")]),
        (
            json!({ "email": "a@example.com", "password": PASSWORD, "role": "admin", "id": 1 }),
            vec![("body.id", "extra_forbidden"), ("body.role", "extra_forbidden")],
        ),
        (
            json!({ "email": "a@example.com", "password": "é".repeat(37) }),
            vec![("body.password", "value_error")],
        ),
        (
            json!({ "email": "a@example.com", "password": "with\u{0}nul in it" }),
            vec![("body.password", "value_error")],
        ),
        (
            json!({ "email": "a@example.com", "password": PASSWORD, "full_name": "x".repeat(256) }),
            vec![("body.full_name", "string_too_long")],
        ),
        (
            json!({ "email": "a@example.com", "password": PASSWORD, "full_name": "a\u{0}b" }),
            vec![("body.full_name", "value_error")],
        ),
        (
            json!({ "email": format!("{}@example.com", "a".repeat(255)), "password": PASSWORD }),
            vec![("body.email", "value_error")],
        ),
        (json!([]), vec![("body", "object_type")]),
    ] {
        assert_eq!(app.post("/auth/register", None, body).await.invalid_fields(), fields(&wrong));
    }
}

#[tokio::test]
async fn all_72_bytes_of_a_password_are_significant() {
    let app = TestApp::start().await;
    let long = "correct horse battery staple ".repeat(3)[..72].to_owned();
    let made = app.post("/auth/register", None, json!({ "email": "a@example.com", "password": long })).await;
    assert_eq!(made.status, 201);
    assert_eq!(app.login("a@example.com", &long).await.status, 200);
    for wrong in [long[..71].to_owned(), format!("{long}x")] {
        app.login("a@example.com", &wrong).await.is_problem(
            401,
            "bad_credentials",
            "Incorrect email or password",
        );
    }
}

#[tokio::test]
async fn smoke_a_refused_login_does_not_reveal_the_reason() {
    let app = TestApp::start().await;
    let (known, inactive) = (app.user().await, app.user().await);
    app.sql(&format!("UPDATE users SET is_active = false WHERE id = {}", inactive.id)).await;
    let answers = [
        app.login(&known.email, "wrong password").await,
        app.login("unknown@example.com", PASSWORD).await,
        app.login("not an address", PASSWORD).await,
        app.login("", "").await,
        app.login(&inactive.email, PASSWORD).await,
    ];
    for answer in answers {
        answer.is_problem(401, "bad_credentials", "Incorrect email or password");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn the_login_accepts_the_form_of_oauth2_clients() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let sent = [
        ("grant_type", "password"),
        ("username", &user.email),
        ("password", PASSWORD),
        ("scope", ""),
        ("client_id", "web"),
        ("client_secret", ""),
    ];
    let answer = crate::support::app::Answer::of(app.form("/auth/login", &sent)).await;
    assert_eq!(answer.status, 200);
    let missing =
        crate::support::app::Answer::of(app.form("/auth/login", &[("grant_type", "password")])).await;
    assert_eq!(
        missing.invalid_fields(),
        fields(&[("body.password", "missing"), ("body.username", "missing")])
    );
    let json = app.post("/auth/login", None, json!({ "username": user.email, "password": PASSWORD })).await;
    json.is_some_problem(415, "unsupported_media_type");
}

fn sign_token(key: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key.as_bytes())).unwrap()
}

#[tokio::test]
async fn smoke_forged_tokens_are_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let now = get_current_timestamp();
    let session = app.get("/users/me/sessions", Some(&user)).await.body[0]["id"].clone();
    let good = json!({
        "sub": user.id.to_string(), "sid": session, "iss": "saas", "iat": now, "exp": now + 60,
    });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        sign_token(SECRET, Algorithm::HS256, &claims)
    };
    let me = |token: String| app.get_me_with_token(token);
    assert_eq!(me(sign_token(SECRET, Algorithm::HS256, &good)).await.status, 200);

    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let payload = user.token.split('.').nth(1).unwrap();
    let (head, tail) = user.token.split_at(user.token.len() - 4);
    for forged in [
        with("exp", json!(now - 31)),
        with("exp", Value::Null),
        with("exp", json!("tomorrow")),
        with("iss", json!("another issuer")),
        with("iss", Value::Null),
        with("sub", Value::Null),
        with("sub", json!((user.id + 1).to_string())),
        with("sid", Value::Null),
        with("sid", json!("b2f3c9d0-6a55-4f0e-9d6c-0a7c0f6f1a2b")),
        with("sid", json!("not an id")),
        with("sub", json!(user.id)),
        with("sub", json!("ada")),
        with("sub", json!("99999999999999999999999")),
        with("sub", json!(["1"])),
        sign_token("another key of the right length!!", Algorithm::HS256, &good),
        sign_token(SECRET, Algorithm::HS384, &good),
        sign_token(SECRET, Algorithm::HS512, &good),
        format!("{unsigned}.{payload}."),
        format!("{unsigned}.{payload}.{}", user.token.split('.').nth(2).unwrap()),
        format!("{head}{}", tail.chars().rev().collect::<String>()),
        "nonsense".into(),
        "a.b.c".into(),
    ] {
        me(forged).await.is_problem(401, "invalid_token", "Could not validate credentials");
    }
}

impl TestApp {
    async fn get_me_with_token(&self, token: String) -> crate::support::app::Answer {
        self.get("/users/me", Some(&User::with_token(token))).await
    }
}

#[tokio::test]
async fn a_key_rotation_keeps_users_signed_in() {
    let old = TestApp::start().await;
    let user = old.user().await;
    let new_key = "--secret-key=ffeeddccbbaa99887766554433221100ffeeddcc";
    let rotated =
        TestApp::on(old.database.clone(), &[new_key, &format!("--secret-key-previous={SECRET}")]).await;
    assert_eq!(rotated.get("/users/me", Some(&user)).await.status, 200);
    let fresh = rotated.login(&user.email, PASSWORD).await.body["access_token"].as_str().unwrap().to_owned();
    old.get_me_with_token(fresh).await.is_some_problem(401, "invalid_token");
    let finished = TestApp::on(old.database.clone(), &[new_key]).await;
    finished.get("/users/me", Some(&user)).await.is_some_problem(401, "invalid_token");
}

/// RFC 7519 section 4.1.4 permits a leeway for clocks that differ. The test repeats each token, because the server
/// caches verified tokens.
#[tokio::test]
async fn an_expired_token_is_accepted_within_the_leeway_only() {
    let (none, long) = ("--token-leeway-seconds=0", "--token-leeway-seconds=300");
    for (flag, leeway) in [(None, 30), (Some(none), 0), (Some(long), 300)] {
        let app = TestApp::with(flag.as_slice()).await;
        let user = app.user().await;
        let session = app.get("/users/me/sessions", Some(&user)).await.body[0]["id"].clone();
        let now = get_current_timestamp();
        let expired_at = |exp: u64| {
            let claims = json!({
                "sub": user.id.to_string(), "sid": session, "iss": "saas", "iat": now - 3_600, "exp": exp,
            });
            sign_token(SECRET, Algorithm::HS256, &claims)
        };
        let late = expired_at(now - leeway - 1);
        for _ in 0..2 {
            app.get_me_with_token(late.clone()).await.is_some_problem(401, "invalid_token");
        }
        if leeway > 0 {
            // Two thirds of the leeway are left, in case the machine is slow.
            let accepted = expired_at(now - leeway / 3);
            for _ in 0..2 {
                assert_eq!(
                    app.get_me_with_token(accepted.clone()).await.status,
                    200,
                    "a leeway of {leeway} s"
                );
            }
            assert_eq!(app.call(Method::POST, "/auth/logout-all", &user).await.status, 204);
            app.get_me_with_token(accepted).await.is_some_problem(401, "invalid_token");
        }
        assert_eq!(app.login(&user.email, PASSWORD).await.body["expires_in"], 1_800);
    }
}

#[tokio::test]
async fn the_lifetime_of_a_token_is_configurable() {
    let app = TestApp::with(&["--access-token-expire-minutes=5"]).await;
    let user = app.user().await;
    assert_eq!(app.login(&user.email, PASSWORD).await.body["expires_in"], 300);
}
