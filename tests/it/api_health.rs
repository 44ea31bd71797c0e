use serde_json::json;

use crate::support::{TestApp, servers::TestDatabase};

#[tokio::test]
async fn smoke_the_health_check_names_the_service() {
    let app = TestApp::with(&["--project-name=My Product"]).await;
    let answer = app.get("/health", None).await;
    assert_eq!(answer.status, 200);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(answer.body, json!({ "status": "healthy", "service": "My Product", "version": version }));
}

#[tokio::test]
async fn smoke_the_health_checks_of_dependencies_succeed() {
    let app = TestApp::start().await;
    let db = app.get("/health/db", None).await;
    assert_eq!(
        (db.status.as_u16(), db.body),
        (200, json!({ "status": "healthy", "database": "ok", "result": 1 }))
    );
    let redis = app.get("/health/redis", None).await;
    assert_eq!((redis.status.as_u16(), redis.body), (200, json!({ "status": "healthy", "redis": "ok" })));
    let ready = app.get("/health/ready", None).await;
    let healthy = json!({ "status": "healthy", "database": "ok", "migrations": "ok", "redis": "ok", "stopping": false });
    assert_eq!((ready.status.as_u16(), ready.body), (200, healthy));
    assert_eq!(app.get("/health/live", None).await.status, 200);
}

#[tokio::test]
async fn an_unmigrated_database_is_not_ready() {
    let app = TestApp::on(TestDatabase::empty().await.into(), &[]).await;
    let ready = app.get("/health/ready", None).await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body["migrations"], "pending");
    assert_eq!(app.get("/health/db", None).await.status, 200);
}

#[tokio::test]
async fn a_stopping_process_is_live_but_not_ready() {
    let app = TestApp::start().await;
    app.app.begin_stopping();
    let ready = app.get("/health/ready", None).await;
    assert_eq!((ready.status.as_u16(), &ready.body["stopping"]), (503, &json!(true)));
    assert_eq!(app.get("/health/live", None).await.status, 200);
}
