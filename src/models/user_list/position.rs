//! The position after which a page of users begins.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Sort;
use crate::models::{time_of_position, user::User};

/// Maximum number of characters of an address or a name, as in the checks of the table.
const MAX_TEXT_CHARS: usize = 255;

/// The sort key and the id of a user. A page begins after this position, even if the user was deleted since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(pub SortKey, pub i64);

/// The value of a user that a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SortKey {
    /// Microseconds since 1970. PostgreSQL has the same precision.
    Time(i64),
    /// An address or a name.
    Text(String),
    /// A user without a name.
    Missing,
}

/// A range of rows of the list. An index has the rows of a range in the order of the list.
pub(super) enum Range<'a> {
    All,
    CreatedAfter(DateTime<Utc>, i64),
    EmailAfter(&'a str),
    /// Users with a name.
    NameAfter(&'a str, i64),
    Nameless,
    NamelessAfter(i64),
}

impl Position {
    /// Returns the position of a user.
    pub fn of(user: &User, sort: Sort) -> Self {
        let key = match sort {
            Sort::CreatedAt => SortKey::Time(user.created_at.timestamp_micros()),
            Sort::Email => SortKey::Text(user.email.clone()),
            Sort::FullName => user.full_name.clone().map_or(SortKey::Missing, SortKey::Text),
        };
        Self(key, user.id)
    }

    /// Returns whether this can be the position of a user. A client may send any value.
    pub fn fits(&self, sort: Sort) -> bool {
        let is_storable = |text: &str| !text.contains('\0') && text.chars().count() <= MAX_TEXT_CHARS;
        match (&self.0, sort) {
            (SortKey::Time(at), Sort::CreatedAt) => time_of_position(*at).is_some(),
            (SortKey::Text(text), Sort::Email | Sort::FullName) => is_storable(text),
            (SortKey::Missing, Sort::FullName) => true,
            _ => false,
        }
    }

    /// Returns the ranges of rows after this position, in the order of the list. Users without a name are a separate range,
    /// because SQL does not compare NULL with names.
    pub(super) fn ranges(&self, sort: Sort) -> Vec<Range<'_>> {
        let Self(key, id) = self;
        match (key, sort) {
            (SortKey::Time(at), _) => {
                vec![Range::CreatedAfter(time_of_position(*at).unwrap_or_default(), *id)]
            }
            (SortKey::Text(email), Sort::Email) => vec![Range::EmailAfter(email)],
            (SortKey::Text(name), _) => vec![Range::NameAfter(name, *id), Range::Nameless],
            (SortKey::Missing, _) => vec![Range::NamelessAfter(*id)],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof};

    use super::*;
    use crate::property::property;

    #[test]
    fn a_position_survives_json_and_fits_only_orders_of_its_kind() {
        let microseconds = prop_oneof![any::<i64>(), -100_000_000_000_000_000..300_000_000_000_000_000_i64];
        let key = prop_oneof![
            microseconds.prop_map(SortKey::Time),
            any::<String>().prop_map(SortKey::Text),
            Just(SortKey::Missing),
        ];
        property(1, (key, any::<i64>()), |(key, id)| {
            let position = Position(key, id);
            let json = serde_json::to_string(&position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
            let fitting = [Sort::CreatedAt, Sort::Email, Sort::FullName].map(|sort| position.fits(sort));
            match &position.0 {
                SortKey::Time(at) => {
                    assert_eq!(
                        fitting,
                        [(-62_135_596_800_000_000..253_402_300_800_000_000).contains(at), false, false]
                    );
                }
                SortKey::Text(text) => {
                    let is_storable = !text.contains('\0') && text.chars().count() <= MAX_TEXT_CHARS;
                    assert_eq!(fitting, [false, is_storable, is_storable]);
                }
                SortKey::Missing => assert_eq!(fitting, [false, false, true]),
            }
        });
    }

    #[test]
    fn only_possible_positions_fit_a_sort_order() {
        let fits = |json: &str, sort| {
            serde_json::from_str::<Position>(json).is_ok_and(|position| position.fits(sort))
        };
        for (json, expected) in [
            ("[1767225600000000,5]", [true, false, false]),
            (r#"["ada@example.com",5]"#, [false, true, true]),
            ("[null,5]", [false, false, true]),
            ("[9223372036854775807,5]", [false; 3]),
            ("[-9223372036854775808,5]", [false; 3]),
            (r#"["a\u0000",5]"#, [false; 3]),
            ("[1.5,5]", [false; 3]),
            ("[null,5,5]", [false; 3]),
            ("[null]", [false; 3]),
            ("[[],5]", [false; 3]),
            ("{}", [false; 3]),
        ] {
            let found = [Sort::CreatedAt, Sort::Email, Sort::FullName].map(|sort| fits(json, sort));
            assert_eq!(found, expected, "{json}");
        }
    }
}
