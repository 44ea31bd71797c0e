//! Checks of the source code: isolated tables are only used over the connection of an organization, and only listed files use
//! the tables without policies.

use std::{collections::BTreeSet, fs};

use super::catalog::CONTROL_TABLES;
use crate::tree::{list_sources, root};

/// The files outside of `models/` that use the models of [`CONTROL_TABLES`], and of `organizations`. No policy protects these
/// tables, so most of these files limit their queries: to the organization of a checked access, to the caller's own rows, or to
/// the row of a secret token. The others work for all organizations, or use only a type or a constant of the model. Review each
/// addition with care.
const USERS_OF_CONTROL_TABLES: &[&str] = &[
    "api/admin/orgs.rs",
    "api/audit.rs",
    "api/extract/text.rs",
    "api/orgs/api_key_out.rs",
    "api/orgs/audit.rs",
    "api/orgs/invitations.rs",
    "api/orgs/members.rs",
    "api/orgs/my_invitations.rs",
    "api/orgs/org.rs",
    "api/orgs/role.rs",
    "app.rs",
    "services/api_key_access.rs",
    "services/api_key_notices.rs",
    "services/api_key_revocation.rs",
    "services/api_key_uses.rs",
    "services/api_keys.rs",
    "services/audit.rs",
    "services/housekeeping.rs",
    "services/invitation_claims.rs",
    "services/invitation_guests.rs",
    "services/invitation_link.rs",
    "services/invitations.rs",
    "services/members.rs",
    "services/org_access.rs",
    "services/org_admin.rs",
    "services/org_caller.rs",
    "services/org_erasure.rs",
    "services/org_names.rs",
    "services/org_retention.rs",
    "services/organizations.rs",
    "services/permissions.rs",
    "services/personal_orgs.rs",
    "services/user_admin.rs",
];

/// Returns the path below `src` and the code of each source file except `schema.rs`, without comments and unit tests.
fn read_sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let codes = list_sources(&src).into_iter().map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.split("#[cfg(test)]").next().unwrap().lines();
        let code = lines.map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
        (file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), code)
    });
    codes.filter(|(file, _)| file != "schema.rs").collect()
}

/// Returns whether a text contains a word that is not part of a longer word.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole =
        |at: usize| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part);
    text.match_indices(word).any(|(at, _)| is_whole(at))
}

/// Returns whether `code` uses a table, with diesel or in SQL.
fn uses_table(code: &str, table: &str) -> bool {
    let paths = [format!("schema::{table}"), format!("{table}::table"), format!("table_name = {table}")];
    let clauses = ["FROM", "JOIN", "INTO", "UPDATE"].map(|clause| format!("{clause} {table}"));
    let mut imports = code.split("use crate::schema::{").skip(1).filter_map(|rest| rest.split('}').next());
    paths.iter().chain(&clauses).any(|text| has_word(code, text))
        || imports.any(|names| has_word(names, table))
}

/// Returns the tables in `src/schema.rs` that have a column `org_id`, without the control tables.
fn isolated_tables() -> Vec<String> {
    let schema = fs::read_to_string(root().join("src/schema.rs")).unwrap();
    let tables = schema.split("diesel::table! {").skip(1).filter(|table| table.contains(" org_id -> "));
    let names = tables.map(|table| table.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| !CONTROL_TABLES.contains(&name.as_str())).collect()
}

/// Returns a message for each file outside of `models/` that uses an isolated table, and for each kind of connection without
/// an organization in a file that uses the table.
fn problems(codes: &[(String, String)], table: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (file, code) in codes.iter().filter(|(_, code)| uses_table(code, table)) {
        if !file.starts_with("models/") {
            found.push(format!("{file} uses the table {table}, which only its model may use"));
        }
        for connection in ["AsyncPgConnection", "Tx", "Db", "Guard"] {
            if has_word(code, connection) {
                found.push(format!("{file} takes {connection}: take &OrgConn, or &OrgTx to change {table}"));
            }
        }
    }
    found
}

#[test]
fn only_models_use_isolated_tables_and_only_over_the_connection_of_an_organization() {
    let (codes, tables) = (read_sources(), isolated_tables());
    assert!(tables.iter().any(|table| table == "products"), "{tables:?}");
    let found: Vec<_> = tables.iter().flat_map(|table| problems(&codes, table)).collect();
    assert!(found.is_empty(), "{found:#?}");
    for (file, code) in [
        ("models/product.rs", "use crate::schema::products;\nasync fn find(mut conn: &AsyncPgConnection) {}"),
        ("models/product.rs", "use crate::schema::{products, users};\nasync fn update(tx: &Tx<'_>) {}"),
        ("services/products.rs", "sql_query(\"DELETE FROM products\")"),
    ] {
        assert_eq!(problems(&[(file.into(), code.into())], "products").len(), 1, "{code}");
    }
}

#[test]
fn only_listed_files_enter_an_organization_or_bypass_its_policies() {
    let codes = read_sources();
    let rules: [(&str, &[&str]); 7] = [
        ("enter_org", &["db/mod.rs", "db/org_conn.rs", "services/transaction.rs"]),
        (
            "show_org",
            &["db/mod.rs", "db/org_conn.rs", "services/org_erasure.rs", "services/org_retention.rs"],
        ),
        ("app.org_id", &["db/org_conn.rs"]),
        ("SET LOCAL ROLE", &["db/org_conn.rs", "db/tenant_role.rs"]),
        ("SET ROLE", &[]),
        ("RESET ROLE", &[]),
        ("RESET ALL", &[]),
    ];
    for (text, files) in rules {
        let users = codes.iter().filter(|(_, code)| has_word(code, text)).map(|(file, _)| file.as_str());
        let users: BTreeSet<_> = users.collect();
        assert_eq!(users.into_iter().collect::<Vec<_>>(), files, "files with `{text}`");
    }
}

/// Returns the names of the models that `code` imports or uses by their path.
fn imported_models(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("models::") {
        let rest = &code[at + "models::".len()..];
        let (mut depth, mut begins) = (0, true);
        for (at, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => begins = depth == 1,
                c if begins && depth < 2 && c.is_alphabetic() => {
                    names
                        .insert(rest[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap());
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 && !begins {
                break;
            }
        }
    }
    names
}

#[test]
fn only_listed_files_use_control_tables() {
    let codes = read_sources();
    let mut models = BTreeSet::new();
    for table in CONTROL_TABLES.iter().copied().chain(["organizations"]) {
        for (file, _) in codes.iter().filter(|(_, code)| uses_table(code, table)) {
            let model = file.strip_prefix("models/").and_then(|file| file.strip_suffix(".rs"));
            models.insert(
                model.unwrap_or_else(|| panic!("{file} uses the table {table}: write a query in a model")),
            );
        }
    }
    let uses = |code: &str| imported_models(code).iter().any(|model| models.contains(model));
    let users = codes.iter().filter(|(file, code)| !file.starts_with("models/") && uses(code));
    let users: BTreeSet<_> = users.map(|(file, _)| file.as_str()).collect();
    assert_eq!(users.into_iter().collect::<Vec<_>>(), USERS_OF_CONTROL_TABLES);
}

#[test]
fn the_models_that_a_file_imports_are_found() {
    let code = "use crate::{\n app::App,\n models::{\n a::{B, C},\n d::E, f,\n },\n services::g,\n};\nfn x() { models::h::I }";
    assert_eq!(imported_models(code).into_iter().collect::<Vec<_>>(), ["a", "d", "f", "h"]);
}
