//! Replies of SMTP servers: final refusals and refusals that are retried. Also the format of addresses in SMTP
//! commands.

use clap::Parser;
use saas::{
    config::Config,
    error::chain,
    jobs::SYSTEM_QUEUE,
    mail::{Mail, Mailer, SendError},
    queue::State,
};
use serde_json::json;

use crate::support::{
    TestApp,
    app::PASSWORD,
    smtp::{Behavior, SmtpServer},
};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

/// Creates a mailer with settings from flags.
pub fn create_mailer(flags: &[&str]) -> Mailer {
    Mailer::new(&Settings::parse_from([&["test"], flags].concat()).config).unwrap()
}

/// Sends a mail with `url` as `SMTP_URL`.
pub async fn send(url: &str, to: &str) -> Result<(), SendError> {
    let mail = Mail { id: "id", to, subject: "Hi", text: "Hello", html: None };
    create_mailer(&[&format!("--smtp-url={url}")]).send(&mail).await.map(drop)
}

#[tokio::test]
async fn only_permanent_refusals_of_the_mail_itself_are_final() {
    for (command, reply, is_final) in [
        ("MAIL", "550 5.7.1 Sender refused", true),
        ("MAIL", "552 5.3.4 Too large", true),
        ("MAIL", "501 Syntax error", true),
        ("MAIL", "451 4.3.0 Later", false),
        ("MAIL", "421 4.3.2 Shutting down", false),
        ("RCPT", "550 5.1.1 No such user", true),
        ("RCPT", "553 5.1.3 Bad address", true),
        ("RCPT", "554-5.7.1 Two\r\n554 5.7.1 lines", true),
        ("RCPT", "552 5.2.2 Mailbox full", false),
        ("RCPT", "452 4.5.3 Too many recipients", false),
        ("RCPT", "450 4.2.1 Greylisted", false),
        ("DATA", "554 5.5.1 No valid recipients", true),
        ("DATA", "451 4.3.0 Later", false),
        (".", "554 5.7.1 Spam", true),
        (".", "552 5.3.4 Too large", true),
        (".", "451 4.7.1 Later", false),
        (".", "421 4.3.2 Shutting down", false),
        // The settings or the server are wrong, not the mail.
        ("MAIL", "530 5.7.0 Must issue a STARTTLS command first", false),
        ("RCPT", "530 5.7.1 Authentication required", false),
        ("", "554 5.3.2 Not accepting mails", false),
        ("EHLO", "550 5.7.1 Unknown client", false),
    ] {
        let smtp = SmtpServer::replying(command, reply).await;
        let error = send(&smtp.url, "bob@example.com").await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.is_permanent(), is_final, "{command} {reply}: {text}");
        let code = reply.split([' ', '-']).next().unwrap();
        assert!(text.contains(code), "{command} {reply}: {text}");
        assert!(smtp.mails().is_empty());
    }
    let unreachable = send("smtp://127.0.0.1:1", "bob@example.com").await.unwrap_err();
    assert!(!unreachable.is_permanent(), "{unreachable:?}");
}

#[tokio::test]
async fn an_error_about_a_refusal_has_the_codes_and_not_the_text_of_the_reply() {
    let smtp = SmtpServer::replying(".", "554 5.7.1 Spam: https://app.example.com#token=secret").await;
    let refused = send(&smtp.url, "bob@example.com").await.unwrap_err();
    let text = chain(&refused);
    assert!(text.contains("554 5.7.1") && !text.contains("token") && !text.contains("Hello"), "{text}");

    let smtp = SmtpServer::with(Behavior {
        extensions: vec!["AUTH PLAIN"],
        replies: vec![("AUTH", "535 5.7.8 Refused: AHVzZXIAaHVudGVyMg==")],
        ..Behavior::default()
    })
    .await;
    let refused = send(&smtp.url_with_password(), "bob@example.com").await.unwrap_err();
    let text = chain(&refused);
    assert!(!refused.is_permanent() && text.contains("535 5.7.8") && text.contains("SMTP_URL"), "{text}");
    assert!(!text.contains("AHVz") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn an_error_about_a_malformed_reply_has_no_text_of_the_reply() {
    for reply in ["what is AHVzZXIAaHVudGVyMg==?", "250-hunter2\r\n251 hunter2", "999 hunter2"] {
        for command in ["AUTH", "."] {
            let replies = vec![(command, reply)];
            let behavior = Behavior { extensions: vec!["AUTH PLAIN"], replies, ..Behavior::default() };
            let smtp = SmtpServer::with(behavior).await;
            let error = send(&smtp.url_with_password(), "bob@example.com").await.unwrap_err();
            let text = chain(&error);
            assert!(!error.is_permanent() && text.contains("malformed"), "{command} {reply}: {text}");
            assert!(!text.contains("AHVz") && !text.contains("hunter2"), "{command} {reply}: {text}");
        }
    }
}

#[tokio::test]
async fn smoke_a_refused_mail_fails_at_once_and_a_delayed_one_is_retried() {
    for (reply, state) in [
        ("550 5.1.1 No such user", State::Failed),
        ("552 5.2.2 Mailbox full", State::Scheduled),
        ("450 4.2.0 Later", State::Scheduled),
    ] {
        let smtp = SmtpServer::replying("RCPT", reply).await;
        let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
        let admin = app.admin().await;
        let body = json!({ "email": "ada@example.com", "password": PASSWORD });
        assert_eq!(app.post("/auth/register", None, body).await.status, 201);
        let id = app.enqueue("/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello", &admin).await;
        app.relay().await;
        app.run_jobs().await;
        let commands = smtp.commands();
        let attempts = commands.iter().filter(|command| command.starts_with("RCPT")).count();
        assert_eq!(attempts, 2, "one for each mail: {commands:?}");
        let listed = app.app.queue.list(SYSTEM_QUEUE, state, 0, 10).await.unwrap();
        let listed: Vec<_> = listed.iter().filter(|job| job.task == "send_email_message").collect();
        assert_eq!(listed.len(), 1, "{reply}");
        let detail = listed[0].error_detail.as_deref().unwrap();
        assert!(detail.contains(reply), "{detail}");
        assert_eq!(app.status(&id, &admin).await["status"], state.as_str(), "{reply}");
    }
}

#[tokio::test]
async fn domains_are_sent_in_ascii() {
    let smtp = SmtpServer::start().await;
    let mailer =
        create_mailer(&[&format!("--smtp-url={}", smtp.url), "--mail-from=Shop <hello@straße.example>"]);
    for (to, outgoing) in [
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@例え.テスト", "ada@xn--r8jz45g.xn--zckzah"),
        ("Ada+x@xn--bcher-kva.example", "Ada+x@xn--bcher-kva.example"),
    ] {
        mailer.send(&Mail { id: "id", to, subject: "Hi", text: "Hello", html: None }).await.unwrap();
        let mail = smtp.mails().pop().unwrap();
        assert_eq!((&*mail.from, &mail.to[..]), ("hello@xn--strae-oqa.example", &[outgoing.to_owned()][..]));
        assert!(mail.text.contains(&format!("To: {outgoing}\n")) && mail.text.is_ascii(), "{}", mail.text);
        assert!(mail.text.contains("Message-ID: <id@xn--strae-oqa.example>"), "{}", mail.text);
    }
    assert!(smtp.commands().iter().all(|command| !command.contains("SMTPUTF8")));
}

#[tokio::test]
async fn non_ascii_local_parts_require_smtputf8() {
    let to = "jürgen@bücher.example";
    let plain = SmtpServer::start().await;
    let error = send(&plain.url, to).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("SMTPUTF8"), "{error}");
    assert!(plain.commands().iter().all(|command| !command.starts_with("MAIL")), "{:?}", plain.commands());

    let extensions = vec!["8BITMIME", "SMTPUTF8"];
    let modern = SmtpServer::with(Behavior { extensions, ..Behavior::default() }).await;
    send(&modern.url, to).await.unwrap();
    let commands = modern.commands();
    let begins = |command: &str, with: &str| command.starts_with("MAIL") && command.contains(with);
    assert!(commands.iter().any(|command| begins(command, " SMTPUTF8")), "{commands:?}");
    assert_eq!(modern.mails()[0].to, ["jürgen@xn--bcher-kva.example"]);
}
