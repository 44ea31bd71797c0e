//! The API document.

use std::{collections::BTreeSet, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp,
    app::Answer,
    process::{run, saas},
};

/// Returns the API document that a server serves.
pub async fn fetch_document() -> Value {
    let app = TestApp::start().await;
    let answer = Answer::of(app.at_root(Method::GET, "/openapi.json")).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    answer.body
}

/// Returns the path, the method and the definition of each operation.
pub fn list_operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (path.clone(), method.clone(), operation))
    });
    each.collect()
}

/// Resolves a `$ref` of the document. Returns any other node unchanged.
pub fn resolve_ref<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    let reference = node["$ref"].as_str();
    reference
        .map_or(node, |text| document.pointer(&text[1..]).unwrap_or_else(|| panic!("{text} is not there")))
}

/// A snapshot makes every change of the API document visible in review.
#[tokio::test]
async fn the_document_matches_the_snapshot() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openapi.json");
    let now = format!("{}\n", serde_json::to_string_pretty(&fetch_document().await).unwrap());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, now).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(
        kept == now,
        "the API document has changed: if this is intended, run BLESS=1 ./scripts/test openapi"
    );
}

#[tokio::test]
async fn smoke_every_operation_is_described() {
    let document = fetch_document().await;
    let all = list_operations(&document);
    let mut ids = BTreeSet::new();
    for (path, method, operation) in &all {
        let name = format!("{method} {path}");
        assert!(path.starts_with("/api/v1/"), "{name}");
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"))),
            "{name}"
        );
        assert!(operation["summary"].is_string(), "{name} has no summary");
        assert!(operation["tags"][0].is_string(), "{name} has no tag");
        assert!(operation["description"].is_string(), "{name} has no description");
        let error = resolve_ref(&document, &operation["responses"]["default"]);
        let problem = &error["content"]["application/problem+json"];
        assert!(problem["schema"].is_object(), "{name} does not document its errors");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["schema"].is_object() && parameter["name"] != "param0", "{name}");
        }
    }
    assert!(all.len() >= 14);
}

#[tokio::test]
async fn the_document_has_no_known_errors_of_poem_openapi() {
    let document = fetch_document().await;
    assert_eq!(document["openapi"], "3.1.0");
    let flow = &document["components"]["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"];
    assert_eq!(flow["tokenUrl"], "/api/v1/auth/login");
    assert!(flow["scopes"].is_object(), "the specification requires scopes");
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is referenced and not defined");
    }
}

#[tokio::test]
async fn the_document_describes_the_token_endpoints_to_oauth_clients() {
    let document = fetch_document().await;
    let components = &document["components"];
    let flow = &components["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"];
    assert_eq!(flow["refreshUrl"], "/api/v1/auth/refresh");
    let bearer = &components["securitySchemes"]["HTTPBearer"];
    assert_eq!((&bearer["type"], &bearer["scheme"]), (&json!("http"), &json!("bearer")));
    assert_eq!(components["schemas"]["PasswordGrant"]["enum"], json!(["password"]));
    assert_eq!(components["schemas"]["RefreshGrant"]["enum"], json!(["refresh_token"]));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let refresh = &document["paths"]["/api/v1/auth/refresh"]["post"]["requestBody"]["content"];
    let kinds = ["application/json", "application/x-www-form-urlencoded"].map(str::to_owned);
    assert_eq!(keys(refresh), BTreeSet::from(kinds));
    let login = keys(&document["paths"]["/api/v1/auth/login"]["post"]["responses"]);
    let successes = login.iter().filter(|status| status.starts_with('2'));
    assert_eq!(successes.collect::<Vec<_>>(), ["200", "204"]);
}

#[tokio::test]
async fn the_documentation_pages_load_nothing_from_other_hosts() {
    let app = TestApp::start().await;
    for path in ["/docs", "/redoc", "/api/v1/docs", "/api/v1/redoc"] {
        let page = Answer::of(app.at_root(Method::GET, path)).await;
        assert_eq!(
            (page.status.as_u16(), page.header("content-type")),
            (200, "text/html; charset=utf-8"),
            "{path}"
        );
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
        for link in ["<link href=\"http", "<script src=", "@import"] {
            assert!(!page.text.contains(link), "{path} has {link}");
        }
        assert!(page.text.contains("read_admin_only"), "{path} does not contain the document");
    }
    let root = Answer::of(app.at_root(Method::GET, "/")).await;
    assert_eq!((root.status.as_u16(), root.header("location")), (307, "/docs"));
}

#[tokio::test]
async fn the_documentation_pages_have_the_name_of_the_product_and_fit_on_a_phone() {
    let app = TestApp::with(&["--project-name=R&D <Labs>"]).await;
    for path in ["/docs", "/redoc"] {
        let page = Answer::of(app.at_root(Method::GET, path)).await.text;
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{path}");
        let head = &page[..1_000];
        for part in [
            "<title>R&amp;D &lt;Labs> API</title>",
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
            "<link rel=\"icon\" href=\"data:",
        ] {
            assert!(head.contains(part), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn the_document_lists_auth_and_users_first_and_admin_last() {
    let document = fetch_document().await;
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    assert_eq!(
        (&tags[..2], tags.last().unwrap().as_str()),
        (&[&json!("Auth"), &json!("Users")][..], Some("Admin"))
    );
    let license = &document["info"]["license"]["name"];
    assert_eq!(license, "Proprietary", "the license of this repository is not that of the API");
}

#[tokio::test]
async fn the_documentation_pages_run_only_their_own_scripts() {
    let app = TestApp::start().await;
    for path in ["/docs", "/redoc"] {
        let page = Answer::of(app.at_root(Method::GET, path)).await;
        let policy: BTreeSet<_> = page.header("content-security-policy").split("; ").collect();
        for directive in ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(directive), "{policy:?}");
        }
        let (_, text) = page.text.split_once("<script charset=\"UTF-8\">").unwrap();
        let (bundle, text) = text.split_once("</script>").unwrap();
        let (_, text) = text.split_once("<script>").unwrap();
        let (start, _) = text.split_once("</script>").unwrap();
        let hash = |script: &str| BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes()));
        let scripts = format!("script-src 'sha256-{}' 'sha256-{}'", hash(bundle), hash(start));
        assert!(policy.contains(scripts.as_str()), "{policy:?}");
    }
}

#[tokio::test]
async fn a_text_of_the_document_cannot_end_the_script_that_contains_it() {
    let app = TestApp::with(&["--project-name=</script><script>alert(1)</script>"]).await;
    for path in ["/docs", "/redoc"] {
        let page = Answer::of(app.at_root(Method::GET, path)).await;
        assert_eq!(page.status, 200);
        assert!(!page.text.contains("<script>alert(1)"), "{path}");
        assert_eq!(page.header("content-security-policy").matches("'sha256-").count(), 2);
    }
}

#[tokio::test]
async fn the_documentation_pages_are_compressed_for_clients_that_accept_it() {
    let app = TestApp::start().await;
    let size = |encoding: &'static str| {
        let request = app.at_root(Method::GET, "/docs").header("accept-encoding", encoding);
        async move {
            let response = request.send().await.unwrap();
            let gzip = response.headers().get("content-encoding").is_some_and(|value| value == "gzip");
            assert!(response.headers().get_all("vary").iter().any(|value| value == "accept-encoding"));
            (gzip, response.bytes().await.unwrap().len())
        }
    };
    let (plain, gzip) = (size("identity").await, size("br, gzip;q=0.8").await);
    assert!(!plain.0 && gzip.0 && gzip.1 * 2 < plain.1, "{plain:?} {gzip:?}");
    assert!(!size("gzip;q=0").await.0);
    let small = app.request(Method::GET, "/health").header("accept-encoding", "gzip").send().await.unwrap();
    assert!(small.headers().get("content-encoding").is_none(), "short responses are not compressed");
}

#[tokio::test]
async fn the_documentation_is_downloaded_again_only_after_a_change() {
    let app = TestApp::start().await;
    for path in ["/docs", "/redoc", "/openapi.json", "/api/v1/openapi.json"] {
        let get = async |encoding: &str, known: &str| {
            let request = app.at_root(Method::GET, path).header("accept-encoding", encoding);
            request.header("if-none-match", known).send().await.unwrap()
        };
        let header = |response: &reqwest::Response, name: &str| {
            let lines = response.headers().get_all(name).iter().map(|line| line.to_str().unwrap().to_owned());
            lines.collect::<Vec<_>>().join(", ")
        };
        let mut tags = BTreeSet::new();
        for encoding in ["identity", "gzip"] {
            let first = get(encoding, "\"other\"").await;
            assert_eq!(first.status(), 200, "{path}");
            let etag = header(&first, "etag");
            assert!(etag.len() > 20 && etag.starts_with('"') && etag.ends_with('"'), "{etag}");
            let (weak, list) = (format!("W/{etag}"), format!("\"x\", {etag}"));
            for known in [&*etag, &*weak, &*list, "*"] {
                let again = get(encoding, known).await;
                assert_eq!(again.status(), 304, "{path} {encoding} {known}");
                assert_eq!(header(&again, "content-encoding"), "");
                for name in ["etag", "vary", "cache-control", "content-security-policy"] {
                    assert_eq!(header(&again, name), header(&first, name), "{path} {name}");
                }
                assert!(again.bytes().await.unwrap().is_empty());
            }
            assert_eq!(header(&first, "vary").matches("accept-encoding").count(), 1, "{path}");
            tags.insert(etag);
        }
        assert_eq!(tags.len(), 2, "{path}: each encoding has its own tag");
    }
}

#[tokio::test]
async fn a_long_response_is_compressed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let many: serde_json::Map<String, Value> =
        (0..500).map(|n| (format!("field {n}"), Value::Null)).collect();
    let made = app.post("/jobs/process-data", Some(&user), Value::Object(many)).await;
    app.run_jobs().await;
    let path = format!("/jobs/{}/status", made.body["job_id"].as_str().unwrap());
    let request = app.request(Method::GET, &path).bearer_auth(&user.token).header("accept-encoding", "gzip");
    let compressed = request.send().await.unwrap();
    assert_eq!(compressed.headers().get("content-encoding").unwrap(), "gzip");
    let mut text = String::new();
    let bytes = compressed.bytes().await.unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    let plain = app.get(&path, Some(&user)).await;
    assert_eq!((text, plain.headers.get("content-encoding")), (plain.text.clone(), None));
}

#[tokio::test]
async fn saas_openapi_prints_the_document_that_the_server_serves() {
    let printed = run(saas(&["openapi"])).await.succeeded();
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed, fetch_document().await);
    let named = run(saas(&["openapi", "--project-name", "My Product"])).await.succeeded();
    assert!(named.stdout.contains("\"title\": \"My Product\""));
}

#[tokio::test]
async fn the_first_server_of_the_document_is_the_public_url() {
    let servers = serde_json::json!([{ "url": "https://api.example.com" }, { "url": "/" }]);
    let url = "--public-url=https://api.example.com/";
    let app = TestApp::with(&[url]).await;
    let served = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    assert_eq!(served["servers"], servers);
    let printed = run(saas(&["openapi", url])).await.succeeded();
    assert_eq!(serde_json::from_str::<Value>(&printed.stdout).unwrap()["servers"], servers);
    // The documentation pages may send requests only to the server that serves them.
    for path in ["/docs", "/redoc"] {
        let page = Answer::of(app.at_root(Method::GET, path)).await.text;
        assert!(page.contains("\"url\": \"/\"") && !page.contains("https://api.example.com"), "{path}");
    }
}
