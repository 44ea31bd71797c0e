// The tables as diesel sees them. A test compares this file with the migrated database;
// `BLESS=1 ./scripts/test schema` rewrites it after a migration.

diesel::table! {
    users (id) {
        id -> Int8,
        email -> Text,
        hashed_password -> Text,
        full_name -> Nullable<Text>,
        role -> Text,
        is_active -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}
