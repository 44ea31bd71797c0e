//! The upsert of many rows of the table `products`.

use diesel::{prelude::*, upsert::excluded};
use diesel_async::RunQueryDsl;

use crate::db::{OrgConn, OrgTx};
use crate::schema::products;

/// A product to import into an organization.
#[derive(Insertable)]
#[diesel(table_name = products)]
pub struct ImportRow<'a> {
    pub org_id: i64,
    pub sku: &'a str,
    pub name: &'a str,
    pub price: i64,
    pub currency: &'a str,
}

impl ImportRow<'_> {
    /// Inserts the rows, and updates the products whose SKU the organization already has. Each SKU may occur only once in `rows`.
    /// Returns the number of inserted and updated products.
    pub async fn upsert(rows: Vec<Self>, tx: &OrgTx<'_>) -> QueryResult<usize> {
        let mut conn: &OrgConn<'_> = tx;
        diesel::insert_into(products::table)
            .values(rows)
            .on_conflict((products::org_id, products::sku))
            .do_update()
            .set((
                products::name.eq(excluded(products::name)),
                products::price.eq(excluded(products::price)),
                products::currency.eq(excluded(products::currency)),
            ))
            .execute(&mut conn)
            .await
    }
}
