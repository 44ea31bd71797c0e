//! An authenticator app, which generates the codes of the second factor.

use serde_json::json;
use totp_rs::{Builder, Secret, Totp};

use super::{
    TestApp, User,
    app::{Answer, PASSWORD},
};

/// The time step of codes in seconds (RFC 6238).
const STEP: u64 = 30;

pub struct Authenticator {
    totp: Totp,
    pub recovery_codes: Vec<String>,
}

impl Authenticator {
    /// Creates an authenticator with a secret in base 32.
    pub fn with_secret(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        Self { totp: Builder::new().with_secret(secret).build().unwrap(), recovery_codes: Vec::new() }
    }

    /// Returns the current code, which is valid for at least 30 more seconds.
    pub fn code(&self) -> String {
        self.totp.generate(unix_seconds()).to_string()
    }

    /// Returns the code of the next time step, which the server already accepts.
    pub fn next_code(&self) -> String {
        self.totp.generate(unix_seconds() + STEP).to_string()
    }

    /// Returns a code that is not valid now or in the next three minutes.
    pub fn wrong_code(&self) -> String {
        let from = unix_seconds() - 2 * STEP;
        let good: Vec<_> = (0..10).map(|n| self.totp.generate(from + n * STEP).to_string()).collect();
        (0..20).map(|n| format!("{n:06}")).find(|code| !good.contains(code)).unwrap()
    }

    pub fn secret(&self) -> &[u8] {
        self.totp.secret().as_bytes()
    }
}

fn unix_seconds() -> u64 {
    chrono::Utc::now().timestamp().unsigned_abs()
}

/// Turns two-factor authentication on for a user, and lets the code that confirmed it be used again.
pub async fn enable_two_factor(app: &TestApp, user: &User) -> Authenticator {
    let setup = app.post("/users/me/two-factor", Some(user), json!({ "password": PASSWORD })).await;
    assert_eq!(setup.status, 200, "{}", setup.text);
    let mut authenticator = Authenticator::with_secret(setup.body["secret"].as_str().unwrap());
    let code = json!({ "code": authenticator.code() });
    let confirmed = app.post("/users/me/two-factor/confirm", Some(user), code).await;
    authenticator.recovery_codes = recovery_codes(&confirmed);
    forget_used_codes(app).await;
    authenticator
}

/// Makes every code of the authenticators count as unused. Used recovery codes stay used.
pub async fn forget_used_codes(app: &TestApp) {
    app.sql("UPDATE two_factor SET last_step = 0").await;
}

#[track_caller]
pub fn recovery_codes(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let codes = answer.body["recovery_codes"].as_array().unwrap();
    codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

/// Logs in with the password, and returns the token of the challenge, which the second step of the login needs.
pub async fn challenge(app: &TestApp, user: &User) -> String {
    let answer = app.login(&user.email, PASSWORD).await;
    answer.is_some_problem(403, "two_factor_required");
    answer.body["challenge_token"].as_str().unwrap().to_owned()
}

/// Sends the second step of a login: the token of the challenge and a code.
pub async fn answer(app: &TestApp, challenge: &str, code: &str) -> Answer {
    app.post("/auth/login/two-factor", None, json!({ "challenge_token": challenge, "code": code })).await
}
