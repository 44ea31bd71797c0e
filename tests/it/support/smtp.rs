//! An SMTP server that stores the mails that it receives. It implements the part of RFC 5321 that the product uses.

use std::sync::{Arc, Mutex};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// The file with the certificate and the key of the server. No system trusts the certificate.
pub const CERTIFICATE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/localhost.pem");

#[derive(Debug, Clone, Default)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

/// The behavior of an SMTP server. By default it has no extensions and accepts every mail.
#[derive(Clone, Default)]
pub struct Behavior {
    /// The extensions in the reply to EHLO.
    pub extensions: Vec<&'static str>,
    /// Commands with the replies that the server sends instead of its usual ones. The empty command means the greeting,
    /// and the command `.` the end of a mail.
    pub replies: Vec<(&'static str, &'static str)>,
    pub tls: Tls,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Tls {
    #[default]
    Off,
    /// STARTTLS upgrades the connection.
    Upgrade,
    /// TLS from the first byte, as with `smtps://`.
    Wrapper,
}

pub struct SmtpServer {
    pub url: String,
    dialog: Dialog,
}

#[derive(Clone)]
struct Dialog {
    behavior: Arc<Behavior>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    mails: Vec<Mail>,
    commands: Vec<String>,
    refusals: u32,
}

impl SmtpServer {
    pub async fn start() -> Self {
        Self::with(Behavior::default()).await
    }

    /// Starts a server that sends `reply` to each `command`.
    pub async fn replying(command: &'static str, reply: &'static str) -> Self {
        Self::with(Behavior { replies: vec![(command, reply)], ..Behavior::default() }).await
    }

    pub async fn with(behavior: Behavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if behavior.tls == Tls::Wrapper { "smtps" } else { "smtp" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let dialog = Dialog { behavior: Arc::new(behavior), state: Arc::default() };
        let accepting = dialog.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        Self { url, dialog }
    }

    /// Returns the URL with a user and a password.
    pub fn url_with_password(&self) -> String {
        self.url.replacen("://", "://user:hunter2@", 1)
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.dialog.state.lock().unwrap().mails.clone()
    }

    /// Returns the received commands of all clients. A command that was encrypted begins with `TLS `.
    pub fn commands(&self) -> Vec<String> {
        self.dialog.state.lock().unwrap().commands.clone()
    }

    /// Refuses the next `mails` mails with a temporary error.
    pub fn refuse(&self, mails: u32) {
        self.dialog.state.lock().unwrap().refusals = mails;
    }
}

impl Dialog {
    async fn serve(self, stream: TcpStream) -> Option<()> {
        if self.behavior.tls == Tls::Wrapper {
            let stream = tls_acceptor().accept(stream).await.ok()?;
            self.serve_commands(stream, true, true).await?;
            return Some(());
        }
        let plain = self.serve_commands(stream, true, false).await?;
        let encrypted = tls_acceptor().accept(plain).await.ok()?;
        self.serve_commands(encrypted, false, true).await?;
        Some(())
    }

    /// Serves a client until it disconnects. Returns the stream if the client has sent STARTTLS.
    async fn serve_commands<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        greets: bool,
        is_encrypted: bool,
    ) -> Option<S> {
        let mut stream = BufReader::new(stream);
        let mut mail = Mail::default();
        if greets {
            write_line(&mut stream, self.scripted_reply("").unwrap_or("220 test")).await?;
        }
        loop {
            let line = read_line(&mut stream).await?;
            let prefix = if is_encrypted { "TLS " } else { "" };
            self.state.lock().unwrap().commands.push(format!("{prefix}{line}"));
            let command = line.split([' ', ':']).next()?.to_uppercase();
            let reply = match (self.scripted_reply(&command), command.as_str()) {
                (Some(reply), _) => reply.to_owned(),
                (None, "EHLO") => self.extensions(is_encrypted),
                (None, "STARTTLS") => {
                    write_line(&mut stream, "220 go on").await?;
                    return Some(stream.into_inner());
                }
                (None, "AUTH") => "235 welcome".into(),
                (None, "MAIL") if self.take_refusal() => "451 not now".into(),
                (None, "MAIL") => {
                    mail = Mail { from: parse_address(&line), ..Mail::default() };
                    "250 ok".into()
                }
                (None, "RCPT") => {
                    mail.to.push(parse_address(&line));
                    "250 ok".into()
                }
                (None, "DATA") => {
                    write_line(&mut stream, "354 go on").await?;
                    loop {
                        match read_line(&mut stream).await? {
                            end if end == "." => break,
                            text => mail.text.extend([text.as_str(), "\n"]),
                        }
                    }
                    match self.scripted_reply(".") {
                        Some(reply) => reply.to_owned(),
                        None => {
                            self.state.lock().unwrap().mails.push(std::mem::take(&mut mail));
                            "250 kept".into()
                        }
                    }
                }
                (None, "QUIT") => "221 bye".into(),
                _ => "250 ok".into(),
            };
            write_line(&mut stream, &reply).await?;
        }
    }

    fn scripted_reply(&self, command: &str) -> Option<&'static str> {
        self.behavior.replies.iter().find(|(name, _)| *name == command).map(|(_, reply)| *reply)
    }

    fn take_refusal(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let is_refused = state.refusals > 0;
        state.refusals = state.refusals.saturating_sub(1);
        is_refused
    }

    fn extensions(&self, is_encrypted: bool) -> String {
        let mut lines = vec!["test"];
        lines.extend(&self.behavior.extensions);
        if self.behavior.tls == Tls::Upgrade && !is_encrypted {
            lines.push("STARTTLS");
        }
        let (last, others) = lines.split_last().unwrap();
        let others: String = others.iter().map(|line| format!("250-{line}\r\n")).collect();
        format!("{others}250 {last}")
    }
}

fn tls_acceptor() -> TlsAcceptor {
    let pem = include_bytes!("localhost.pem");
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn read_line<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(1..) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        _ => None,
    }
}

async fn write_line<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, reply: &str) -> Option<()> {
    stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    // A TLS stream may buffer the written bytes.
    stream.flush().await.ok()
}

fn parse_address(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}
