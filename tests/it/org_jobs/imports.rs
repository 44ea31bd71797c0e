//! The import of products.

use reqwest::Method;
use serde_json::{Value, json};

use super::product;
use crate::support::{
    TestApp,
    app::{Answer, fields},
    eventually,
    records::column,
};

#[tokio::test]
async fn imports_of_products_are_validated_limited_and_idempotent() {
    let app = TestApp::with(&["--user-max-queued-jobs=2"]).await;
    let (org, viewer) = (app.empty_org("one").await, app.user().await);
    org.join(&app, &viewer, "viewer").await;
    app.post_import(&org, &viewer, &["new-1"]).await.is_some_problem(403, "forbidden");
    let path = format!("/orgs/{}/products/import", org.id);
    let post =
        async |products: Value| app.post(&path, Some(&org.owner), json!({ "products": products })).await;
    let euro = json!({ "sku": "new-1", "name": "One", "price": 1, "currency": "eur" });
    // An import has the same limits of field values as POST /products.
    let costly = json!({ "sku": "new-1", "name": "One", "price": 1_000_000_000_001_i64, "currency": "EUR" });
    for (products, wrong) in [
        (json!([]), vec![("body.products", "too_short")]),
        (json!([product("new-1"), product("new-1")]), vec![("body.products.1.sku", "value_error")]),
        (json!([euro]), vec![("body.products.0.currency", "value_error")]),
        (json!([costly]), vec![("body.products.0.price", "less_than_equal")]),
    ] {
        assert_eq!(post(products.clone()).await.invalid_fields(), fields(&wrong), "{products}");
    }
    let many: Vec<_> = (0..250).map(|n| product(&format!("new-{n:03}"))).collect();
    let relayed = || async {
        let waiting = column(&app.database, "SELECT count(*) FROM job_outbox").await;
        (waiting == ["0"]).then_some(())
    };
    for _ in 0..2 {
        assert_eq!(post(json!(many)).await.status, 200);
        eventually("the job is in the queue", relayed).await;
    }
    let refused = app.post_import(&org, &org.owner, &["new-1"]).await;
    refused.is_some_problem(429, "too_many_jobs");
    app.run_jobs().await;
    assert_eq!(app.imported_skus(&org).await.len(), 250, "the second import changes nothing more");

    let once = async || {
        let request = app.request(Method::POST, &path).bearer_auth(&org.owner.token);
        let request = request.header("idempotency-key", "one");
        Answer::of(request.json(&json!({ "products": [product("new-x")] }))).await
    };
    let first = once().await;
    assert_eq!(first.status, 200, "{}", first.text);
    eventually("the job is in the queue", relayed).await;
    assert_eq!(app.post_import(&org, &org.owner, &["new-y"]).await.status, 200);
    eventually("the job is in the queue", relayed).await;
    app.post_import(&org, &org.owner, &["new-z"]).await.is_some_problem(429, "too_many_jobs");
    let again = once().await;
    assert_eq!(
        (again.status.as_u16(), &again.text),
        (200, &first.text),
        "a repetition is not refused by the limit"
    );
}
