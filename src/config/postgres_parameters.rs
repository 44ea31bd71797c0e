//! The parameters of libpq, one by one.

use std::time::Duration;

use tokio_postgres::config::ChannelBinding;

use super::postgres::{ParsedParameters, PostgresOptions, SessionAttrs, SslMode};

/// The accepted parameters. The parameters of GSSAPI have no effect, as in a libpq that is built without GSSAPI, but
/// `gssencmode` must be `disable` or `prefer`.
const SUPPORTED: &str = "host hostaddr port dbname user password connect_timeout target_session_attrs \
    load_balance_hosts sslmode ssl sslrootcert sslcert sslkey sslnegotiation sslsni ssl_min_protocol_version \
    ssl_max_protocol_version channel_binding application_name options client_encoding keepalives keepalives_idle \
    keepalives_interval keepalives_count keepalives_retries tcp_user_timeout gssencmode krbsrvname gsslib \
    gssdelegation sslcompression";
/// Parameters of libpq and of other clients that are not supported, each with an instruction for the user.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("passfile", "write the password into the URL, or set POSTGRES_PASSWORD"),
    ("service", "write the parameters of the service into the URL"),
    ("servicefile", "write the parameters of the service into the URL"),
    ("fallback_application_name", "use application_name"),
    ("sslpassword", "use a key without a password in sslkey"),
    ("sslcrl", "revoked certificates are not checked; remove it"),
    ("sslcrldir", "revoked certificates are not checked; remove it"),
    ("sslcertmode", "a certificate is sent if sslcert names one; remove it"),
    ("requirepeer", "the account of the server is not checked; remove it"),
    ("require_auth", "use channel_binding=require or sslmode=verify-full"),
    ("replication", "remove it"),
    ("schema", "set the schema of the role: ALTER ROLE name SET search_path TO schema"),
    ("pgbouncer", "poolers need no parameter; remove it"),
    ("connection_limit", "set DATABASE_POOL_SIZE"),
    ("pool_timeout", "set DATABASE_TIMEOUT_MS"),
    ("socket_timeout", "set DATABASE_TIMEOUT_MS"),
    ("sslaccept", "use sslmode=require or sslmode=verify-full"),
    ("sslidentity", "use sslcert and sslkey"),
];
const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const SESSION_ATTRS: &[(&str, SessionAttrs)] = &[
    ("any", SessionAttrs::Any),
    ("read-write", SessionAttrs::ReadWrite),
    ("read-only", SessionAttrs::ReadOnly),
    ("primary", SessionAttrs::Primary),
    ("standby", SessionAttrs::Standby),
    ("prefer-standby", SessionAttrs::PreferStandby),
];
const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] = &[
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
/// The value for `keepalives_idle=0`, which means the default of the operating system: two hours on Linux.
const SYSTEM_KEEPALIVE_IDLE: Duration = Duration::from_secs(7_200);

impl PostgresOptions {
    /// Parses the names and values of parameters. A later parameter overrides an earlier one of the same name, unless the value
    /// of the later one is empty.
    ///
    /// # Errors
    /// If a parameter is not supported or has an invalid value, parameters contradict each other, or there is no host. The
    /// message has no user and no password.
    pub(super) fn parse(parameters: &[(String, String)]) -> Result<Self, String> {
        let mut parsed = ParsedParameters::new();
        for (name, value) in parameters {
            if !SUPPORTED.split(' ').any(|known| known == name) {
                return Err(refusal(name, parameters));
            }
            // An empty value is ignored: the parameter keeps the value of an earlier parameter, or its default.
            if !value.is_empty() {
                parsed.set(name, value)?;
            }
        }
        parsed.finish()
    }
}

/// Returns why the parameter `name` is refused, with the fix.
fn refusal(name: &str, parameters: &[(String, String)]) -> String {
    if let Some((_, instead)) = UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        return format!("the parameter {name} is not supported: {instead}");
    }
    // If a password contains an unescaped `?`, its rest looks like a parameter, and the `@` after the password like a part of
    // that parameter.
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if !is_word || parameters.iter().any(|(name, value)| name.contains('@') || value.contains('@')) {
        return "a parameter is unknown. In a password, write ? as %3F and @ as %40".into();
    }
    format!("the parameter {name} is unknown: remove it. Supported are {}", SUPPORTED.replace(' ', ", "))
}

impl ParsedParameters {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let connection = &mut self.options.connection;
        match name {
            "host" => self.hosts = value.to_owned(),
            "hostaddr" => self.addresses = value.to_owned(),
            "port" => self.ports = value.to_owned(),
            "dbname" => {
                connection.dbname(value);
            }
            "user" => {
                connection.user(value);
            }
            "password" => {
                connection.password(value);
            }
            "application_name" => {
                connection.application_name(value);
            }
            "options" => {
                connection.options(value);
            }
            "connect_timeout" => {
                self.options.connect_timeout = positive(name, value)?.map(Duration::from_secs)
            }
            "target_session_attrs" => self.options.session = choose(name, value, SESSION_ATTRS)?,
            "load_balance_hosts" => {
                self.options.random_order = choose(name, value, &[("disable", false), ("random", true)])?;
            }
            "channel_binding" => {
                connection.channel_binding(choose(name, value, CHANNEL_BINDINGS)?);
            }
            _ if name.starts_with("ssl") => self.set_tls(name, value)?,
            _ => self.set_other(name, value)?,
        }
        Ok(())
    }

    fn set_tls(&mut self, name: &str, value: &str) -> Result<(), String> {
        let tls = &mut self.options.tls;
        match (name, value) {
            ("ssl", "true") => self.mode = Some(SslMode::Require),
            ("ssl", "false") => self.mode = Some(SslMode::Disable),
            ("ssl" | "sslmode", _) => self.mode = Some(choose(name, value, SSL_MODES)?),
            ("sslrootcert", _) => {
                self.system_roots = value == "system";
                tls.root_certificates = (!self.system_roots).then(|| value.into());
            }
            ("sslcert", _) => self.certificate = Some(value.into()),
            ("sslkey", _) => self.key = Some(value.into()),
            ("sslnegotiation", _) => {
                tls.direct = choose(name, value, &[("postgres", false), ("direct", true)])?;
            }
            ("sslsni", _) => tls.send_name = choose(name, value, &[("0", false), ("1", true)])?,
            ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3") => {
                tls.allow_tls12 = value != "TLSv1.3";
            }
            ("ssl_max_protocol_version", "TLSv1.2" | "TLSv1.3") => tls.allow_tls13 = value == "TLSv1.3",
            ("ssl_min_protocol_version" | "ssl_max_protocol_version", _) => {
                return Err(format!("{name} has an unsupported value; write TLSv1.2 or TLSv1.3"));
            }
            // `sslcompression` has no effect, as in libpq.
            _ => {}
        }
        Ok(())
    }

    fn set_other(&mut self, name: &str, value: &str) -> Result<(), String> {
        let connection = &mut self.options.connection;
        match name {
            "keepalives" => {
                connection.keepalives(positive(name, value)?.is_some());
            }
            "keepalives_idle" => {
                let idle = positive(name, value)?.map_or(SYSTEM_KEEPALIVE_IDLE, Duration::from_secs);
                connection.keepalives_idle(idle);
            }
            "keepalives_interval" => {
                if let Some(seconds) = positive(name, value)? {
                    connection.keepalives_interval(Duration::from_secs(seconds));
                }
            }
            "keepalives_count" | "keepalives_retries" => {
                if let Some(count) = positive(name, value)? {
                    connection.keepalives_retries(u32::try_from(count).unwrap_or(u32::MAX));
                }
            }
            // The value is in milliseconds, unlike the other times, which are in seconds.
            "tcp_user_timeout" => {
                if let Some(ms) = positive(name, value)? {
                    connection.tcp_user_timeout(Duration::from_millis(ms));
                }
            }
            "client_encoding" if ["utf8", "utf-8", "auto"].contains(&&*value.to_ascii_lowercase()) => {}
            "client_encoding" => return Err("client_encoding is always UTF8: remove it".into()),
            "gssencmode" if value == "require" => {
                return Err("gssencmode=require is not supported: use sslmode, which encrypts by TLS".into());
            }
            "gssencmode" => choose(name, value, &[("disable", ()), ("prefer", ())])?,
            // The remaining parameters have an effect with GSSAPI only.
            _ => {}
        }
        Ok(())
    }
}

/// Returns the choice with the name `value`.
///
/// # Errors
/// A message with the possible values if there is no such choice.
fn choose<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(word, _)| *word == value);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        // The value is not shown: if a password has an unescaped `?`, the value is the rest of the password.
        format!("{name} has an unknown value; write one of {}", words.join(", "))
    })
}

/// Parses a number. `None` for 0 and negative numbers, which mean that a feature is off or has its default.
fn positive(name: &str, value: &str) -> Result<Option<u64>, String> {
    let number: i64 = value.trim().parse().map_err(|_| format!("{name} is not a number"))?;
    Ok(u64::try_from(number).ok().filter(|number| *number > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::postgres_url;

    fn parse(url: &str) -> Result<PostgresOptions, String> {
        PostgresOptions::parse(&postgres_url::parameters(url)?)
    }

    #[test]
    fn every_supported_parameter_is_accepted_and_every_other_is_named() {
        let values = "h 10.0.0.1 5432 db u p 3 any random require true /ca.pem /c.pem /k.pem direct 0 TLSv1.2 TLSv1.3 \
            require app -cjit=off UTF8 0 1 2 3 4 5000 disable postgres gssapi 0 0";
        let words: Vec<_> = SUPPORTED.split(' ').zip(values.split(' ')).collect();
        assert_eq!(words.len(), SUPPORTED.split(' ').count());
        let query: Vec<_> = words.iter().map(|(name, value)| format!("{name}={value}")).collect();
        parse(&format!("?{}", query.join("&"))).unwrap();
        let empty: Vec<_> = SUPPORTED.split(' ').skip(1).map(|name| format!("{name}=")).collect();
        assert_eq!(parse(&format!("h?{}", empty.join("&"))).unwrap().tls.mode, SslMode::Prefer);
        for name in
            UNSUPPORTED.iter().map(|(name, _)| *name).chain(["sllmode", "statement_cache_size", "Host"])
        {
            let problem = parse(&format!("h?{name}=1")).unwrap_err();
            assert!(problem.contains(name), "{problem}");
        }
    }

    #[test]
    fn invalid_values_are_refused_without_the_password() {
        for query in [
            "sslmode=maybe",
            "sslrootcert=system&sslmode=require",
            "sslmode=verify-ca&sslrootcert=system",
            "sslmode=prefer&sslrootcert=system",
            "sslcert=/c.pem",
            "sslkey=/k.pem",
            "sslnegotiation=direct",
            "sslnegotiation=direct&sslmode=prefer",
            "ssl_max_protocol_version=TLSv1",
            "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "channel_binding=maybe",
            "channel_binding=require&sslmode=disable",
            "target_session_attrs=primary-ish",
            "load_balance_hosts=yes",
            "connect_timeout=soon",
            "keepalives=on",
            "client_encoding=LATIN1",
            "gssencmode=require",
            "port=0",
            "port=1,2",
            "hostaddr=h",
            "hostaddr=::1,::2",
            "host=a,",
        ] {
            let problem = parse(&format!("u:hunter2@h/db?{query}")).expect_err(query);
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for url in
            ["u:hun?hunter2=ter@h/db", "u:hun?hunter2@h/db?a=b", "u:a@hunter2:hunter2@h/db", "u:hunter2@/db"]
        {
            let problem = parse(url).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for name in SUPPORTED.split(' ') {
            if let Err(problem) = parse(&format!("u:hun?{name}=hunter2@h:5432/db")) {
                assert!(!problem.contains("hunter2"), "{name}: {problem}");
            }
        }
    }

    #[test]
    fn tls_parameters_have_the_meaning_of_libpq() {
        let tls = |query: &str| parse(&format!("h/db?{query}")).unwrap().tls;
        assert_eq!(tls("").mode, SslMode::Prefer);
        assert_eq!(tls("sslmode=allow").mode, SslMode::Allow);
        assert_eq!(tls("ssl=true").mode, SslMode::Require);
        assert_eq!(tls("sslmode=disable&sslmode=verify-full").mode, SslMode::VerifyFull);
        let versions = "ssl_min_protocol_version=TLSv1.3&ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.2";
        let with_versions = tls(&format!("{versions}&ssl_max_protocol_version=TLSv1.3"));
        assert_eq!((with_versions.allow_tls12, with_versions.allow_tls13), (true, true));
        assert_eq!(tls("sslrootcert=system").mode, SslMode::VerifyFull);
        let with_file = tls("sslmode=require&sslrootcert=%2Fca.pem");
        assert_eq!(
            (with_file.mode, with_file.root_certificates),
            (SslMode::VerifyCa, Some("/ca.pem".into()))
        );
        assert_eq!(tls("sslcert=/c&sslkey=/k").client_certificate, Some(("/c".into(), "/k".into())));
    }

    #[test]
    fn parameters_set_the_properties_of_the_connection() {
        let query = "application_name=a+b&keepalives_idle=1&tcp_user_timeout=1500&connect_timeout=7&options=-cjit=off";
        let options = parse(&format!("u:p%40@h?{query}")).unwrap();
        let connection = &options.connection;
        assert_eq!(connection.get_password(), Some(b"p@".as_slice()));
        assert_eq!(connection.get_application_name(), Some("a+b"));
        assert_eq!(connection.get_keepalives_idle(), Duration::from_secs(1));
        assert_eq!(connection.get_tcp_user_timeout(), Some(&Duration::from_millis(1_500)));
        assert_eq!(connection.get_options(), Some("-cjit=off"));
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(7)));
        assert_eq!(options.session, SessionAttrs::ReadWrite);
    }
}
