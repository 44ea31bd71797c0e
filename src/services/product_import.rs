//! The import of many products into an organization, a part in each transaction.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    audit::{Action, Entry},
    org_access::OrgAccess,
    transaction::change_in_org,
};
use crate::{app::App, context::RequestContext, db::OrgTx, error::Result, models::product_import::ImportRow};

/// A product to create, or to change if the organization has one with this SKU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportedProduct {
    pub sku: String,
    pub name: String,
    pub price: i64,
    pub currency: String,
}

/// Creates or changes products of an organization. A repeated call changes nothing more. Each SKU may occur once.
///
/// # Errors
/// Those of [`change_in_org`].
pub async fn import(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    products: &[ImportedProduct],
) -> Result<()> {
    change_in_org(app, context, access, async |tx: &OrgTx<'_>| {
        let org_id = tx.org_id();
        let mut rows: Vec<_> = products.iter().map(|product| row(org_id, product)).collect();
        // In one order, so that two imports do not wait for each other.
        rows.sort_unstable_by_key(|row| row.sku);
        ImportRow::upsert(rows, tx).await?;
        let entry = Entry::org(org_id, Action::ProductsImported);
        entry.after(json!({ "products": products.len() })).write(tx.tx()).await
    })
    .await
}

fn row(org_id: i64, product: &ImportedProduct) -> ImportRow<'_> {
    let ImportedProduct { sku, name, price, currency } = product;
    ImportRow { org_id, sku, name, price: *price, currency }
}
