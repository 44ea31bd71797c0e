//! The import of products into an organization, one batch per transaction.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    audit::{Action, Entry},
    org_access::OrgAccess,
    transaction::change_in_org,
};
use crate::{app::App, context::RequestContext, db::OrgTx, error::Result, models::product_import::ImportRow};

/// A product to import. If the organization already has a product with this SKU, the import changes that product.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportedProduct {
    pub sku: String,
    pub name: String,
    /// In the minor unit of the currency, such as cents.
    pub price: i64,
    pub currency: String,
}

/// Creates or changes a batch of products in one transaction. The call can be repeated: it then sets the same values again, and
/// writes another audit entry. Each SKU may occur only once in `products`.
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
        // All imports lock the rows in the same order, so that two of them cannot deadlock.
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
