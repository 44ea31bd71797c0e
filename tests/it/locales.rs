//! The search for users and the comparison of addresses do not depend on the locale of the database.

use std::sync::Arc;

use reqwest::Method;
use saas::db::migrations;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    servers::TestDatabase,
};

/// Locales with different rules for case. C converts only ASCII letters. In Turkish, the lower case of I is not i.
const LOCALES: [&str; 2] = ["LOCALE 'C'", "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'"];

/// The number and the name of a user, and searches that find only this user.
const NAMES: [(u32, &str, &[&str]); 8] = [
    (1, "Élodie Dupont", &["Élodie", "élodie", "ÉLODIE", "E\u{301}LODIE", "É", "é"]),
    (2, "ISABEL", &["ISABEL", "isabel", "Isabel", "SAB"]),
    (3, "Łukasz Żak", &["Łukasz", "łukasz", "ŁUKASZ żak", "ł", "Z\u{307}ak"]),
    (4, "ΟΔΟΣΑ Σίσυφος", &["οδοσ", "ΟΔΟΣ", "οδος", "ΣΊΣΥΦΟΣ"]),
    (5, "Zoe\u{308} Weiß", &["Zoë", "zoe\u{308}", "ZOË", "WEISS", "weiß", "WEIẞ"]),
    (6, "İpek Yıldız", &["İPEK", "ipek", "İpek", "YILDIZ", "yıldız"]),
    (7, "山田 太郎", &["山田", "太郎", "山"]),
    (8, "100％ \\ A_b", &["100%", "100％", "\\", "a_B"]),
];

async fn find_emails(app: &TestApp, admin: &User, search: &str) -> Vec<String> {
    let request = app.request(Method::GET, "/users").bearer_auth(&admin.token);
    let answer = Answer::of(request.query(&[("search", search)])).await;
    let items = answer.body["items"].as_array().unwrap_or_else(|| panic!("{search}: {}", answer.text));
    items.iter().map(|user: &Value| user["email"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn searches_and_logins_ignore_case_in_different_locales() {
    for locale in LOCALES {
        let database = TestDatabase::create(&format!("TEMPLATE template0 ENCODING 'UTF8' {locale}")).await;
        migrations::up(&database.settings()).await.unwrap();
        let app = TestApp::on(Arc::new(database), &[]).await;
        let admin = app.admin().await;
        for (number, name, _) in NAMES {
            let email = format!("P{number}-ISTI@Example.com");
            let new = json!({ "email": email, "password": PASSWORD, "full_name": name });
            let made = app.post("/auth/register", None, new.clone()).await;
            assert_eq!((made.status.as_u16(), &made.body["full_name"]), (201, &json!(name)), "{locale}");
            assert_eq!(app.login(&email, PASSWORD).await.status, 200, "{locale}: {email}");
            app.post("/auth/register", None, new).await.is_some_problem(400, "email_taken");
        }
        for (number, _, searches) in NAMES {
            let email = format!("p{number}-isti@example.com");
            for search in searches.iter().copied().chain([&*email, &*email.to_uppercase()]) {
                assert_eq!(find_emails(&app, &admin, search).await, [&*email], "{locale}: {search}");
            }
        }
    }
}
