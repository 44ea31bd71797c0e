//! The text of `src/schema.rs`, from the catalog of a database.

use anyhow::Context;
use diesel::{
    QueryableByName,
    sql_types::{Bool, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

const HEADER: &str = "\
// The tables as diesel sees them, generated from the migrations by `./scripts/migrate schema`. A test compares them.
";

const COLUMNS: &str = "
SELECT c.relname::text AS table_name, a.attname::text AS column_name, t.typname::text AS type_name,
       NOT a.attnotnull AS is_nullable,
       (SELECT string_agg(k.attname, ', ' ORDER BY array_position(i.indkey::int2[], k.attnum))
        FROM pg_index i JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary) AS primary_key
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND c.relname <> '__diesel_schema_migrations'
ORDER BY c.relname COLLATE \"C\", a.attnum";

/// Keywords of Rust. The Rust name of a column with such a name ends with an underscore.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    type_name: String,
    #[diesel(sql_type = Bool)]
    is_nullable: bool,
    /// The columns of the primary key, separated by commas. `None` if the table has no primary key.
    #[diesel(sql_type = Nullable<Text>)]
    primary_key: Option<String>,
}

/// Returns the text of `src/schema.rs` for the tables in the schema `public`.
///
/// # Errors
/// If the query fails, for example because PostgreSQL does not answer, or if a table has no primary key, which diesel requires.
pub async fn schema_file(mut conn: &AsyncPgConnection) -> anyhow::Result<String> {
    let columns: Vec<Column> = diesel::sql_query(COLUMNS).load(&mut conn).await?;
    let mut text = HEADER.to_owned();
    let mut names = Vec::new();
    for table in columns.chunk_by(|one, next| one.table_name == next.table_name) {
        let name = &table[0].table_name;
        let key = table[0]
            .primary_key
            .as_deref()
            .with_context(|| format!("the table {name} has no primary key, which diesel requires"))?;
        let columns: String = table.iter().map(column_line).collect();
        text += &format!("\ndiesel::table! {{\n    {name} ({key}) {{\n{columns}    }}\n}}\n");
        names.push(name.as_str());
    }
    if names.len() > 1 {
        // Braces instead of parentheses, because rustfmt does not reformat a macro call with braces.
        let names = names.join(",\n    ");
        text += &format!("\ndiesel::allow_tables_to_appear_in_same_query! {{\n    {names},\n}}\n");
    }
    Ok(text)
}

/// Returns the line of a column in `diesel::table!`.
fn column_line(column: &Column) -> String {
    let Column { column_name: name, type_name, is_nullable, .. } = column;
    let kind = match type_name.strip_prefix('_') {
        Some(item) => format!("Array<Nullable<{}>>", capitalized(item)),
        None => capitalized(type_name),
    };
    let kind = if *is_nullable { format!("Nullable<{kind}>") } else { kind };
    match KEYWORDS.contains(&name.as_str()) {
        true => format!("        #[sql_name = \"{name}\"]\n        {name}_ -> {kind},\n"),
        false => format!("        {name} -> {kind},\n"),
    }
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
