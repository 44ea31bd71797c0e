//! The logs of the API and the worker contain no secrets, also at the level `debug`.

use std::{collections::BTreeSet, process::Command, sync::Mutex};

use mail_parser::MessageParser;

use crate::support::{
    account_scenario::{AccountScenario, assert_none_in},
    app::SECRET,
    eventually,
    process::{Running, production_command},
    servers::{TestDatabase, unique},
    smtp::{Mail, SmtpServer},
};

const ADMIN: (&str, &str) = ("admin@example.com", "a password of ours");
const TWO_FACTOR_KEY: &str = "c2f7a90b5e1d48637f20b9a4d6e8135c0a7b9d2e4f6081c3";

/// Returns the texts of the mails to an address.
fn read_mails(smtp: &SmtpServer, to: &str) -> Vec<String> {
    let own = smtp.mails().into_iter().filter(|mail| mail.to == [to]);
    let read = |mail: Mail| {
        let message = MessageParser::default().parse(&mail.text).unwrap();
        message.body_text(0).unwrap().into_owned()
    };
    own.map(read).collect()
}

/// Waits for a mail with a link whose token is not in `seen`. Returns the token, and adds it to `seen`.
async fn wait_for_next_token(smtp: &SmtpServer, seen: &Mutex<BTreeSet<String>>, to: &str) -> String {
    eventually("a mail with a link arrives", || async {
        let token = |text: String| {
            let (_, after) = text.split_once("#token=")?;
            Some(after.chars().take_while(char::is_ascii_alphanumeric).collect::<String>())
        };
        let mut seen = seen.lock().unwrap();
        read_mails(smtp, to).into_iter().filter_map(token).find(|token| seen.insert(token.clone()))
    })
    .await
}

#[tokio::test]
async fn the_api_and_the_worker_log_no_secret() {
    let (database, smtp) = (TestDatabase::migrated().await, SmtpServer::start().await);
    let prefix = format!("s{}", unique());
    let with_debug_log = |mut command: Command| {
        command.env("LOG_LEVEL", "debug").env("SMTP_URL", &smtp.url).env("TWO_FACTOR_KEY", TWO_FACTOR_KEY);
        Running::start(command)
    };
    let mut server = with_debug_log(production_command(&["serve", "--port", "0"], &database, &prefix).await);
    let mut worker = with_debug_log(production_command(&["worker"], &database, &prefix).await);
    let rest = server.wait_for_output("\"address\":\"").await;
    let url = format!("http://{}", rest.split('"').next().unwrap());

    let seen = Mutex::new(BTreeSet::new());
    let mut secrets =
        AccountScenario::run(&url, ADMIN, async |to: &str| wait_for_next_token(&smtp, &seen, to).await).await;
    secrets.extend([SECRET.to_owned(), TWO_FACTOR_KEY.to_owned(), database.url.clone()]);
    eventually("the last mail is sent", || async {
        let last = read_mails(&smtp, "lovelace@example.com");
        last.iter().any(|text| text.contains("will be deleted")).then_some(())
    })
    .await;
    for (process, last) in [(&mut server, "\"stopped\""), (&mut worker, "\"worker stopped\"")] {
        process.signal("TERM");
        process.wait_for_output(last).await;
        assert_eq!(process.end().await.code(), Some(0));
    }

    let (served, worked) = (server.output(), worker.output());
    assert!(served.matches("\"message\":\"request\"").count() >= 30, "{served}");
    assert!(served.contains("login refused") && served.contains("/auth/reset-password"), "{served}");
    assert!(worked.matches("\"task\":\"send_email_message\"").count() > 8, "{worked}");
    assert!(secrets.contains(ADMIN.1) && secrets.len() > 40);
    assert_none_in(&secrets, "serve", &served);
    assert_none_in(&secrets, "worker", &worked);
}
