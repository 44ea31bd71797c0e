//! What the settings amount to, and which of them are unsafe.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use super::{
    Auth, Config, Core, DEFAULT_ADMIN_PASSWORD, Database, Hashing, Http, LogFormat, Mail, Redis, Worker,
    value::{given, secret},
};

/// RFC 7518 section 3.2: an HS256 key has at least as many bits as the hash, 256.
const MIN_SECRET_BYTES: usize = 32;
/// OWASP Password Storage Cheat Sheet: a bcrypt work factor of at least 10.
const MIN_BCRYPT_COST: u32 = 10;
/// Keys that stand in examples and tutorials, which anybody could sign with.
const KNOWN_SECRETS: &[&str] = &["changeme", "changethis", "secret", "your-secret-key", "example"];

impl Core {
    pub fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(match self.debug {
            true => LogFormat::Human,
            false => LogFormat::Json,
        })
    }
}

impl Database {
    /// The connection settings, from `DATABASE_URL` or the `POSTGRES_*` parts.
    ///
    /// SQLAlchemy's `postgresql+driver://` is accepted, as the environments of FastAPI projects have it.
    pub fn url(&self) -> anyhow::Result<SecretString> {
        if let Some(url) = secret(&self.database_url) {
            let Some((scheme, rest)) = url.split_once("://") else {
                bail!("DATABASE_URL is not a URL; write postgres://user:password@host:5432/name");
            };
            return match scheme.split('+').next() {
                Some("postgres" | "postgresql") => Ok(format!("postgres://{rest}").into()),
                _ => bail!("DATABASE_URL must begin with postgres://, not {scheme}://"),
            };
        }
        let Some(host) = given(self.postgres_server.as_deref()) else {
            bail!(
                "no database is configured: set DATABASE_URL (postgres://user:password@host:5432/name) or \
                 POSTGRES_SERVER, or run `saas dev`, which starts one"
            );
        };
        let escape = |text: &str| {
            form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
        };
        let password = secret(&self.postgres_password).map(|p| format!(":{}", escape(p)));
        Ok(format!(
            "postgres://{}{}@{host}:{}/{}",
            escape(&self.postgres_user),
            password.unwrap_or_default(),
            self.postgres_port,
            escape(&self.postgres_db),
        )
        .into())
    }
}

impl Redis {
    pub fn url(&self) -> SecretString {
        match secret(&self.redis_url) {
            Some(url) => url.to_owned().into(),
            None => format!(
                "redis://{}:{}/{}",
                given(self.redis_host.as_deref()).unwrap_or("localhost"),
                self.redis_port,
                self.redis_db
            )
            .into(),
        }
    }
}

impl Http {
    /// The origins whose pages may call the API.
    pub fn cors_origins(&self, debug: bool) -> anyhow::Result<HashSet<String>> {
        let text = match given(self.backend_cors_origins.as_deref()) {
            Some(text) => text,
            None if debug => "http://localhost:3000,http://localhost:5173",
            None => return Ok(HashSet::new()),
        };
        let list: Vec<String> = if text.starts_with('[') {
            serde_json::from_str(text).context(
                r#"BACKEND_CORS_ORIGINS is not a JSON list of strings; write ["https://app.example.com"]"#,
            )?
        } else {
            text.split(',').map(|origin| origin.trim().to_owned()).collect()
        };
        list.into_iter().filter(|origin| !origin.is_empty()).map(|origin| check_origin(&origin)).collect()
    }
}

fn check_origin(origin: &str) -> anyhow::Result<String> {
    let trimmed = origin.trim_end_matches('/');
    let host = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '*', ' ']) => Ok(trimmed.to_ascii_lowercase()),
        _ => bail!(
            "BACKEND_CORS_ORIGINS has {origin:?}, which is no origin; write scheme and host such as \
             https://app.example.com (a wildcard cannot be used together with credentials)"
        ),
    }
}

impl Mail {
    /// Where clients reach the API, without a slash at the end.
    pub fn public_url(&self) -> &str {
        given(self.public_url.as_deref()).unwrap_or("http://localhost:8000").trim_end_matches('/')
    }

    /// The link to a page, for a mail. The token is in the fragment, which no browser sends to a server and no
    /// server logs; the base is a setting, never what a request says of its host (OWASP, Host header injection).
    pub fn link(&self, page: &str, token: &str) -> String {
        match given(self.frontend_url.as_deref()) {
            Some(frontend) => format!("{}/{page}#token={token}", frontend.trim_end_matches('/')),
            None => format!("{}/account/{page}#token={token}", self.public_url()),
        }
    }

    /// What of the addresses cannot be used.
    ///
    /// # Errors
    /// The message names the setting.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value) in [("PUBLIC_URL", &self.public_url), ("FRONTEND_URL", &self.frontend_url)] {
            let Some(url) = given(value.as_deref()) else { continue };
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if !host.is_some_and(|host| !host.is_empty() && !host.contains(['#', '?', ' ', '@', '"', '<'])) {
                bail!("{name} {url:?} is no address; write https://app.example.com");
            }
        }
        Ok(())
    }
}

impl Worker {
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

impl Config {
    /// Every setting that is unsafe outside development, each with its mend; empty when `DEBUG` is on.
    pub fn unsafe_settings(&self) -> Vec<String> {
        if self.core.debug {
            return Vec::new();
        }
        let mut problems = Vec::new();
        problems.extend(self.auth.key_problem());
        if let Some(previous) = secret(&self.auth.secret_key_previous) {
            problems.extend(weak_key("SECRET_KEY_PREVIOUS", previous));
        }
        if self.auth.require_verified_email && secret(&self.mail.smtp_url).is_none() {
            problems
                .push("REQUIRE_VERIFIED_EMAIL would keep everybody out without SMTP_URL: set it too".into());
        }
        problems.extend(self.auth.two_factor_problem());
        if let Some(previous) = secret(&self.auth.two_factor_key_previous) {
            problems.extend(weak_key("TWO_FACTOR_KEY_PREVIOUS", previous));
        }
        if self.auth.admin.first_superuser_password.expose_secret() == DEFAULT_ADMIN_PASSWORD {
            problems.push(
                "FIRST_SUPERUSER_PASSWORD is not set or still the default: choose one of your own".into(),
            );
        }
        problems.extend(self.auth.hashing.problem());
        problems
    }
}

impl Config {
    /// What works, but hardly as it is meant.
    pub fn warnings(&self) -> Vec<&'static str> {
        let unset = |url: &Option<String>| given(url.as_deref()).is_none();
        let nowhere = unset(&self.mail.public_url) && unset(&self.mail.frontend_url);
        let mut warnings = Vec::new();
        if nowhere && !self.core.debug {
            warnings.push("the links in mails lead to http://localhost:8000: set PUBLIC_URL or FRONTEND_URL");
        }
        warnings
    }
}

impl Auth {
    fn key_problem(&self) -> Option<String> {
        match secret(&self.secret_key) {
            None => Some(format!("SECRET_KEY is not set: {HOW_TO_MAKE_A_KEY}")),
            Some(key) => weak_key("SECRET_KEY", key),
        }
    }

    fn two_factor_problem(&self) -> Option<String> {
        let Some(key) = secret(&self.two_factor_key) else {
            return self.require_admin_two_factor.then(|| {
                format!("REQUIRE_ADMIN_TWO_FACTOR would lock every admin out without TWO_FACTOR_KEY: {HOW_TO_MAKE_A_KEY}")
            });
        };
        match secret(&self.secret_key) == Some(key) {
            true => Some(format!("TWO_FACTOR_KEY is the same as SECRET_KEY: {HOW_TO_MAKE_A_KEY}")),
            false => weak_key("TWO_FACTOR_KEY", key),
        }
    }
}

const HOW_TO_MAKE_A_KEY: &str = "make one with `saas doctor --generate-secret` or `openssl rand -base64 32`";

fn weak_key(name: &str, key: &str) -> Option<String> {
    let lower = key.to_ascii_lowercase();
    let distinct = key.bytes().collect::<HashSet<_>>().len();
    if key.len() < MIN_SECRET_BYTES {
        Some(format!(
            "{name} has {} bytes and needs at least {MIN_SECRET_BYTES}: {HOW_TO_MAKE_A_KEY}",
            key.len()
        ))
    } else if KNOWN_SECRETS.iter().any(|known| lower.starts_with(known)) || distinct < 8 {
        Some(format!("{name} is an example or too regular to be secret: {HOW_TO_MAKE_A_KEY}"))
    } else {
        None
    }
}

impl Hashing {
    /// Why the work factor is too low for production, if it is.
    pub fn problem(&self) -> Option<String> {
        (self.bcrypt_cost < MIN_BCRYPT_COST && !self.allow_weak_hashes).then(|| {
            format!(
                "BCRYPT_COST is {} and needs at least {MIN_BCRYPT_COST}: remove it to take the default",
                self.bcrypt_cost
            )
        })
    }
}
