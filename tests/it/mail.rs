//! Sending mails over SMTP, and writing them to files instead.

use std::{os::unix::fs::PermissionsExt, path::Path};

use mail_parser::MessageParser;
use saas::mail::{Mail, Sent};

use crate::support::{TestApp, smtp::SmtpServer};

fn plain_mail<'a>(id: &'a str, to: &'a str, subject: &'a str, text: &'a str) -> Mail<'a> {
    Mail { id, to, subject, text, html: None }
}

#[tokio::test]
async fn smoke_a_mail_reaches_the_smtp_server() {
    let smtp = SmtpServer::start().await;
    let app =
        TestApp::with(&[&format!("--smtp-url={}", smtp.url), "--mail-from=Product <hello@example.org>"])
            .await;
    let sent = app
        .app
        .mailer
        .send(&plain_mail("id-1", "bob@example.com", "Grüße an alle", "Schöne Grüße\n.\nEnde"))
        .await
        .unwrap();
    assert_eq!(sent, Sent::Accepted);
    let mails = smtp.mails();
    let mail = &mails[0];
    assert_eq!(
        (mails.len(), mail.from.as_str(), &mail.to[..]),
        (1, "hello@example.org", &["bob@example.com".to_owned()][..])
    );
    assert!(mail.text.contains("From: Product <hello@example.org>"), "{}", mail.text);
    assert!(mail.text.contains("Message-ID: <id-1@example.org>"));
    assert!(mail.text.contains("Subject: =?utf-8?b?"), "{}", mail.text);
}

#[tokio::test]
async fn a_mail_with_html_also_has_a_plain_text_version() {
    let smtp = SmtpServer::start().await;
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    let (text, html) = ("Schöne Grüße\nBob", "<!doctype html>\n<p class=\"big\">Schöne Grüße</p>");
    let mail = Mail { html: Some(html), ..plain_mail("id-2", "bob@example.com", "Grüße", text) };
    assert_eq!(app.app.mailer.send(&mail).await.unwrap(), Sent::Accepted);
    let sent = &smtp.mails()[0].text;
    assert!(sent.contains("Content-Type: multipart/alternative;"), "{sent}");
    let message = MessageParser::default().parse(sent).unwrap();
    assert_eq!((message.subject(), message.text_body_count()), (Some("Grüße"), 1));
    assert!(message.html_part(0).unwrap().is_text_html());
    let same = |ours: &str, theirs: &str| assert_eq!(ours, theirs.replace("\r\n", "\n").trim_end());
    same(text, &message.body_text(0).unwrap());
    same(html, &message.body_html(0).unwrap());
    // Mail readers prefer the last version (RFC 2046 section 5.1.4).
    assert!(sent.find("text/plain") < sent.find("text/html"));
}

#[tokio::test]
async fn a_captured_mail_is_one_complete_file() {
    let app = TestApp::start().await;
    for text in ["Hello", "Hello again"] {
        let sent = app.app.mailer.send(&plain_mail("id-3", "bob@example.com", "Hi", text)).await.unwrap();
        assert_eq!(sent, Sent::Captured);
    }
    let dir = &app.app.config.mail.mail_dir;
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["id-3.eml"]);
    assert!(std::fs::read_to_string(dir.join("id-3.eml")).unwrap().trim_end().ends_with("Hello again"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_temporarily_refused_mail_can_be_sent_again() {
    let smtp = SmtpServer::start().await;
    smtp.refuse(1);
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    let mail = plain_mail("id-4", "bob@example.com", "Hi", "Hello");
    let send = || app.app.mailer.send(&mail);
    let error = send().await.unwrap_err();
    assert_eq!(error.to_string(), "Mail server is unavailable");
    assert_eq!(send().await.unwrap(), Sent::Accepted);
}

#[tokio::test]
async fn mail_headers_cannot_be_injected() {
    let smtp = SmtpServer::start().await;
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    let send = async |mail: Mail<'_>| app.app.mailer.send(&mail).await;
    send(plain_mail("id-5", "bob@example.com", "Hi\r\nBcc: eve@example.com", "Hello")).await.unwrap();
    let mail = &smtp.mails()[0];
    assert!(!mail.text.lines().any(|line| line.starts_with("Bcc")), "{}", mail.text);
    assert_eq!(mail.to, ["bob@example.com"]);
    assert!(
        send(plain_mail("id-6", "bob@example.com\r\nRCPT TO:<eve@example.com>", "Hi", "")).await.is_err()
    );
}

fn file_mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_user_of_the_process_can_read_captured_mails() {
    let app = TestApp::start().await;
    let dir = &app.app.config.mail.mail_dir;
    app.app.mailer.send(&plain_mail("id-7", "bob@example.com", "Hi", "Hello")).await.unwrap();
    assert_eq!((file_mode(dir), file_mode(&dir.join("id-7.eml"))), (0o700, 0o600));

    // An existing directory keeps its mode. New mails in it are still private.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    app.app.mailer.send(&plain_mail("id-8", "bob@example.com", "Hi", "Hello")).await.unwrap();
    assert_eq!(file_mode(&dir.join("id-8.eml")), 0o600);
}

#[tokio::test]
async fn every_line_of_a_mail_ends_in_crlf() {
    let app = TestApp::start().await;
    let file = app.app.config.mail.mail_dir.join("id-9.eml");
    let long = "long line\r".repeat(200);
    for text in ["a\r.\rb", "\r", "a\rb\nc\r\nd\r\r\ne\n\r.\r\n", &*long] {
        for html in [None, Some(text)] {
            let mail =
                Mail { html, ..plain_mail("id-9", "bob@example.com", "Hi\r.\rBcc: eve@example.com", text) };
            app.app.mailer.send(&mail).await.unwrap();
            let sent = std::fs::read_to_string(&file).unwrap();
            let rest = sent.replace("\r\n", "");
            assert!(!rest.contains(['\r', '\n']), "{text:?}: {sent:?}");
            assert!(!sent.contains("=0D"), "a bare CR is not hidden by an encoding: {sent:?}");
        }
    }
}
