//! An SMTP server that stores the mails it receives (RFC 5321, as far as a client needs it).

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

#[derive(Debug, Clone, Default)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

pub struct SmtpServer {
    pub url: String,
    mails: Arc<Mutex<Vec<Mail>>>,
    refusals: Arc<Mutex<u32>>,
}

impl SmtpServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let (mails, refusals) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (kept, refusing) = (mails.clone(), refusals.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, kept.clone(), refusing.clone()));
            }
        });
        Self { url, mails, refusals }
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    /// Refuses this number of mails with a temporary error.
    pub fn refuse(&self, mails: u32) {
        *self.refusals.lock().unwrap() = mails;
    }
}

async fn converse(stream: TcpStream, mails: Arc<Mutex<Vec<Mail>>>, refusals: Arc<Mutex<u32>>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut mail = Mail::default();
    write.write_all(b"220 test\r\n").await.ok()?;
    loop {
        let line = lines.next_line().await.ok()??;
        let answer = match line.split([' ', ':']).next()?.to_uppercase().as_str() {
            "EHLO" | "HELO" => "250 test",
            "MAIL" => {
                let mut left = refusals.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    "451 not now"
                } else {
                    mail = Mail { from: address(&line), ..Mail::default() };
                    "250 ok"
                }
            }
            "RCPT" => {
                mail.to.push(address(&line));
                "250 ok"
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await.ok()?;
                loop {
                    match lines.next_line().await.ok()?? {
                        end if end == "." => break,
                        text => mail.text.extend([text.as_str(), "\n"]),
                    }
                }
                mails.lock().unwrap().push(std::mem::take(&mut mail));
                "250 kept"
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    }
}

fn address(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}
