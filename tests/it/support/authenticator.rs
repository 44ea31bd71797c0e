//! The authenticator of a user: what a phone would show.

use serde_json::json;
use totp_rs::{Builder, Secret, Totp};

use super::{
    TestApp, User,
    app::{Answer, PASSWORD},
};

const STEP: u64 = 30;

pub struct Authenticator {
    totp: Totp,
    pub recovery_codes: Vec<String>,
}

impl Authenticator {
    /// One that was told a secret, in base 32.
    pub fn with_secret(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        Self { totp: Builder::new().with_secret(secret).build().unwrap(), recovery_codes: Vec::new() }
    }

    /// What it shows now; it is taken for half a minute more, at least.
    pub fn code(&self) -> String {
        self.totp.generate(now()).to_string()
    }

    /// What it will show next, which is taken already.
    pub fn next_code(&self) -> String {
        self.totp.generate(now() + STEP).to_string()
    }

    /// One that is taken neither now nor within minutes.
    pub fn wrong_code(&self) -> String {
        let from = now() - 2 * STEP;
        let good: Vec<_> = (0..10).map(|n| self.totp.generate(from + n * STEP).to_string()).collect();
        (0..20).map(|n| format!("{n:06}")).find(|code| !good.contains(code)).unwrap()
    }

    pub fn secret(&self) -> &[u8] {
        self.totp.secret().as_bytes()
    }
}

fn now() -> u64 {
    chrono::Utc::now().timestamp().unsigned_abs()
}

/// Has a user turn the second factor on. No code counts as used yet.
pub async fn turn_on(app: &TestApp, user: &User) -> Authenticator {
    let setup = app.post("/users/me/two-factor", Some(user), json!({ "password": PASSWORD })).await;
    assert_eq!(setup.status, 200, "{}", setup.text);
    let mut authenticator = Authenticator::with_secret(setup.body["secret"].as_str().unwrap());
    let code = json!({ "code": authenticator.code() });
    let confirmed = app.post("/users/me/two-factor/confirm", Some(user), code).await;
    authenticator.recovery_codes = recovery_codes(&confirmed);
    unburn(app).await;
    authenticator
}

/// Makes every code count as not used yet.
pub async fn unburn(app: &TestApp) {
    app.sql("UPDATE two_factor SET last_step = 0").await;
}

#[track_caller]
pub fn recovery_codes(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let codes = answer.body["recovery_codes"].as_array().unwrap();
    codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

/// What the first step of a login answers to somebody who has it turned on.
pub async fn challenge(app: &TestApp, user: &User) -> String {
    let answer = app.login(&user.email, PASSWORD).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.body["challenge_token"].as_str().unwrap().to_owned()
}

/// The second step.
pub async fn answer(app: &TestApp, challenge: &str, code: &str) -> Answer {
    app.post("/auth/login/two-factor", None, json!({ "challenge_token": challenge, "code": code })).await
}
