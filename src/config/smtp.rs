//! The setting `SMTP_URL`.

use std::{borrow::Cow, net::IpAddr};

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Position, Url};

const EXAMPLE_URLS: &str = "smtp://user:password@host:587?tls=required or smtps://user:password@host:465";
const SMTP_PORT: u16 = 25;
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

/// The SMTP server that sends the mails.
#[derive(Clone)]
pub struct SmtpServer {
    /// A name in ASCII or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub credentials: Option<SmtpCredentials>,
    /// The name of this client for the command EHLO. `None` for the default of the mail library.
    pub hello_name: Option<String>,
}

/// The user and password for an SMTP server.
#[derive(Clone)]
pub struct SmtpCredentials {
    pub user: String,
    pub password: SecretString,
}

/// How a connection to an SMTP server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// Without encryption.
    None,
    /// By STARTTLS if the server offers it, with any certificate (RFC 7435).
    Opportunistic,
    /// By STARTTLS (RFC 3207), with a valid certificate.
    Required,
    /// From the first byte (RFC 8314), with a valid certificate.
    Wrapper,
}

/// Parses the URL of an SMTP server. No message repeats the user or the password.
pub(super) fn smtp_server(text: &str) -> Result<SmtpServer, String> {
    parse(text).map_err(|problem| format!("cannot be read: {problem}; write {EXAMPLE_URLS}"))
}

fn parse(text: &str) -> Result<SmtpServer, Cow<'static, str>> {
    let url = Url::parse(text).map_err(|_| "it is not a URL with a valid host and port")?;
    let is_smtps = match url.scheme() {
        "smtp" => false,
        "smtps" => true,
        _ => return Err("it does not begin with smtp:// or smtps://".into()),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it has no host")?;
    // An unescaped special character of a password ends the host early. The rest of the URL may be a part of the password.
    if url.fragment().is_some() || url[Position::AfterPort..].contains('@') {
        return Err("@, /, ? and # in the user or the password must be %40, %2F, %3F and %23".into());
    }
    let host = Host::parse(host).map_err(|_| "its host is not valid")?;
    let is_local = is_loopback(&host);
    let credentials = credentials(&url)?;
    let parameter = tls_parameter(&url)?;
    let tls = match (is_smtps, parameter) {
        (true, None | Some(SmtpTls::Required | SmtpTls::Wrapper)) => SmtpTls::Wrapper,
        (true, Some(_)) => return Err("smtps:// always uses TLS; without, it begins with smtp://".into()),
        // A password is never sent to another machine without encryption unless `tls=none` says so.
        (false, None | Some(SmtpTls::Opportunistic)) if credentials.is_some() && !is_local => {
            SmtpTls::Required
        }
        (false, parameter) => parameter.unwrap_or(SmtpTls::Opportunistic),
    };
    let default_port = match (tls, parameter) {
        (SmtpTls::Wrapper, _) => SUBMISSIONS_PORT,
        (_, None | Some(SmtpTls::None)) => SMTP_PORT,
        (_, Some(_)) => SUBMISSION_PORT,
    };
    let port = url.port().unwrap_or(default_port);
    if port == 0 {
        return Err("its port is 0".into());
    }
    let host = match host {
        Host::Domain(name) => name,
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    };
    Ok(SmtpServer { host, port, tls, credentials, hello_name: hello_name(&url)? })
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(*ip).to_canonical().is_loopback(),
    }
}

fn credentials(url: &Url) -> Result<Option<SmtpCredentials>, &'static str> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(Cow::into_owned).map_err(|_| "its user or password is not UTF-8")
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) => Err("it has a password without a user"),
        (_, None | Some("")) => Err("it has a user without a password"),
        (user, Some(password)) => {
            Ok(Some(SmtpCredentials { user: decode(user)?, password: decode(password)?.into() }))
        }
    }
}

fn tls_parameter(url: &Url) -> Result<Option<SmtpTls>, Cow<'static, str>> {
    let mut tls = None;
    for (name, value) in url.query_pairs() {
        if name != "tls" {
            return Err(format!("it has the unknown parameter {name:?}; the only one is tls").into());
        }
        let value = match &*value {
            "none" => SmtpTls::None,
            "opportunistic" => SmtpTls::Opportunistic,
            "required" => SmtpTls::Required,
            "wrapper" => SmtpTls::Wrapper,
            _ => return Err("its parameter tls is not none, opportunistic, required or wrapper".into()),
        };
        if tls.replace(value).is_some() {
            return Err("it has the parameter tls more than once".into());
        }
    }
    Ok(tls)
}

/// Returns the name for EHLO: the path of the URL. `None` if there is no path.
fn hello_name(url: &Url) -> Result<Option<String>, &'static str> {
    let name = url.path().trim_matches('/');
    let is_valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    match is_valid {
        true => Ok((!name.is_empty()).then(|| name.to_owned())),
        false => Err("its path is not a host name for EHLO"),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn smtp_urls_are_parsed() {
        use SmtpTls::{None, Opportunistic, Required, Wrapper};
        for (url, host, port, tls) in [
            ("smtp://mail.example.com", "mail.example.com", 25, Opportunistic),
            ("smtp://mail.example.com/", "mail.example.com", 25, Opportunistic),
            ("smtp://127.0.0.1:1025?tls=none", "127.0.0.1", 1025, None),
            ("smtp://mail?tls=opportunistic", "mail", 587, Opportunistic),
            ("smtp://mail:2525?tls=required", "mail", 2525, Required),
            ("smtp://mail?tls=wrapper", "mail", 465, Wrapper),
            ("smtps://mail", "mail", 465, Wrapper),
            ("smtps://[2001:db8::1]:4650?tls=required", "2001:db8::1", 4650, Wrapper),
            ("smtp://Bücher.example", "xn--bcher-kva.example", 25, Opportunistic),
            // A password needs encryption, except on this machine or if the setting says so.
            ("smtp://u:p@mail", "mail", 25, Required),
            ("smtp://u:p@mail:587?tls=opportunistic", "mail", 587, Required),
            ("smtp://u:p@10.0.0.1?tls=none", "10.0.0.1", 25, None),
            ("smtp://u:p@localhost", "localhost", 25, Opportunistic),
            ("smtp://u:p@127.0.0.2", "127.0.0.2", 25, Opportunistic),
            ("smtp://u:p@[::1]", "::1", 25, Opportunistic),
            ("smtp://u:p@localhost.example.com", "localhost.example.com", 25, Required),
        ] {
            let server = smtp_server(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((&*server.host, server.port, server.tls), (host, port, tls), "{url}");
        }
        let server = smtp_server("smtp://a%40b.example:p%3A%2F+%E2%82%AC@mail/client.example.com").unwrap();
        let SmtpCredentials { user, password } = server.credentials.unwrap();
        assert_eq!((&*user, password.expose_secret()), ("a@b.example", "p:/+€"));
        assert_eq!(server.hello_name.as_deref(), Some("client.example.com"));
    }

    #[test]
    fn errors_about_invalid_urls_do_not_contain_the_password() {
        for (url, problem) in [
            ("mail.example.com:25", "does not begin with smtp://"),
            ("http://u:hunter2@mail", "does not begin with smtp://"),
            ("mail", "not a URL"),
            ("smtp:mail", "no host"),
            ("smtp://", "no host"),
            ("smtp://:25", "not a URL"),
            ("smtp://u:hunter2@", "not a URL"),
            ("smtp://u:hunter2@mail:0", "port is 0"),
            ("smtp://u:hunter2@mail:99999", "not a URL"),
            ("smtp://u:hunter2@mail:port", "not a URL"),
            ("smtp://u@mail", "a user without a password"),
            ("smtp://u:@mail", "a user without a password"),
            ("smtp://:hunter2@mail", "a password without a user"),
            ("smtp://u:hunter2%ff@mail", "not UTF-8"),
            ("smtp://u:hunter2@mail?starttls=true", "unknown parameter \"starttls\""),
            ("smtp://u:hunter2@mail?tls=required&verify=no", "unknown parameter \"verify\""),
            ("smtp://u:hunter2@mail?TLS=required", "unknown parameter \"TLS\""),
            ("smtp://u:hunter2@mail?tls=yes", "none, opportunistic, required or wrapper"),
            ("smtp://u:hunter2@mail?tls=", "none, opportunistic, required or wrapper"),
            ("smtp://u:hunter2@mail?tls=none&tls=required", "more than once"),
            ("smtps://u:hunter2@mail?tls=none", "always uses TLS"),
            ("smtps://u:hunter2@mail?tls=opportunistic", "always uses TLS"),
            // The part before the special character is read as the port.
            ("smtp://u:12/hunter2@mail", "must be %40"),
            ("smtp://u:12?hunter2=x&y@mail", "must be %40"),
            ("smtp://u:12#hunter2@mail", "must be %40"),
            ("smtp://mail/a%20b", "not a host name"),
        ] {
            let error = smtp_server(url).err().unwrap_or_else(|| panic!("{url} is accepted"));
            assert!(error.contains(problem) && error.starts_with("cannot be read: "), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }
}
