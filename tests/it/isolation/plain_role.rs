//! A product that signs in as a role that owns no table. The policies apply to this role: outside of an organization, they hide
//! all rows of isolated tables.

use saas::services::housekeeping;

use super::{Org, connection::url_for_role};
use crate::support::{TestApp, records::column};

/// Records the role that deletes each product: the role of the product if housekeeping deletes the row, and the owner of the
/// table if `ON DELETE CASCADE` does.
const RECORD_DELETIONS: &str = "
    CREATE TABLE deletions (role TEXT);
    GRANT INSERT ON deletions TO PUBLIC;
    CREATE FUNCTION record_deletion() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO deletions VALUES (current_user); RETURN NULL; END $$;
    CREATE TRIGGER record_deletion AFTER DELETE ON products FOR EACH ROW EXECUTE FUNCTION record_deletion()";

#[tokio::test]
async fn housekeeping_deletes_rows_of_organizations_that_the_role_does_not_own() {
    let owner = TestApp::start().await;
    let url = url_for_role(&owner, "").await;
    let app = TestApp::on(owner.database.clone(), &[&format!("--database-url={url}")]).await;
    let (gone, kept) = (Org::create(&app, "gone").await, Org::create(&app, "kept").await);
    // Inserts more rows into each organization than one batch deletes. No organization is due for deletion yet.
    app.sql(
        "INSERT INTO org_jobs (org_id, id, task, created_at)
         SELECT o.id, gen_random_uuid(), 'old', now() - interval '31 days'
         FROM organizations o CROSS JOIN generate_series(1, 700)",
    )
    .await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().org_jobs, 1_400);
    assert_eq!(column(&app.database, "SELECT DISTINCT task FROM org_jobs").await, ["import_products"]);

    app.sql(&format!(
        "INSERT INTO products (org_id, sku, name, price, currency)
         SELECT {}, 'many-' || n, 'many', 1, 'EUR' FROM generate_series(1, 700) n",
        gone.id
    ))
    .await;
    app.sql(RECORD_DELETIONS).await;
    app.sql(&format!("UPDATE organizations SET deletion_due_at = now() WHERE id = {}", gone.id)).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().organizations, 1);
    let (_, role) = url.split_once("://").unwrap();
    let (role, _) = role.split_once(':').unwrap();
    let deleted = "SELECT role || ' ' || count(*) FROM deletions GROUP BY role";
    assert_eq!(
        column(&app.database, deleted).await,
        [format!("{role} 701")],
        "in batches, before the cascade"
    );
    let left = "SELECT DISTINCT org_id FROM products";
    assert_eq!(column(&app.database, left).await, [kept.id.to_string()]);
}
