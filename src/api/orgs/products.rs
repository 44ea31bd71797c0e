//! Products: an example of a resource that belongs to organizations. Copy it for your own resources. The README
//! explains its parts.
//!
//! | part | file |
//! |---|---|
//! | the table | `migrations/2026-11-27-500001_products` |
//! | queries | `src/models/product.rs` |
//! | changes, with the audit trail | `src/services/products.rs` |
//! | operations | this file |
//! | tests | `tests/it/api_products.rs` |
//!
//! The import of products is an example of a job: `product_import.rs` in this folder, in `src/services` and in
//! `src/models`, and `src/jobs/import_products.rs`.
//!
//! To delete the products and their import:
//!
//! 1. Delete all these files and their `mod` lines, but keep the migration.
//! 2. Delete the lines that the compiler then reports: in `resources` and in the table of jobs. Also delete the permissions, the
//!    actions of the audit trail and the tag. The example in `api_key_out.rs` needs other scopes.
//! 3. Create a migration that drops the table, and regenerate `src/schema.rs`.
//! 4. Change the tests and benchmarks that use products as the data of an organization, such as the tests of API keys. They
//!    need another resource. `grep -rl products tests` lists them.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Example,
};

use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        extract::{Body, Currency, Cursor, IdempotencyKey, Limit, OrgMember, Text},
        idempotency::Replayable,
        paths::{ORG_PATH, PREFIX},
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    db::OrgConn,
    models::product::{NewProduct, Position, Product, ProductChanges, ProductListing, Sort},
    services::{
        permissions::perm,
        products::{self, NOT_FOUND},
    },
};

/// Operations on the products of an organization.
pub(in crate::api) struct Products(pub(super) App);

/// A product.
#[derive(Object)]
#[oai(rename = "Product", example)]
struct ProductOut {
    id: i64,
    /// Unique in the organization.
    sku: String,
    name: String,
    /// In the minor unit of the currency: `1999` in the currency `EUR` is € 19.99.
    price: i64,
    currency: Currency,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Example for ProductOut {
    fn example() -> Self {
        let ProductIn { sku, name, price, currency } = ProductIn::example();
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self { id: 12, sku, name, price, currency, created_at: at, updated_at: at }
    }
}

impl From<Product> for ProductOut {
    fn from(product: Product) -> Self {
        let Product { id, sku, name, price, currency, created_at, updated_at, .. } = product;
        Self { id, sku, name, price, currency: Currency(currency), created_at, updated_at }
    }
}

impl PageItem for ProductOut {
    const PAGE: &str = "ProductPage";
    const PAGE_DESCRIPTION: &str = "A page of the products of an organization.";
}

/// A new product.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct ProductIn {
    /// Unique in the organization.
    #[oai(validator(min_length = 1, max_length = 64))]
    sku: String,
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// In the minor unit of the currency, such as cents.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    price: i64,
    currency: Currency,
}

impl Example for ProductIn {
    fn example() -> Self {
        Self { sku: "TEA-1".into(), name: "Green tea".into(), price: 1_999, currency: Currency("EUR".into()) }
    }
}

/// A change of a product. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none, example)]
struct ProductChangeIn {
    /// Unique in the organization.
    #[oai(validator(min_length = 1, max_length = 64))]
    sku: Option<String>,
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// In the minor unit of the currency, such as cents.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    price: Option<i64>,
    currency: Option<Currency>,
}

impl Example for ProductChangeIn {
    fn example() -> Self {
        Self { sku: None, name: None, price: Some(1_799), currency: None }
    }
}

/// The order of a list of products; a `-` sorts in descending order.
#[derive(Enum, Clone, Copy, Default)]
enum ProductSort {
    #[oai(rename = "created_at")]
    CreatedAt,
    #[default]
    #[oai(rename = "-created_at")]
    NewestFirst,
    #[oai(rename = "name")]
    Name,
    #[oai(rename = "-name")]
    NameDescending,
}

impl ProductSort {
    /// Returns the column, and whether the order is descending.
    fn column(self) -> (Sort, bool) {
        match self {
            Self::CreatedAt => (Sort::CreatedAt, false),
            Self::NewestFirst => (Sort::CreatedAt, true),
            Self::Name => (Sort::Name, false),
            Self::NameDescending => (Sort::Name, true),
        }
    }
}

#[derive(ApiResponse)]
enum ProductCreated {
    /// The new product.
    #[oai(status = 201)]
    Created(
        Json<ProductOut>,
        /// The path of the product.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum ProductDeleted {
    /// The product was deleted.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Products")]
impl Products {
    /// Returns the products that match the filters.
    ///
    /// Products whose sort keys are equal are sorted by `id`, in the same direction. Needs the permission `product:read`.
    #[oai(path = "/products", method = "get", operation_id = "list_products")]
    async fn list(
        &self,
        org: OrgMember<perm::ProductRead>,
        /// A part of the name; case is ignored.
        #[oai(validator(max_length = 200))]
        search: Query<Option<Text>>,
        /// Only products with a price in this currency.
        #[oai(validator(max_length = 3))]
        currency: Query<Option<Text>>,
        /// The order of the list.
        #[oai(default)]
        sort: Query<ProductSort>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<ProductOut>> {
        let (column, descending) = sort.0.column();
        let after = cursor.after_valid(|position: &Position| position.fits(column))?;
        let listing = ProductListing {
            search: search.0.as_ref().map(Text::as_ref).filter(|text| !text.trim().is_empty()),
            currency: currency.0.as_ref().map(Text::as_ref),
            sort: column,
            descending,
            after: after.as_ref(),
            limit: limit.rows(),
        };
        let load = async |conn: &OrgConn<'_>| Ok(listing.load(conn).await?);
        let rows = self.0.db.in_org(org.scope(), load).await?;
        Ok(Page::of(&cursor, limit.0, rows, |row| Position::of(row, column)))
    }

    /// Creates a product.
    ///
    /// Fails with 422 if another product of the organization has the SKU. Needs the permission `product:write`.
    #[oai(path = "/products", method = "post", operation_id = "create_product")]
    async fn create(
        &self,
        org: OrgMember<perm::ProductWrite>,
        key: IdempotencyKey,
        Body(body): Body<ProductIn>,
    ) -> Result<Replayable<ProductCreated>> {
        let once = key.once(|product: &Product| {
            let location = format!("{PREFIX}/orgs/{}/products/{}", org.org_id(), product.id);
            ProductCreated::Created(Json(product.clone().into()), location)
        });
        let ProductIn { sku, name, price, currency } = &body;
        let product = NewProduct { sku, name, price: *price, currency: &currency.0 };
        Ok(products::create(&self.0, org.context(), org.access(), &once, &product).await?.into())
    }

    /// Returns a product.
    ///
    /// Needs the permission `product:read`.
    #[oai(path = "/products/:id", method = "get", operation_id = "read_product")]
    async fn read(&self, org: OrgMember<perm::ProductRead>, id: Path<i64>) -> Result<Tagged<ProductOut>> {
        let find = async |conn: &OrgConn<'_>| Product::find(conn, id.0).await?.ok_or(NOT_FOUND);
        Ok(Tagged(self.0.db.in_org(org.scope(), find).await?.into()))
    }

    /// Changes a product.
    ///
    /// Fails with 412 `precondition_failed` if the request has `If-Match` without the current `ETag` of the product, and with 422
    /// if another product of the organization has the SKU. Needs the permission `product:write`.
    #[oai(path = "/products/:id", method = "patch", operation_id = "update_product")]
    async fn update(
        &self,
        org: OrgMember<perm::ProductWrite>,
        id: Path<i64>,
        if_match: IfMatch,
        Body(body): Body<ProductChangeIn>,
    ) -> Result<Tagged<ProductOut>> {
        let changes = ProductChanges {
            sku: body.sku.as_deref(),
            name: body.name.as_deref(),
            price: body.price,
            currency: body.currency.as_ref().map(|currency| currency.0.as_str()),
        };
        let (context, condition) = (org.context(), if_match.on::<ProductOut, _>());
        let product = products::update(&self.0, context, org.access(), id.0, &changes, &condition).await?;
        Ok(Tagged(product.into()))
    }

    /// Deletes a product.
    ///
    /// Fails with 412 `precondition_failed` if the current `ETag` of the product is not in `If-Match`. Needs the permission
    /// `product:write`.
    #[oai(path = "/products/:id", method = "delete", operation_id = "delete_product")]
    async fn delete(
        &self,
        org: OrgMember<perm::ProductWrite>,
        id: Path<i64>,
        if_match: IfMatch,
    ) -> Result<ProductDeleted> {
        let (context, condition) = (org.context(), if_match.on::<ProductOut, _>());
        products::delete(&self.0, context, org.access(), id.0, &condition).await?;
        Ok(ProductDeleted::NoContent)
    }
}
