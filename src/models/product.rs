//! The table `products`, whose rows belong to organizations.
//!
//! The functions of this module take an [`OrgConn`] to read, or an [`OrgTx`] to change rows, and no other connection.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    sql_types::{BigInt, Bool, Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use super::time_of_position;
use crate::db::{OrgConn, OrgTx};
use crate::schema::products;

/// SQL before and after the search text: the condition that `name_key` contains the folded text. A subquery folds the text once,
/// not for each row.
const NAME_CONTAINS: [&str; 2] = ["strpos(name_key, (SELECT search_fold(", "))) > 0"];

/// A row of `products`.
#[derive(Clone, Debug, HasQuery)]
pub struct Product {
    pub id: i64,
    /// Unique in the organization.
    pub sku: String,
    pub name: String,
    /// The name without the differences that a search ignores, such as case, cut to 250 characters. PostgreSQL computes this
    /// column.
    pub name_key: String,
    /// In the minor unit of the currency, such as cents.
    pub price: i64,
    /// The code of ISO 4217, such as `EUR`.
    pub currency: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A product to insert. Its organization is that of the connection.
#[derive(Insertable)]
#[diesel(table_name = products)]
pub struct NewProduct<'a> {
    pub sku: &'a str,
    pub name: &'a str,
    pub price: i64,
    pub currency: &'a str,
}

/// Changes to a product. `None` keeps a column.
#[derive(AsChangeset)]
#[diesel(table_name = products)]
pub struct ProductChanges<'a> {
    pub sku: Option<&'a str>,
    pub name: Option<&'a str>,
    pub price: Option<i64>,
    pub currency: Option<&'a str>,
}

/// The column that a list of products is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    CreatedAt,
    Name,
}

/// The sort key and the id of a product. A page begins after this position, even if the product was deleted since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Position {
    /// The time in microseconds since 1970, which is the precision of PostgreSQL, and the id.
    CreatedAt(i64, i64),
    /// The `name_key` and the id.
    Name(String, i64),
}

/// A query for a page of the products of an organization. `None` does not filter.
#[derive(Debug, Clone)]
pub struct ProductListing<'a> {
    /// A part of the name, ignoring case.
    pub search: Option<&'a str>,
    pub currency: Option<&'a str>,
    pub sort: Sort,
    pub descending: bool,
    pub after: Option<&'a Position>,
    pub limit: i64,
}

impl ProductChanges<'_> {
    /// Returns whether the changes have a value that differs from `row`.
    pub fn differ_from(&self, row: &Product) -> bool {
        self.sku.is_some_and(|sku| sku != row.sku)
            || self.name.is_some_and(|name| name != row.name)
            || self.price.is_some_and(|price| price != row.price)
            || self.currency.is_some_and(|currency| currency != row.currency)
    }
}

impl Position {
    /// Returns the position of a product.
    pub fn of(product: &Product, sort: Sort) -> Self {
        match sort {
            Sort::CreatedAt => Self::CreatedAt(product.created_at.timestamp_micros(), product.id),
            Sort::Name => Self::Name(product.name_key.clone(), product.id),
        }
    }

    /// Returns whether this can be a position in the order of `sort`. A client may send any value.
    pub fn fits(&self, sort: Sort) -> bool {
        match self {
            Self::CreatedAt(at, _) => sort == Sort::CreatedAt && time_of_position(*at).is_some(),
            Self::Name(key, _) => sort == Sort::Name && !key.contains('\0'),
        }
    }
}

impl ProductListing<'_> {
    /// Returns the products of the page.
    pub async fn load(&self, mut conn: &OrgConn<'_>) -> QueryResult<Vec<Product>> {
        let mut query = products::table.filter(products::org_id.eq(conn.org_id())).into_boxed::<Pg>();
        if let Some(search) = self.search {
            let [before, after] = NAME_CONTAINS;
            query = query.filter(sql::<Bool>(before).bind::<Text, _>(search.trim()).sql(after));
        }
        if let Some(currency) = self.currency {
            query = query.filter(products::currency.eq(currency));
        }
        // A comparison of row values, because an index on these columns can answer it.
        let follows = |column: &str| format!("({column}, id) {} (", if self.descending { "<" } else { ">" });
        match self.after {
            None => {}
            Some(Position::CreatedAt(at, id)) => {
                let at = time_of_position(*at).unwrap_or_default();
                let after = sql::<Bool>(&follows("created_at")).bind::<Timestamptz, _>(at).sql(", ");
                query = query.filter(after.bind::<BigInt, _>(*id).sql(")"));
            }
            Some(Position::Name(key, id)) => {
                let after = sql::<Bool>(&follows("name_key")).bind::<Text, _>(key).sql(", ");
                query = query.filter(after.bind::<BigInt, _>(*id).sql(")"));
            }
        }
        let query = match (self.sort, self.descending) {
            (Sort::CreatedAt, false) => query.order((products::created_at.asc(), products::id.asc())),
            (Sort::CreatedAt, true) => query.order((products::created_at.desc(), products::id.desc())),
            (Sort::Name, false) => query.order((products::name_key.asc(), products::id.asc())),
            (Sort::Name, true) => query.order((products::name_key.desc(), products::id.desc())),
        };
        query.limit(self.limit).select(Product::as_select()).load(&mut conn).await
    }
}

impl Product {
    /// Returns a product by id.
    pub async fn find(mut conn: &OrgConn<'_>, id: i64) -> QueryResult<Option<Self>> {
        let row = products::table.find((conn.org_id(), id));
        row.select(Self::as_select()).first(&mut conn).await.optional()
    }

    /// Locks a product until the transaction ends, and returns the latest version of the row.
    pub async fn lock(tx: &OrgTx<'_>, id: i64) -> QueryResult<Option<Self>> {
        let mut conn: &OrgConn<'_> = tx;
        let row = products::table.find((conn.org_id(), id));
        row.select(Self::as_select()).for_update().first(&mut conn).await.optional()
    }

    /// Updates a product and returns the new row.
    pub async fn update(tx: &OrgTx<'_>, id: i64, changes: &ProductChanges<'_>) -> QueryResult<Self> {
        let mut conn: &OrgConn<'_> = tx;
        diesel::update(products::table.find((conn.org_id(), id)))
            .set(changes)
            .returning(Self::as_returning())
            .get_result(&mut conn)
            .await
    }

    /// Deletes a product. Returns how many were deleted, 0 or 1.
    pub async fn delete(tx: &OrgTx<'_>, id: i64) -> QueryResult<usize> {
        let mut conn: &OrgConn<'_> = tx;
        diesel::delete(products::table.find((conn.org_id(), id))).execute(&mut conn).await
    }
}

impl NewProduct<'_> {
    /// Inserts the product and returns the row.
    pub async fn insert(&self, tx: &OrgTx<'_>) -> QueryResult<Product> {
        let mut conn: &OrgConn<'_> = tx;
        diesel::insert_into(products::table)
            .values((products::org_id.eq(conn.org_id()), self))
            .returning(Product::as_returning())
            .get_result(&mut conn)
            .await
    }
}
