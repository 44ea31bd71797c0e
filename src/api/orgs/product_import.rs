//! The import of products, an example of a job of an organization.

use std::collections::HashSet;

use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json, types::Example};

use crate::{
    api::{
        extract::{Body, IdempotencyKey, OrgMember},
        idempotency::Replayable,
        jobs::Enqueued,
        paths::ORG_PATH,
        problem::Result,
        tag::Tag,
    },
    app::App,
    error::{Error, FieldError, Loc},
    jobs::ImportProducts,
    queue::Job,
    services::{org_jobs, permissions::perm, product_import::ImportedProduct},
};

/// Maximum size of the request body in bytes: 1,000 products of about 260 bytes each, in JSON.
const MAX_IMPORT_BYTES: usize = 256 * 1024;

/// Operations that import products.
pub(in crate::api) struct ProductImport(pub(super) App);

/// A product to import. If the organization already has a product with this SKU, the import changes that product.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ImportedProductIn {
    /// Each SKU may occur only once in a request.
    #[oai(validator(min_length = 1, max_length = 64))]
    sku: String,
    #[oai(validator(min_length = 1, max_length = 200))]
    name: String,
    /// In the minor unit of the currency, such as cents.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    price: i64,
    /// Three capital letters (ISO 4217), such as `EUR`.
    #[oai(validator(min_length = 3, max_length = 3))]
    currency: String,
}

/// Products to import.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct ImportIn {
    #[oai(validator(min_items = 1, max_items = 1000))]
    products: Vec<ImportedProductIn>,
}

impl Example for ImportIn {
    fn example() -> Self {
        let (sku, name) = ("CHAIR-1".into(), "Chair".into());
        Self { products: vec![ImportedProductIn { sku, name, price: 4_900, currency: "EUR".into() }] }
    }
}

#[derive(ApiResponse)]
enum ImportEnqueued {
    /// The job that imports the products.
    #[oai(status = 200)]
    Ok(Json<Enqueued>),
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Jobs")]
impl ProductImport {
    /// Enqueues a job that creates or changes up to 1,000 products.
    ///
    /// Needs the permission `product:write`, which is checked again when the job runs. `GET /orgs/{org}/jobs/{id}` returns the
    /// progress of the job. Fails with 429 `too_many_jobs` and `Retry-After` if you, or the creator of the API key, have too many
    /// jobs.
    #[oai(path = "/products/import", method = "post", operation_id = "import_products")]
    async fn import(
        &self,
        org: OrgMember<perm::ProductWrite>,
        key: IdempotencyKey,
        Body(body): Body<ImportIn, MAX_IMPORT_BYTES>,
    ) -> Result<Replayable<ImportEnqueued>> {
        let problems = find_problems(&body.products);
        if !problems.is_empty() {
            return Err(Error::Invalid(problems).into());
        }
        let job = ImportProducts { products: body.products.into_iter().map(Into::into).collect() };
        let once = key.once(|id: &String| {
            let enqueued = Enqueued::new("Import enqueued", id, ImportProducts::NAME, None);
            ImportEnqueued::Ok(Json(enqueued))
        });
        let answered = org_jobs::enqueue_once(&self.0, org.context(), org.access(), &once, &job).await?;
        Ok(answered.into())
    }
}

/// Returns the errors that the validation against the schema does not find: repeated SKUs, and currencies with a character
/// that is not a capital letter.
fn find_problems(products: &[ImportedProductIn]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut report = |index: usize, field: &str, msg: &str| {
        let loc = vec![Loc::key("products"), Loc::Index(index), Loc::key(field)];
        errors.push(FieldError { loc, msg: msg.into(), kind: "value_error" });
    };
    let mut skus = HashSet::new();
    for (index, product) in products.iter().enumerate() {
        if !skus.insert(&product.sku) {
            report(index, "sku", "A product before this one has the same SKU");
        }
        if !product.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            report(index, "currency", "Must be three capital letters (ISO 4217)");
        }
    }
    errors
}

impl From<ImportedProductIn> for ImportedProduct {
    fn from(ImportedProductIn { sku, name, price, currency }: ImportedProductIn) -> Self {
        Self { sku, name, price, currency }
    }
}
