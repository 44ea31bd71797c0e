use saas::mail::Sent;

use crate::support::{TestApp, smtp::SmtpServer};

#[tokio::test]
async fn smoke_a_mail_reaches_the_smtp_server() {
    let smtp = SmtpServer::start().await;
    let app =
        TestApp::with(&[&format!("--smtp-url={}", smtp.url), "--mail-from=Product <hello@example.org>"])
            .await;
    let sent = app
        .app
        .mailer
        .send("id-1", "bob@example.com", "Grüße an alle", "Schöne Grüße\n.\nEnde")
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
async fn a_mail_that_is_refused_for_the_moment_is_sent_later() {
    let smtp = SmtpServer::start().await;
    smtp.refuse(1);
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    let send = || app.app.mailer.send("id-2", "bob@example.com", "Hi", "Hello");
    let error = send().await.unwrap_err();
    assert_eq!(error.to_string(), "Mail server is unavailable");
    assert_eq!(send().await.unwrap(), Sent::Accepted);
}

#[tokio::test]
async fn a_header_cannot_be_smuggled_in() {
    let smtp = SmtpServer::start().await;
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    app.app.mailer.send("id-3", "bob@example.com", "Hi\r\nBcc: eve@example.com", "Hello").await.unwrap();
    let mail = &smtp.mails()[0];
    assert!(!mail.text.lines().any(|line| line.starts_with("Bcc")), "{}", mail.text);
    assert_eq!(mail.to, ["bob@example.com"]);
    assert!(
        app.app.mailer.send("id-4", "bob@example.com\r\nRCPT TO:<eve@example.com>", "Hi", "").await.is_err()
    );
}
