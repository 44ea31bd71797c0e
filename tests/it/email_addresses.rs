//! Email addresses: spellings that belong to one account, and addresses that are invalid.

use saas::services::housekeeping;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{PASSWORD, fields},
    process::{Ended, run, saas},
    records::column,
    smtp::SmtpServer,
};

/// Spellings of one address. Most tests register the account with the first spelling.
const SPELLINGS: [&str; 9] = [
    "ada@bücher.example",
    "ada@xn--bcher-kva.example",
    " ADA@BÜCHER.EXAMPLE",
    "Ada@XN--BCHER-KVA.example",
    "\"ada\"@bu\u{308}cher.example",
    "ada@bü\u{200B}cher.example",
    "ada@bücher.exam\u{AD}ple",
    "ada@b\u{FF55}\u{308}cher.example",
    "ada@bücher\u{3002}example",
];
const STORED_ADDRESS: &str = "ada@bücher.example";
const MAILED_ADDRESS: &str = "ada@xn--bcher-kva.example";

const INVALID_ADDRESSES: [&str; 9] = [
    "a@[127.0.0.1]",
    "a@127.0.0.1",
    "a@1.2",
    "a@b",
    "a@b.example.",
    "a\u{200B}b@c.example",
    "\"a b\"@c.example",
    "a@xn--a.example",
    "a@b_c.example",
];

fn credentials(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD })
}

async fn register(app: &TestApp, email: &str) -> User {
    let made = app.post("/auth/register", None, credentials(email)).await;
    assert_eq!(made.status, 201, "{email:?}: {}", made.text);
    let id = made.body["id"].as_i64().unwrap();
    User::signed_in(id, made.body["email"].as_str().unwrap(), &app.login(email, PASSWORD).await)
}

/// Runs a `saas` command on the database of an application.
async fn run_saas(app: &TestApp, args: &[&str]) -> Ended {
    let mut command = saas(args);
    command.env("DATABASE_URL", &app.database.url).env("BCRYPT_COST", "4").env("ALLOW_WEAK_HASHES", "true");
    run(command).await
}

#[tokio::test]
async fn smoke_all_spellings_of_an_address_belong_to_one_account() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, register(&app, SPELLINGS[0]).await);
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email"], STORED_ADDRESS);
    let to_verify = app.mailed_token(MAILED_ADDRESS).await;
    assert_eq!(app.post("/auth/verify-email", None, json!({ "token": to_verify })).await.status, 204);
    for spelling in SPELLINGS {
        let again = app.post("/auth/register", None, credentials(spelling)).await;
        again.is_problem(400, "email_taken", "Email already registered");
        let invited = app.post("/users", Some(&admin), json!({ "email": spelling })).await;
        invited.is_some_problem(400, "email_taken");
        let login = app.login(spelling, PASSWORD).await;
        let me = app.get("/users/me", Some(&User::signed_in(user.id, STORED_ADDRESS, &login))).await;
        assert_eq!(me.body["id"], user.id, "{spelling:?}");
        let own = app.post("/users/me/email", Some(&user), credentials(spelling)).await;
        assert_eq!(own.invalid_fields(), fields(&[("body.email", "value_error")]), "{spelling:?}");
    }
    let args = ["create-admin", "--email", SPELLINGS[4], "--promote"];
    assert!(run_saas(&app, &args).await.succeeded().stdout.contains(STORED_ADDRESS));
    assert_eq!(column(&app.database, "SELECT count(*) FROM users WHERE role = 'admin'").await, ["2"]);
}

#[tokio::test]
async fn an_ascii_address_is_stored_in_ascii_and_lower_case() {
    let app = TestApp::start().await;
    for (typed, stored) in [
        (" Ada.Lovelace+X@Example.COM ", "ada.lovelace+x@example.com"),
        ("Hal@XN--BCHER-KVA.example", "hal@xn--bcher-kva.example"),
        ("\"Bob\"@example.com", "bob@example.com"),
    ] {
        let user = register(&app, typed).await;
        assert_eq!(app.get("/users/me", Some(&user)).await.body["email"], stored);
    }
}

#[tokio::test]
async fn all_spellings_of_an_address_share_rate_limits() {
    let app = TestApp::start().await;
    register(&app, SPELLINGS[0]).await;
    for spelling in SPELLINGS {
        let body = json!({ "email": spelling });
        assert_eq!(app.post("/auth/forgot-password", None, body).await.status, 202);
        // Extends the waits, so that they do not end during the test on a slow machine.
        app.move_waits(60).await;
    }
    let mails = app.mails().await;
    let resets =
        mails.iter().filter(|mail| mail.to == MAILED_ADDRESS && mail.subject == "Reset your password");
    assert_eq!(resets.count(), 3, "the limit of the mailbox");
    let app = TestApp::start().await;
    register(&app, SPELLINGS[0]).await;
    for spelling in &SPELLINGS[..5] {
        app.login(spelling, "wrong password").await.is_some_problem(401, "bad_credentials");
    }
    assert_eq!(app.move_waits(60).await, 1);
    for spelling in SPELLINGS {
        app.login(spelling, PASSWORD).await.is_some_problem(429, "too_many_attempts");
    }
}

#[tokio::test]
async fn an_address_that_is_registered_meanwhile_cannot_be_confirmed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let change = app.post("/users/me/email", Some(&user), credentials(SPELLINGS[0])).await;
    assert_eq!(change.status, 202);
    let token = json!({ "token": app.mailed_token(MAILED_ADDRESS).await });
    let faster = register(&app, SPELLINGS[1]).await;
    app.post("/auth/confirm-email", None, token).await.is_some_problem(400, "email_taken");
    // After the other account is deleted, the new address can be confirmed. The key of the address (`email_key`) changes
    // together with the address.
    let path = format!("/users/{}", faster.id);
    let admin = app.admin().await;
    assert_eq!(app.call(reqwest::Method::DELETE, &path, &admin).await.status, 204);
    let change = app.post("/users/me/email", Some(&user), credentials(SPELLINGS[2])).await;
    assert_eq!(change.status, 202);
    let token = json!({ "token": app.mailed_token(MAILED_ADDRESS).await });
    assert_eq!(app.post("/auth/confirm-email", None, token).await.status, 204);
    assert_eq!(app.login(SPELLINGS[1], PASSWORD).await.status, 200);
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    register(&app, &user.email).await;
}

#[tokio::test]
async fn invalid_addresses_are_refused() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let invalid = fields(&[("body.email", "value_error")]);
    for refused in INVALID_ADDRESSES {
        for (path, who) in
            [("/auth/register", None), ("/users/me/email", Some(&user)), ("/auth/forgot-password", None)]
        {
            let body = match path {
                "/auth/forgot-password" => json!({ "email": refused }),
                _ => credentials(refused),
            };
            assert_eq!(app.post(path, who, body).await.invalid_fields(), invalid, "{path}: {refused:?}");
        }
        let invited = app.post("/users", Some(&admin), json!({ "email": refused })).await;
        assert_eq!(invited.invalid_fields(), invalid, "{refused:?}");
        let query = [("to", refused), ("subject", "s"), ("body", "b")];
        let request = app.request(reqwest::Method::POST, "/jobs/send-email").bearer_auth(&admin.token);
        assert_eq!(request.query(&query).send().await.unwrap().status(), 422, "{refused:?}");
        // A login does not validate the address. No account has it, so the credentials are wrong.
        app.login(refused, PASSWORD).await.is_some_problem(401, "bad_credentials");
    }
    let args = ["create-admin", "--email", "a@1.2", "--password-stdin"];
    run_saas(&app, &args).await.failed(1, &["--email", "a@1.2"]);
}

#[tokio::test]
async fn mails_go_to_the_domain_in_ascii() {
    let smtp = SmtpServer::start().await;
    let app =
        TestApp::with(&[&format!("--smtp-url={}", smtp.url), "--mail-from=Ada <Hi@bücher.example>"]).await;
    register(&app, "zoe@exämple.example").await;
    app.mails().await;
    let mails = smtp.mails();
    assert_eq!(
        (mails[0].from.as_str(), &mails[0].to[..]),
        ("Hi@xn--bcher-kva.example", &["zoe@xn--exmple-cua.example".to_owned()][..])
    );
    assert!(mails[0].text.contains("To: zoe@xn--exmple-cua.example"), "{}", mails[0].text);
}

/// Earlier releases accepted several accounts for spellings of one address, and addresses that this release refuses.
#[tokio::test]
async fn accounts_of_one_address_are_kept_and_reported() {
    let app = TestApp::start().await;
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    let old = ["eve@exam\u{200B}ple.com", "eve@example.com", "\"a b\"@example.com", "bob@bücher.example"];
    for email in old {
        let columns = "(email, hashed_password, created_at, updated_at)";
        let times = "now() - interval '1 day', now() - interval '1 day'";
        app.sql(&format!("INSERT INTO users {columns} VALUES ('{email}', '{hash}', {times})")).await;
    }
    let ids = column(&app.database, "SELECT id FROM users ORDER BY id").await;
    run_saas(&app, &["migrate", "up"]).await.succeeded();
    let keys = "SELECT email_key FROM users ORDER BY id";
    // `column` returns an empty text for null.
    let filled = ["", "eve@example.com", "", "bob@xn--bcher-kva.example"];
    assert_eq!(column(&app.database, keys).await, filled);
    let changed = "SELECT count(*) FROM users WHERE updated_at <> created_at";
    assert_eq!(column(&app.database, changed).await, ["0"]);

    let id_of = async |email: &str| {
        let user = User::signed_in(0, email, &app.login(email, PASSWORD).await);
        app.get("/users/me", Some(&user)).await.body["id"].to_string()
    };
    for (email, id) in old.into_iter().zip(&ids) {
        assert_eq!(&id_of(email).await, id, "{email:?}");
    }
    assert_eq!(id_of("eve@\u{FF45}xample.com").await, ids[1]);
    assert_eq!(id_of("bob@xn--bcher-kva.example").await, ids[3]);
    let taken = app.post("/auth/register", None, credentials("eve@exam\u{AD}ple.com")).await;
    taken.is_some_problem(400, "email_taken");

    let doctor = run_saas(&app, &["doctor"]).await.stdout;
    assert!(doctor.contains("warn  addresses"), "{doctor}");
    assert!(
        doctor.contains(&format!("user {} has the address of user {} in another spelling", ids[0], ids[1])),
        "{doctor}"
    );
    assert!(doctor.contains(&format!("user {} has no valid address", ids[2])), "{doctor}");
    assert!(!doctor.contains(&format!("user {}", ids[3])), "{doctor}");
    // The other account with this address is deleted. So housekeeping sets the key of the remaining account.
    app.sql(&format!("DELETE FROM users WHERE id = {}", ids[1])).await;
    housekeeping::run(&app.app).await.unwrap();
    assert_eq!(column(&app.database, keys).await, ["eve@example.com", "", "bob@xn--bcher-kva.example"]);
}

/// An earlier release, or plain SQL, may change an address without its key (`email_key`).
#[tokio::test]
async fn an_address_that_was_changed_without_its_key_loses_the_key() {
    let app = TestApp::start().await;
    let user = register(&app, SPELLINGS[0]).await;
    app.sql(&format!("UPDATE users SET email = 'new@example.com' WHERE id = {}", user.id)).await;
    for spelling in SPELLINGS {
        app.login(spelling, PASSWORD).await.is_some_problem(401, "bad_credentials");
        // The successful login resets the failures, and the waits end, so that the next attempts are not throttled.
        assert_eq!(app.login("new@example.com", PASSWORD).await.status, 200);
        app.move_waits(-1_000).await;
    }
    housekeeping::run(&app.app).await.unwrap();
    assert_eq!(column(&app.database, "SELECT email_key FROM users").await, ["new@example.com"]);
    register(&app, SPELLINGS[1]).await;
}
