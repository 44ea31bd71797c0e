//! The table `outbox`: mails to be sent, written together with what they tell of.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::schema::outbox;

#[derive(HasQuery)]
#[diesel(table_name = outbox)]
pub struct Outgoing {
    pub id: i64,
    pub letter: Value,
    pub created_at: DateTime<Utc>,
}

impl Outgoing {
    /// What it is told apart from every other by, also from one of the same id in a database made anew.
    pub fn key(&self) -> String {
        format!("letter-{}-{}", self.id, self.created_at.timestamp_micros())
    }
}

impl Outgoing {
    pub async fn insert(mut conn: &AsyncPgConnection, letter: &Value) -> QueryResult<usize> {
        diesel::insert_into(outbox::table).values(outbox::letter.eq(letter)).execute(&mut conn).await
    }

    pub async fn after(mut conn: &AsyncPgConnection, id: i64, limit: i64) -> QueryResult<Vec<Self>> {
        Self::query().filter(outbox::id.gt(id)).order(outbox::id).limit(limit).load(&mut conn).await
    }

    pub async fn delete(mut conn: &AsyncPgConnection, ids: &[i64]) -> QueryResult<usize> {
        diesel::delete(outbox::table.filter(outbox::id.eq_any(ids))).execute(&mut conn).await
    }
}
