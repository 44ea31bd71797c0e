//! The SMTP client (RFC 5321).
//!
//! The client sends the commands one by one, because the meaning of a reply depends on the command. lettre's own
//! transport reports the code of a reply, but not the command.

use std::{
    error::Error as _,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use lettre::{
    Address, Message,
    address::Envelope,
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, CertificateStore, TlsParameters, TlsParametersBuilder},
        commands,
        extension::{ClientId, Extension, MailBodyParameter, MailParameter, ServerInfo},
    },
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::send_error::SendError;
use crate::{
    config::{SmtpServer, SmtpTls},
    error::{chain, shortened},
};

/// Timeout of each [`Step`] except [`Step::Content`].
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of [`Step::Content`]. Some servers scan the mail before they reply.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(40);
/// Timeout of connecting to one IP address of the host. After the timeout, lettre tries the next address. All attempts together
/// have [`STEP_TIMEOUT`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Timeout of QUIT, and of NOOP, which tests an idle connection.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was idle for this time is not used again. It is closed when the next mail is sent.
const MAX_IDLE: Duration = Duration::from_secs(60);
const MAX_IDLE_CONNECTIONS: usize = 10;
/// Maximum number of characters of a reply that an error contains.
const MAX_REPLY_CHARS: usize = 300;

/// Reply codes that concern the settings, not the mail: authentication or encryption is required or has failed (RFC
/// 4954 section 6, RFC 3207 section 4; 538 is from RFC 2554 section 6).
const SETTINGS_CODES: [u16; 4] = [530, 534, 535, 538];
/// Reply code that is permanent, except in a reply to RCPT. For too many recipients or a full mailbox, some servers send it
/// instead of 452, which is temporary (RFC 5321 section 4.5.3.1.10).
const STORAGE_EXCEEDED: u16 = 552;

/// Sends mails to one server, and keeps idle connections for later mails.
pub(super) struct SmtpClient {
    server: SmtpServer,
    tls: Option<TlsParameters>,
    hello_name: ClientId,
    credentials: Option<Credentials>,
    idle: Mutex<Vec<IdleConnection>>,
}

struct IdleConnection {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl SmtpClient {
    /// Creates the client without connecting.
    ///
    /// # Errors
    /// If TLS cannot be set up, for example because the certificates of the operating system cannot be loaded.
    pub(super) fn new(server: &SmtpServer) -> anyhow::Result<Self> {
        let tls = TlsParameters::builder(server.host.clone());
        let tls = match server.tls {
            SmtpTls::None => None,
            // Opportunistic TLS accepts any certificate, because encryption without authentication is better than none.
            SmtpTls::Opportunistic => Some(
                tls.certificate_store(CertificateStore::None)
                    .dangerous_accept_invalid_certs(true)
                    .dangerous_accept_invalid_hostnames(true),
            ),
            SmtpTls::Required | SmtpTls::Wrapper => Some(tls),
        };
        let tls = tls.map(TlsParametersBuilder::build).transpose();
        let credentials = server.credentials.as_ref().map(|credentials| {
            Credentials::new(credentials.user.clone(), credentials.password.expose_secret().to_owned())
        });
        Ok(Self {
            tls: tls.context("cannot set up TLS to the server of SMTP_URL")?,
            hello_name: server.hello_name.clone().map_or_else(ClientId::default, ClientId::Domain),
            credentials,
            server: server.clone(),
            idle: Mutex::default(),
        })
    }

    /// Sends a mail.
    ///
    /// # Errors
    /// [`SendError::Refused`] if the server permanently refuses this mail, or lacks an extension that the recipient or the
    /// content needs; [`SendError::Unavailable`] otherwise.
    pub(super) async fn send(&self, message: &Message) -> Result<(), SendError> {
        let mut connection = self.connection().await?;
        let sent = deliver(&mut connection, message.envelope(), &message.formatted()).await;
        match sent {
            Ok(()) => self.keep(connection),
            Err(_) => {
                let _ = timeout(QUIT_TIMEOUT, connection.abort()).await;
            }
        }
        sent
    }

    /// Returns an idle connection that still works, or opens a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, SendError> {
        while let Some(mut connection) = self.take_idle() {
            if matches!(timeout(QUIT_TIMEOUT, connection.test_connected()).await, Ok(true)) {
                return Ok(connection);
            }
        }
        self.connect().await.map_err(|error| self.with_server_name(error))
    }

    /// Adds the host and port of the server to a [`SendError::Unavailable`]. Returns other errors unchanged.
    fn with_server_name(&self, error: SendError) -> SendError {
        let SmtpServer { host, port, .. } = &self.server;
        match error {
            SendError::Unavailable(source) if host.contains(':') => {
                unavailable(format!("[{host}]:{port}: {source}"))
            }
            SendError::Unavailable(source) => unavailable(format!("{host}:{port}: {source}")),
            other => other,
        }
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since.elapsed() < MAX_IDLE);
        idle.pop().map(|kept| kept.connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(IdleConnection { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let wrapper = self.tls.clone().filter(|_| self.server.tls == SmtpTls::Wrapper);
        let address = (self.server.host.as_str(), self.server.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(
            address,
            Some(CONNECT_TIMEOUT),
            &self.hello_name,
            wrapper,
            None,
        );
        let mut connection = run(Step::Connect, connecting).await?;
        if self.uses_starttls(connection.server_info())?
            && let Some(tls) = self.tls.clone()
        {
            run(Step::StartTls, connection.starttls(tls, &self.hello_name)).await?;
        }
        if let Some(credentials) = &self.credentials {
            if connection.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
                return Err(unavailable("the server offers neither AUTH PLAIN nor AUTH LOGIN"));
            }
            run(Step::Auth, connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }

    /// Returns whether to send STARTTLS to a server.
    ///
    /// # Errors
    /// [`SendError::Unavailable`] if the settings require STARTTLS and the server does not offer it.
    fn uses_starttls(&self, info: &ServerInfo) -> Result<bool, SendError> {
        let is_offered = info.supports_feature(Extension::StartTls);
        match self.server.tls {
            SmtpTls::None | SmtpTls::Wrapper => Ok(false),
            SmtpTls::Opportunistic => Ok(is_offered),
            SmtpTls::Required if is_offered => Ok(true),
            SmtpTls::Required => Err(unavailable(
                "the server does not offer STARTTLS, which SMTP_URL requires; with tls=none, mails and password are \
                 sent without encryption",
            )),
        }
    }
}

/// Sends one mail over a connection.
async fn deliver(
    connection: &mut AsyncSmtpConnection,
    envelope: &Envelope,
    content: &[u8],
) -> Result<(), SendError> {
    let options = mail_options(connection.server_info(), envelope, content)?;
    run(Step::Mail, connection.command(commands::Mail::new(envelope.from().cloned(), options))).await?;
    for to in envelope.to() {
        run(Step::Rcpt, connection.command(commands::Rcpt::new(to.clone(), Vec::new()))).await?;
    }
    run(Step::Data, connection.command(commands::Data)).await?;
    run(Step::Content, connection.message(content)).await?;
    Ok(())
}

/// Returns the parameters of the MAIL command that the mail needs.
///
/// # Errors
/// If the server does not support a parameter: [`SendError::Unavailable`] if the address in `MAIL_FROM` needs it, and
/// [`SendError::Refused`] if only the recipient or the content needs it.
fn mail_options(
    info: &ServerInfo,
    envelope: &Envelope,
    content: &[u8],
) -> Result<Vec<MailParameter>, SendError> {
    let is_ascii = |address: &Address| address.user().is_ascii() && address.domain().is_ascii();
    let from_is_ascii = envelope.from().is_none_or(is_ascii);
    let to_is_ascii = envelope.to().iter().all(is_ascii);
    let mut options = Vec::new();
    if !(from_is_ascii && to_is_ascii) {
        let offers_utf8 = info.supports_feature(Extension::SmtpUtfEight);
        if !offers_utf8 && !from_is_ascii {
            return Err(unavailable("MAIL_FROM has letters before the @ that need a server with SMTPUTF8"));
        }
        if !offers_utf8 {
            return Err(SendError::Refused(
                "the address has letters before the @ that need SMTPUTF8 (RFC 6531), which the server does not offer"
                    .into(),
            ));
        }
        options.push(MailParameter::SmtpUtfEight);
    }
    if !content.is_ascii() {
        if !info.supports_feature(Extension::EightBitMime) {
            return Err(SendError::Refused("it needs 8BITMIME, which the server does not offer".into()));
        }
        options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(options)
}

/// A step of the SMTP session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Connect,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The content of the mail, up to the line with a single dot.
    Content,
}

/// Runs a step, with its timeout.
async fn run<T>(step: Step, work: impl Future<Output = Result<T, SmtpError>>) -> Result<T, SendError> {
    let limit = if step == Step::Content { CONTENT_TIMEOUT } else { STEP_TIMEOUT };
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|error| step.failure(&error)),
        Err(_) => Err(unavailable(format!("{step}: no answer within {} s", limit.as_secs()))),
    }
}

impl Step {
    /// Converts an error that lettre has returned in this step.
    fn failure(self, error: &SmtpError) -> SendError {
        // The error contains the text of a malformed reply. In these steps, the text may quote a secret, as explained below.
        if error.is_response() && matches!(self, Self::Auth | Self::Content) {
            return unavailable(format!("{self}: the reply is malformed"));
        }
        let Some(code) = error.status().map(u16::from) else {
            return unavailable(format!("{self}: {}", chain(error)));
        };
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        let text = match self {
            // The text of the reply may quote what the server refuses: the password, or a link in the mail. So the
            // error contains only the status codes of the reply.
            Self::Auth | Self::Content => enhanced_code(&text),
            _ => text.trim(),
        };
        let reply = format!("{self}: {code} {}", shortened(text, MAX_REPLY_CHARS));
        let is_about_settings = SETTINGS_CODES.contains(&code);
        let is_about_mail = matches!(self, Self::Mail | Self::Rcpt | Self::Data | Self::Content)
            && !is_about_settings
            && !(self == Self::Rcpt && code == STORAGE_EXCEEDED);
        match error.is_permanent() && is_about_mail {
            true => SendError::Refused(reply.trim_end().into()),
            false if is_about_settings || self == Self::Auth => {
                unavailable(format!("{}; check the user, the password and tls in SMTP_URL", reply.trim_end()))
            }
            false => unavailable(reply.trim_end()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "cannot connect to the server of SMTP_URL",
            Self::StartTls => "cannot encrypt the connection by STARTTLS",
            Self::Auth => "cannot sign in (AUTH)",
            Self::Mail => "reply to MAIL",
            Self::Rcpt => "reply to RCPT",
            Self::Data => "reply to DATA",
            Self::Content => "reply to the content",
        })
    }
}

/// Returns the enhanced status code at the beginning of a reply, such as `5.1.1` (RFC 2034), or an empty text.
fn enhanced_code(reply: &str) -> &str {
    let word = reply.split_whitespace().next().unwrap_or_default();
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<_> = word.split('.').collect();
    if parts.len() == 3 && parts.into_iter().all(is_number) { word } else { "" }
}

fn unavailable(problem: impl Into<String>) -> SendError {
    let problem: String = problem.into();
    SendError::Unavailable(problem.into())
}
