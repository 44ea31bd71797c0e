//! Values derived from the settings, and the problems that stop a process at start-up.

use std::time::Duration;

use url::Url;

use super::{
    Auth, Config, DEFAULT_ADMIN_PASSWORD, Hashing, Http, Mail, SecondFactorFor, Worker,
    is_published_password,
    key_strength::is_predictable,
    site::{Origins, base_url, origins},
    value::{password, secret},
};

/// Minimum length of a key. An HS256 key must have at least as many bits as the hash, 256 (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// The lowest work factor of bcrypt in production (OWASP Password Storage Cheat Sheet).
const MIN_BCRYPT_COST: u32 = 10;
/// The default of `PUBLIC_URL`: the address at which `saas serve` listens by default.
pub(super) const DEFAULT_PUBLIC_URL: &str = "http://localhost:8000";
/// The default of `BACKEND_CORS_ORIGINS` with `DEBUG` on: the ports of common front-end development servers.
const DEBUG_CORS_ORIGINS: &str = "http://localhost:3000,http://localhost:5173";
const HOW_TO_MAKE_A_KEY: &str = "make one with `saas doctor --generate-secret` or `openssl rand -base64 32`";

impl Http {
    /// Returns the origins whose pages may call the API: `BACKEND_CORS_ORIGINS`, or the default for the mode.
    ///
    /// # Errors
    /// If `BACKEND_CORS_ORIGINS` is invalid.
    pub fn cors_origins(&self, debug: bool) -> anyhow::Result<Origins> {
        match self.backend_cors_origins.get()? {
            Some(origins) => Ok(origins.clone()),
            None if debug => origins(DEBUG_CORS_ORIGINS).map_err(anyhow::Error::msg),
            None => Ok(Origins::default()),
        }
    }

    /// Returns the problems of invalid settings, each with its fix.
    pub fn problems(&self) -> Vec<String> {
        let all = [self.backend_cors_origins.problem(), self.allowed_hosts.problem()];
        all.into_iter().flatten().collect()
    }
}

impl Mail {
    /// Returns the URL at which clients reach the API.
    ///
    /// # Errors
    /// If `PUBLIC_URL` is invalid.
    pub fn public_url(&self) -> anyhow::Result<Url> {
        match self.public_url.get()? {
            Some(url) => Ok(url.clone()),
            None => base_url(DEFAULT_PUBLIC_URL).map_err(anyhow::Error::msg),
        }
    }

    /// Returns the problems of invalid settings, each with its fix.
    pub fn problems(&self) -> Vec<String> {
        let Self { smtp_url, mail_from, mail_dir: _, public_url, frontend_url } = self;
        let all = [smtp_url.problem(), mail_from.problem(), public_url.problem(), frontend_url.problem()];
        all.into_iter().flatten().collect()
    }

    /// Returns whether `PUBLIC_URL` or `FRONTEND_URL` is set, so that links in mails do not have the default URL.
    pub fn has_link_target(&self) -> bool {
        self.public_url.is_set() || self.frontend_url.is_set()
    }
}

impl Worker {
    /// Returns the time without a heartbeat after which other workers take over this worker's jobs.
    pub fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

impl Config {
    /// Returns the problems of invalid settings.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.logs.problem().into_iter().chain(self.database.problem()).collect();
        problems.extend(self.redis.problems());
        problems.extend(self.cache_problems());
        problems.extend(self.mail.problems());
        problems
    }

    /// Returns the problems of invalid settings of the cache.
    pub fn cache_problems(&self) -> Vec<String> {
        self.redis_options.cache(&self.redis).map(|cache| cache.problems()).unwrap_or_default()
    }

    /// Returns the problems of settings that are unsafe in production, each with its fix. Empty if `DEBUG` is on.
    pub fn unsafe_settings(&self) -> Vec<String> {
        if self.core.debug {
            return Vec::new();
        }
        let mut problems = Vec::new();
        problems.extend(self.auth.secret_key_problem());
        if let Some(previous) = secret(&self.auth.secret_key_previous) {
            problems.extend(weak_key("SECRET_KEY_PREVIOUS", previous));
        }
        if self.auth.require_verified_email && !self.mail.smtp_url.is_set() {
            problems
                .push("REQUIRE_VERIFIED_EMAIL without SMTP_URL locks all new users out: set SMTP_URL".into());
        }
        if self.auth.second_factor.required_for() == SecondFactorFor::All && !self.mail.smtp_url.is_set() {
            problems.push(
                "REQUIRE_TWO_FACTOR=all without SMTP_URL locks all new users out, since the setup needs a confirmed \
                 address: set SMTP_URL"
                    .into(),
            );
        }
        problems.extend(self.auth.two_factor_key_problem());
        if let Some(previous) = secret(&self.auth.two_factor_key_previous) {
            problems.extend(weak_key("TWO_FACTOR_KEY_PREVIOUS", previous));
        }
        match password(&self.auth.admin.first_superuser_password) {
            Some(DEFAULT_ADMIN_PASSWORD) => problems.push(
                "FIRST_SUPERUSER_PASSWORD is the default, which is public: choose a password, or remove the setting \
                 if there is an admin"
                    .into(),
            ),
            Some(password) if is_published_password(password) => problems.push(
                "FIRST_SUPERUSER_PASSWORD is an example of the documentation, which is public: choose another one. If \
                 an admin has it, run `saas create-admin --set-password`"
                    .into(),
            ),
            _ => {}
        }
        problems.extend(self.auth.hashing.problem());
        problems
    }
}

impl Auth {
    fn secret_key_problem(&self) -> Option<String> {
        match secret(&self.secret_key) {
            None => Some(format!("SECRET_KEY is not set: {HOW_TO_MAKE_A_KEY}")),
            Some(key) => weak_key("SECRET_KEY", key),
        }
    }

    fn two_factor_key_problem(&self) -> Option<String> {
        let Some(key) = secret(&self.two_factor_key) else {
            let setting = self.second_factor.setting()?;
            let users = match self.second_factor.required_for() {
                SecondFactorFor::All => "users",
                _ => "admins",
            };
            return Some(format!(
                "{setting} without TWO_FACTOR_KEY locks all {users} out: {HOW_TO_MAKE_A_KEY}"
            ));
        };
        match secret(&self.secret_key) == Some(key) {
            true => Some(format!("TWO_FACTOR_KEY is the same as SECRET_KEY: {HOW_TO_MAKE_A_KEY}")),
            false => weak_key("TWO_FACTOR_KEY", key),
        }
    }
}

/// Returns the problem of a key that is too short, published or too regular; `None` for other keys. `name` is the setting.
fn weak_key(name: &str, key: &str) -> Option<String> {
    if key.len() < MIN_SECRET_BYTES {
        return Some(format!(
            "{name} has {} bytes and needs at least {MIN_SECRET_BYTES}: {HOW_TO_MAKE_A_KEY}",
            key.len()
        ));
    }
    is_predictable(key)
        .then(|| format!("{name} is an example or too regular to be secret: {HOW_TO_MAKE_A_KEY}"))
}

impl Hashing {
    /// Returns the problem if the work factor is too low for production, unless `ALLOW_WEAK_HASHES` permits it.
    pub fn problem(&self) -> Option<String> {
        (self.bcrypt_cost < MIN_BCRYPT_COST && !self.allow_weak_hashes).then(|| {
            format!(
                "BCRYPT_COST is {} and needs at least {MIN_BCRYPT_COST}: remove it to use the default",
                self.bcrypt_cost
            )
        })
    }
}
