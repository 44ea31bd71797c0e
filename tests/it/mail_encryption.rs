//! Encryption of the connection to an SMTP server: when it is used, and when mails and passwords are sent unencrypted.

use saas::error::chain;
use serde_json::json;

use crate::{
    mail_delivery::send,
    support::{
        TestApp,
        app::PASSWORD,
        process::{production_command, run},
        smtp::{Behavior, CERTIFICATE_FILE, SmtpServer, Tls},
    },
};

const RECIPIENT: &str = "bob@example.com";

fn offer(extensions: &[&'static str], tls: Tls) -> Behavior {
    Behavior { extensions: [extensions, &["AUTH PLAIN LOGIN"]].concat(), tls, replies: Vec::new() }
}

/// Returns the first word of each SMTP command. Commands that were encrypted have the prefix `TLS `.
fn command_verbs(smtp: &SmtpServer) -> Vec<String> {
    let verb = |line: &String| {
        let (prefix, rest) = line.strip_prefix("TLS ").map_or(("", line.as_str()), |rest| ("TLS ", rest));
        format!("{prefix}{}", rest.split([' ', ':']).next().unwrap())
    };
    smtp.commands().iter().map(verb).collect()
}

fn has_received_login_or_mail(smtp: &SmtpServer) -> bool {
    smtp.commands().iter().any(|line| line.contains("AUTH") || line.contains("MAIL"))
}

#[tokio::test]
async fn smoke_starttls_is_used_if_it_is_offered() {
    let smtp = SmtpServer::with(offer(&[], Tls::Upgrade)).await;
    send(&smtp.url_with_password(), RECIPIENT).await.unwrap();
    let wanted = ["EHLO", "STARTTLS", "TLS EHLO", "TLS AUTH", "TLS MAIL", "TLS RCPT", "TLS DATA"];
    assert_eq!(command_verbs(&smtp), wanted);
    assert_eq!(smtp.mails().len(), 1);

    let smtp = SmtpServer::with(offer(&[], Tls::Upgrade)).await;
    send(&smtp.url, RECIPIENT).await.unwrap();
    assert!(command_verbs(&smtp).contains(&"TLS MAIL".to_owned()), "{:?}", smtp.commands());
}

#[tokio::test]
async fn nothing_is_sent_unencrypted_if_starttls_is_offered_and_fails() {
    for reply in ["454 4.7.0 Not now", "500 5.5.1 Unknown command", "220 Go on, but this is not TLS"] {
        let behavior = Behavior { replies: vec![("STARTTLS", reply)], ..offer(&["STARTTLS"], Tls::Off) };
        let smtp = SmtpServer::with(behavior).await;
        for url in [smtp.url_with_password(), smtp.url.clone()] {
            let error = send(&url, RECIPIENT).await.unwrap_err();
            assert!(
                !error.is_permanent() && chain(&error).contains("STARTTLS"),
                "{reply}: {}",
                chain(&error)
            );
        }
        assert!(!has_received_login_or_mail(&smtp), "{reply}: {:?}", smtp.commands());
    }
}

#[tokio::test]
async fn required_encryption_needs_starttls_and_a_valid_certificate() {
    for (tls, problem) in [(Tls::Off, "does not offer STARTTLS"), (Tls::Upgrade, "certificate")] {
        let smtp = SmtpServer::with(offer(&[], tls)).await;
        let error = send(&format!("{}?tls=required", smtp.url_with_password()), RECIPIENT).await.unwrap_err();
        assert!(!error.is_permanent() && chain(&error).contains(problem), "{}", chain(&error));
        assert!(!has_received_login_or_mail(&smtp), "{:?}", smtp.commands());
    }
    let smtp = SmtpServer::with(offer(&[], Tls::Wrapper)).await;
    let error = send(&smtp.url_with_password(), RECIPIENT).await.unwrap_err();
    assert!(!error.is_permanent() && chain(&error).contains("certificate"), "{}", chain(&error));
    assert!(smtp.commands().is_empty());
}

#[tokio::test]
async fn smtp_encryption_can_be_turned_off() {
    let smtp = SmtpServer::with(offer(&[], Tls::Upgrade)).await;
    send(&format!("{}?tls=none", smtp.url_with_password()), RECIPIENT).await.unwrap();
    assert_eq!(command_verbs(&smtp), ["EHLO", "AUTH", "MAIL", "RCPT", "DATA"]);
}

#[tokio::test]
async fn a_worker_sends_to_a_server_whose_certificate_the_system_trusts() {
    for (tls, parameter) in [(Tls::Wrapper, ""), (Tls::Upgrade, "?tls=required")] {
        let smtp = SmtpServer::with(offer(&[], tls)).await;
        let app = TestApp::with(&["--debug=false"]).await;
        let body = json!({ "email": "ada@example.com", "password": PASSWORD });
        assert_eq!(app.post("/auth/register", None, body).await.status, 201);
        let url = smtp.url_with_password().replace("127.0.0.1", "localhost");
        let mut worker = production_command(&["worker", "--burst"], &app.database, &app.prefix).await;
        worker.env("SMTP_URL", format!("{url}{parameter}")).env("SSL_CERT_FILE", CERTIFICATE_FILE);
        run(worker).await.succeeded();
        assert_eq!(smtp.mails()[0].to, ["ada@example.com"]);
        assert!(command_verbs(&smtp).contains(&"TLS AUTH".to_owned()), "{:?}", smtp.commands());
    }
}
