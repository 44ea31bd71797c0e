//! The pages below `/dev/mail`, which show captured mails.

use std::path::PathBuf;

use reqwest::{Method, StatusCode};
use saas::mail::Mail;

use crate::support::{TestApp, app::Answer};

const LINK: &str = "https://app.example.com/verify-email#token=abc";

/// An application in development mode. Its captured mails are removed when this value is dropped.
struct DevApp {
    app: TestApp,
}

impl Drop for DevApp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.mail_dir());
    }
}

impl DevApp {
    async fn start() -> Self {
        Self { app: TestApp::dev().await }
    }

    fn mail_dir(&self) -> PathBuf {
        self.app.app.config.mail.mail_dir.clone()
    }

    async fn capture(&self, id: &str, subject: &str, text: &str, html: Option<&str>) {
        let mail = Mail { id, to: "bob@example.com", subject, text, html };
        self.app.app.mailer.send(&mail).await.unwrap();
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.app.at_root(Method::GET, path)).await
    }
}

#[tokio::test]
async fn smoke_captured_mails_are_listed_newest_first() {
    let dev = DevApp::start().await;
    let none = dev.get("/dev/mail").await;
    assert_eq!(none.status, StatusCode::OK, "{}", none.text);
    assert!(none.text.contains("No mail has been captured yet"), "{}", none.text);

    dev.capture("mail-1", "Grüße <b>", "Hello", None).await;
    dev.capture("mail-2", "Second", "Hello", None).await;
    std::fs::write(dev.mail_dir().join("notes.txt"), "Third").unwrap();
    std::fs::write(dev.mail_dir().join("not an id.eml"), "Subject: Fourth\r\n\r\n").unwrap();
    let list = dev.get("/dev/mail").await;
    assert_eq!((list.status, list.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    let first = list.text.find("<a href=\"/dev/mail/mail-1\">Grüße &#60;b&#62;</a>");
    let second = list.text.find("<a href=\"/dev/mail/mail-2\">Second</a>");
    assert!(second.is_some() && second < first, "{}", list.text);
    assert_eq!(list.text.matches("bob@example.com").count(), 2, "{}", list.text);
    assert!(!list.text.contains("Third") && !list.text.contains("Fourth"), "{}", list.text);
}

#[tokio::test]
async fn the_text_and_the_html_of_a_mail_are_shown_and_no_script_runs() {
    let dev = DevApp::start().await;
    let html = "<h1 title=\"Hi\">Hi & bye</h1><script>alert(1)</script>";
    dev.capture("mail-1", "Both", &format!("Open {LINK}.\n<i>Bye</i>"), Some(html)).await;
    let page = dev.get("/dev/mail/mail-1").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("script-src"), "{policy}");

    // The mail is escaped, so it cannot end the attribute `srcdoc`, which contains it.
    let escaped =
        "&#60;base target=&#34;_blank&#34;&#62;&#60;h1 title=&#34;Hi&#34;&#62;Hi &#38; bye&#60;/h1&#62;";
    assert!(page.text.contains(&format!("srcdoc=\"{escaped}")), "{}", page.text);
    assert!(!page.text.contains("<script") && !page.text.contains("<i>"), "{}", page.text);
    let frame = page.text.split("<iframe").nth(1).and_then(|rest| rest.split('>').next()).unwrap();
    assert!(frame.contains("sandbox=\"allow-popups") && !frame.contains("allow-scripts"), "{frame}");
    assert!(!frame.contains("allow-same-origin"), "{frame}");

    assert!(page.text.contains(&format!("<a href=\"{LINK}\" target=\"_blank\"")), "{}", page.text);
    for value in ["saas &#60;noreply@example.com&#62;", "bob@example.com", "mail-1@example.com"] {
        assert!(page.text.contains(&format!("<dd>{value}</dd>")), "{value}: {}", page.text);
    }
}

#[tokio::test]
async fn a_plain_text_mail_has_no_frame() {
    let dev = DevApp::start().await;
    dev.capture("mail-1", "Text", "Hello", None).await;
    let page = dev.get("/dev/mail/mail-1").await;
    assert!(page.text.contains("Hello") && !page.text.contains("<iframe"), "{}", page.text);
}

#[tokio::test]
async fn dev_mail_serves_only_captured_mails() {
    let dev = DevApp::start().await;
    dev.capture("mail-1", "Hi", "Hello", None).await;
    // A file outside of the directory of mails. A path traversal would read it.
    let outside = dev.mail_dir().with_extension("eml");
    std::fs::write(&outside, "Subject: Secret\r\n\r\nSecret").unwrap();
    let name = outside.file_stem().unwrap().to_str().unwrap();
    for id in ["mail-2", "mail-1.eml", "..", &format!("..%2F{name}"), &format!("%2e%2e%2f{name}"), "a%00b"] {
        let answer = dev.get(&format!("/dev/mail/{id}")).await;
        // For `..`, the HTTP client resolves the path and requests `/dev/`. This page does not exist.
        answer.is_problem(404, "not_found", "Not Found");
    }
    std::fs::remove_file(outside).unwrap();
}

#[tokio::test]
async fn captured_mails_are_not_served_for_other_hosts() {
    let dev = DevApp::start().await;
    dev.capture("mail-1", "Hi", "Hello", None).await;
    for (host, status) in [
        ("localhost:8000", 200),
        ("app.localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("203.0.113.9", 421),
    ] {
        for path in ["/dev/mail", "/dev/mail/mail-1"] {
            let answer = Answer::of(dev.app.at_root(Method::GET, path).header("host", host)).await;
            assert_eq!(answer.status.as_u16(), status, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn captured_mails_are_not_served_through_a_proxy() {
    let dev = DevApp::start().await;
    for name in ["x-forwarded-for", "x-forwarded-host", "forwarded", "via", "x-real-ip"] {
        let request = dev.app.at_root(Method::GET, "/dev/mail").header(name, "203.0.113.9");
        Answer::of(request).await.is_problem(404, "not_found", "Not Found");
    }
}

#[tokio::test]
async fn production_does_not_serve_captured_mails() {
    let app = TestApp::start().await;
    for path in ["/dev/mail", "/dev/mail/mail-1"] {
        Answer::of(app.at_root(Method::GET, path)).await.is_problem(404, "not_found", "Not Found");
    }
}
