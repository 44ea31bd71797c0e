//! Settings that work, but are unsafe in production or probably not intended.

use url::Url;

use super::{Config, Mail, Setting, SmtpTls, check::DEFAULT_PUBLIC_URL, site::is_local, value::secret};

impl Config {
    /// Returns warnings about settings that are probably not intended, each with its fix. Empty if `DEBUG` is on.
    pub fn warnings(&self) -> Vec<String> {
        if self.core.debug {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        if !self.mail.smtp_url.is_set() {
            warnings.push(
                "no mail is sent, because there is no mail server: set SMTP_URL. Mails wait in the outbox until then, \
                 and are dropped when they are too old"
                    .into(),
            );
        }
        if !self.mail.has_link_target() {
            warnings.push(format!(
                "the links in mails lead to {DEFAULT_PUBLIC_URL}: set PUBLIC_URL or FRONTEND_URL"
            ));
        }
        warnings
    }

    /// Returns warnings about settings that are unsafe in production. `saas serve` and `saas worker` start with these
    /// settings: `DEBUG` may be intended, and an unencrypted connection may be acceptable in a private network.
    pub fn weaknesses(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.core.debug {
            list.push(
                "DEBUG is on: never use it in production, because it relaxes the checks of settings".into(),
            );
            if secret(&self.auth.secret_key).is_none() {
                list.push(
                    "SECRET_KEY is not set: each process makes its own key, and refuses the tokens of the others".into(),
                );
            }
        }
        list.extend(self.mail.weaknesses());
        list.extend(self.database.weakness());
        list.extend(self.redis.weakness());
        list.extend(self.redis_options.cache(&self.redis).and_then(|cache| cache.weakness()));
        list
    }
}

impl Mail {
    fn weaknesses(&self) -> Vec<String> {
        let is_plain = |setting: &Setting<Url>| {
            let url = setting.get().ok().flatten();
            url.is_some_and(|url| url.scheme() == "http" && !url.host_str().is_some_and(is_local))
        };
        let mut list = Vec::new();
        if is_plain(&self.public_url) {
            list.push(
                "PUBLIC_URL begins with http: passwords and tokens are sent unencrypted. Use https".into(),
            );
        }
        if is_plain(&self.frontend_url) {
            list.push(
                "FRONTEND_URL begins with http: the links in mails open an unencrypted page. Use https"
                    .into(),
            );
        }
        if let Some(server) = self.smtp_url.get().ok().flatten()
            && matches!(server.tls, SmtpTls::None | SmtpTls::Opportunistic)
            && !is_local(&server.host)
        {
            list.push(format!(
                "mails to {} may be sent unencrypted, with links that reset passwords: add ?tls=required to SMTP_URL, or \
                 use smtps://",
                server.host
            ));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        config: Config,
    }

    /// Returns the weaknesses of a configuration that is safe except for these flags.
    fn weaknesses(flags: &[&str]) -> Vec<String> {
        let safe = [
            "--database-url=postgres://u@db.example.com/app?sslmode=verify-full",
            "--redis-url=rediss://redis.example.com",
            "--smtp-url=smtps://u:p@mail.example.com",
            "--public-url=https://api.example.com",
        ];
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        let kept = safe.into_iter().filter(|flag| flags.iter().all(|given| name(given) != name(flag)));
        let args = ["test"].into_iter().chain(kept).chain(flags.iter().copied());
        Settings::parse_from(args).config.weaknesses()
    }

    #[test]
    fn unsafe_settings_are_reported_and_safe_settings_are_not() {
        assert_eq!(weaknesses(&[]), [""; 0]);
        for (flag, expected) in [
            ("--debug=true", "DEBUG is on"),
            ("--public-url=http://api.example.com", "PUBLIC_URL begins with http"),
            ("--frontend-url=http://203.0.113.9:3000", "FRONTEND_URL begins with http"),
            ("--smtp-url=smtp://mail.example.com", "mails to mail.example.com may be sent unencrypted"),
            ("--smtp-url=smtp://u:hunter2@10.0.0.1?tls=none", "mails to 10.0.0.1 may be sent unencrypted"),
            ("--smtp-url=smtp://mail?tls=opportunistic", "mails to mail may be"),
            ("--database-url=postgres://u:hunter2@db/app", "PostgreSQL at db:5432 may be unencrypted"),
            ("--database-url=postgres://u:hunter2@db/app?sslmode=require", "certificate of PostgreSQL"),
            ("--redis-url=redis://:hunter2@redis:6379/0", "Redis at redis are unencrypted"),
            ("--redis-url=rediss://:hunter2@redis:6379/0#insecure", "certificate of Redis"),
            ("--cache-redis-url=redis://:hunter2@cache:6379/0", "use rediss:// in CACHE_REDIS_URL"),
            ("--cache-redis-url=rediss://:hunter2@cache#insecure", "remove #insecure from CACHE_REDIS_URL"),
        ] {
            let found = weaknesses(&[flag]).join("\n");
            assert!(found.contains(expected) && !found.contains("hunter2"), "{flag}: {found}");
        }
        for flag in [
            "--public-url=http://localhost:8000",
            "--frontend-url=http://app.localhost",
            "--smtp-url=smtp://127.0.0.1:1025",
            "--smtp-url=smtp://mail.example.com?tls=required",
            "--smtp-url=smtp://u:p@mail.example.com",
            "--database-url=postgres://u@localhost/app",
            "--database-url=postgres://u@%2Frun%2Fpostgresql/app",
            "--redis-url=redis://[::1]:6379",
            "--redis-url=unix:///run/redis.sock",
            "--cache-redis-url=redis://localhost",
            "--cache-redis-url=rediss://cache.example.com",
        ] {
            assert_eq!(weaknesses(&[flag]), [""; 0], "{flag}");
        }
    }
}
