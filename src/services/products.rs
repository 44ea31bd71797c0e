//! Changes of the products of an organization. Each change writes an entry into the audit trail of the organization.

use serde_json::{Value, json};

use super::{
    audit::{Action, Entry},
    idempotency::{Answered, Once},
    org_access::OrgAccess,
    org_change::change_in_org_once,
    precondition::Precondition,
    transaction::change_in_org,
};
use crate::{
    app::App,
    context::RequestContext,
    db::OrgTx,
    error::{Error, OnConstraint, Result},
    models::product::{NewProduct, Product, ProductChanges},
};

/// The error for a product that does not exist, or belongs to another organization.
pub const NOT_FOUND: Error = Error::NotFound("Product");

/// The unique constraint on the SKU within an organization.
const SKU_KEY: &str = "products_sku_key";

/// Creates a product, at most once for the idempotency key of the request.
///
/// # Errors
/// [`Error::Invalid`] if the organization has a product with this SKU; those of [`change_in_org_once`].
pub async fn create(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    once: &Once<'_, Product>,
    product: &NewProduct<'_>,
) -> Result<Answered> {
    change_in_org_once(app, context, access, once, async |tx: &OrgTx<'_>| {
        let created = product.insert(tx).await.on_constraint(SKU_KEY, sku_taken())?;
        entry(tx, &created, Action::ProductCreated).after(fields(&created)).write(tx.tx()).await?;
        Ok(created)
    })
    .await
}

/// Changes a product and returns it.
///
/// # Errors
/// [`NOT_FOUND`]; [`Error::PreconditionFailed`]; [`Error::Invalid`] if another product has the SKU; those of
/// [`change_in_org`].
pub async fn update(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    id: i64,
    changes: &ProductChanges<'_>,
    condition: &Precondition<'_, Product>,
) -> Result<Product> {
    change_in_org(app, context, access, async |tx: &OrgTx<'_>| {
        let before = Product::lock(tx, id).await?.ok_or(NOT_FOUND)?;
        condition.check(&before)?;
        if !changes.differ_from(&before) {
            return Ok(before);
        }
        let after = Product::update(tx, id, changes).await.on_constraint(SKU_KEY, sku_taken())?;
        let entry = entry(tx, &after, Action::ProductUpdated);
        entry.before(fields(&before)).after(fields(&after)).write(tx.tx()).await?;
        Ok(after)
    })
    .await
}

/// Deletes a product.
///
/// # Errors
/// [`NOT_FOUND`]; [`Error::PreconditionFailed`]; those of [`change_in_org`].
pub async fn delete(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    id: i64,
    condition: &Precondition<'_, Product>,
) -> Result<()> {
    change_in_org(app, context, access, async |tx: &OrgTx<'_>| {
        let product = Product::lock(tx, id).await?.ok_or(NOT_FOUND)?;
        condition.check(&product)?;
        Product::delete(tx, id).await?;
        entry(tx, &product, Action::ProductDeleted).before(fields(&product)).write(tx.tx()).await
    })
    .await
}

fn sku_taken() -> Error {
    Error::invalid("sku", "Another product of the organization has this SKU")
}

fn entry(tx: &OrgTx<'_>, product: &Product, action: Action) -> Entry {
    Entry::row(tx.org_id(), "product", product.id, action)
}

/// Returns the fields of a product for the audit trail.
fn fields(product: &Product) -> Value {
    let Product { sku, name, price, currency, .. } = product;
    json!({ "sku": sku, "name": name, "price": price, "currency": currency })
}
