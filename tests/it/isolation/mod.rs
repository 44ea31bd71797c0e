//! Tests that no organization can see or change the data of another: the catalog of PostgreSQL, queries without a
//! condition on the organization, and every operation with callers who must not see the organization.
//!
//! | file | proves |
//! |---|---|
//! | `catalog` | each table is isolated, and no key, view or privilege reaches another organization |
//! | `connection` | queries see one organization, and the connection does not keep it afterwards |
//! | `plain_role` | housekeeping works if the role of the product owns no table |
//! | `role` | the migration creates the role `saas_tenant`, or names the statements that create it |
//! | `sources` | no code gets around the connection of an organization |
//! | `requests`, `walk`, `keys` | no operation shows or changes another organization |

mod catalog;
mod connection;
mod keys;
mod plain_role;
mod requests;
mod role;
mod sources;
mod walk;

use saas::{jobs::ImportProducts, queue::Origin, services::product_import::ImportedProduct};
use serde_json::json;

use crate::support::{TestApp, User, records::column};

/// An organization with an owner, a member and at least one row of each resource. The texts of these rows contain its name.
pub struct Org {
    pub id: i64,
    pub name: String,
    pub owner: User,
}

impl Org {
    pub async fn create(app: &TestApp, name: &str) -> Self {
        let (owner, member) = (app.user().await, app.user().await);
        let insert = format!("INSERT INTO organizations (name) VALUES ('{name}') RETURNING id");
        let id = column(&app.database, &insert).await[0].parse().unwrap();
        let org = Self { id, name: name.to_owned(), owner };
        for (user, role) in [(&org.owner, "owner"), (&member, "member")] {
            org.join(app, user, role).await;
            let email = format!("{name}{}@example.com", user.id);
            app.sql(&format!(
                "UPDATE users SET full_name = '{name}', email = '{email}' WHERE id = {}",
                user.id
            ))
            .await;
        }
        org.add_product(app, name).await;
        org.add_key(app, name).await;
        org.add_invitation(app, name).await;
        org.add_job(app, name).await;
        let entry = json!({ "name": name });
        app.sql(&format!(
            "INSERT INTO audit_log (org_id, action, target_type, target_id, after)
                 VALUES ({id}, '{name}', '{name}', '{name}', '{entry}')"
        ))
        .await;
        org
    }

    /// Makes a user a member with this role.
    pub async fn join(&self, app: &TestApp, user: &User, role: &str) {
        let insert = "INSERT INTO memberships (org_id, user_id, role) VALUES";
        app.sql(&format!("{insert} ({}, {}, '{role}')", self.id, user.id)).await;
    }

    /// Adds a queued job whose arguments contain `name`.
    pub async fn add_job(&self, app: &TestApp, name: &str) {
        let (sku, name, currency) = (format!("{name}-2"), name.to_owned(), "EUR".to_owned());
        let job = ImportProducts { products: vec![ImportedProduct { sku, name, price: 100, currency }] };
        let scope = Some(format!("org:{}", self.id));
        let origin = Origin { owner: Some(self.owner.id), scope, ..Origin::default() };
        let job_id = app.app.queue.enqueue(&job, origin).await.unwrap();
        let insert = "INSERT INTO org_jobs (org_id, id, task, created_by) VALUES";
        let row = format!("({}, '{job_id}', 'import_products', {})", self.id, self.owner.id);
        app.sql(&format!("{insert} {row}")).await;
    }

    /// Adds an API key with this name. Its secret is not stored anywhere.
    pub async fn add_key(&self, app: &TestApp, name: &str) {
        let insert = "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint) VALUES";
        let row = format!(
            "({}, {}, '{name}', 'job:read', sha256(gen_random_uuid()::text::bytea), '{name}')",
            self.id, self.owner.id
        );
        app.sql(&format!("{insert} {row}")).await;
    }

    /// Adds a pending invitation to an address that contains `name`. Its token is not stored anywhere.
    pub async fn add_invitation(&self, app: &TestApp, name: &str) {
        let insert = "INSERT INTO invitations
            (org_id, email, email_key, role, invited_by, link_id, token_hash, link_shown, expires_at) VALUES";
        let email = format!("{name}{}@guest.example.com", self.owner.id);
        let row = format!(
            "({}, '{email}', '{email}', 'viewer', {}, gen_random_uuid(), sha256(gen_random_uuid()::text::bytea), false,
              now() + interval '7 days')",
            self.id, self.owner.id
        );
        app.sql(&format!("{insert} {row}")).await;
    }

    /// Adds a product with the name `{name} product`.
    pub async fn add_product(&self, app: &TestApp, name: &str) {
        let insert = "INSERT INTO products (org_id, sku, name, price, currency) VALUES";
        app.sql(&format!("{insert} ({}, '{name}-1', '{name} product', 100, 'EUR')", self.id)).await;
    }
}
