//! The linter for migrations. The migrations of this release pass it.

use std::{fs, path::Path};

use saas::db::migrations::{Migrations, lint::RULES};

use crate::support::{
    migrations::Folder,
    process::{run, saas},
};

/// Returns the lines that break a rule and the names of the rules, such as `2 drop-table`.
fn lint(up: &str, in_transaction: bool) -> Vec<String> {
    let folder = Folder::new(&[["2099-01-01-000000_first", up, ""]]);
    if !in_transaction {
        folder.write("2099-01-01-000000_first/metadata.toml", "run_in_transaction = false");
    }
    broken_rules(&folder.migrations(), false)
}

fn broken_rules(migrations: &Migrations, all: bool) -> Vec<String> {
    let findings = migrations.lint(all).findings;
    findings.iter().map(|finding| format!("{} {}", finding.line, finding.rule.name)).collect()
}

#[track_caller]
fn assert_rules(cases: &[(&str, &[&str])], in_transaction: bool) {
    for (up, expected) in cases {
        assert_eq!(lint(up, in_transaction), *expected, "{up}");
    }
}

/// The previous release must keep working after a new migration. See docs/migrations.md.
#[test]
fn the_migrations_are_safe_beside_the_last_release() {
    let migrations = Migrations::embedded();
    let found: Vec<_> = migrations
        .lint(false)
        .findings
        .iter()
        .map(|found| {
            format!(
                "{}: line {}: {}. Instead: {}",
                found.migration, found.line, found.rule.problem, found.rule.fix
            )
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    // The migrations of release 0.1.0 would not pass, which shows that the linter reads them.
    assert!(broken_rules(&migrations, true).len() > 10);
    assert_eq!(migrations.lint(true).checked, migrations.names().count());
}

#[test]
fn every_rule_is_documented() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrations.md")).unwrap();
    for rule in RULES {
        assert!(
            guide.contains(&format!("| `{}` |", rule.name)),
            "docs/migrations.md has no row for {}",
            rule.name
        );
    }
}

#[test]
fn statements_that_break_the_running_release_are_found() {
    assert_rules(
        &[
            ("-- DROP TABLE users\nSELECT 'DROP TABLE users', $$;DROP TABLE users$$, \"drop\" FROM t;", &[]),
            ("DROP TABLE IF EXISTS public.users", &["1 drop-table"]),
            ("drop\n/* a /* b */ */ table users CASCADE;", &["1 drop-table"]),
            ("ALTER TABLE users\n    ADD y INT,\n    DROP COLUMN IF EXISTS x;", &["3 drop-column"]),
            ("ALTER TABLE ONLY \"users\" DROP x", &["1 drop-column"]),
            ("ALTER TABLE users DROP CONSTRAINT c", &[]),
            ("ALTER TABLE users RENAME x TO y", &["1 rename-column"]),
            ("ALTER TABLE IF EXISTS users RENAME TO people", &["1 rename-table"]),
            ("ALTER TABLE users SET SCHEMA other", &["1 rename-table"]),
            ("ALTER TABLE users RENAME CONSTRAINT a TO b", &["1 rename-object"]),
            ("ALTER INDEX users_email_key RENAME TO x", &["1 rename-object"]),
            ("ALTER FUNCTION f(int) RENAME TO g", &["1 rename-object"]),
            ("ALTER TABLE users ALTER x TYPE BIGINT, ALTER COLUMN y SET DATA TYPE text", &["1 column-type"]),
            ("ALTER TABLE users ALTER x DROP NOT NULL", &["1 drop-not-null"]),
            ("ALTER TABLE users ALTER x DROP DEFAULT", &["1 drop-default"]),
            ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", &["1 row-security"]),
            ("SELECT tenant_table('users');", &["1 row-security"]),
            ("CREATE TABLE a (org_id BIGINT);\nSELECT tenant_table('a');", &[]),
            ("DROP VIEW v", &["1 drop-object"]),
            ("DROP FUNCTION f(int), g", &["1 drop-object"]),
            ("DROP FUNCTION f(int);\nCREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';", &[]),
            ("ALTER TYPE t RENAME VALUE 'a' TO 'b'", &["1 rename-object"]),
            ("ALTER TABLE users ADD x INT NOT NULL", &["1 required-column"]),
            ("GRANT UPDATE ON users TO x; COMMENT ON TABLE users IS 'DELETE FROM users'", &[]),
        ],
        true,
    );
}

#[test]
fn statements_that_lock_a_table_for_long_are_found() {
    assert_rules(
        &[
            ("ALTER TABLE users ADD x TEXT, ADD COLUMN y TIMESTAMPTZ NOT NULL DEFAULT now()", &[]),
            ("ALTER TABLE users ADD x UUID DEFAULT gen_random_uuid()", &["1 volatile-default"]),
            ("ALTER TABLE users ADD x TEXT CHECK (x > '')", &["1 check"]),
            ("ALTER TABLE users ADD x TEXT UNIQUE", &["1 unique"]),
            ("ALTER TABLE users ADD check_in DATE", &[]),
            ("ALTER TABLE users ALTER x SET NOT NULL", &["1 not-null"]),
            ("CREATE INDEX ON users (a)", &["1 create-index"]),
            ("CREATE UNIQUE INDEX IF NOT EXISTS i\n    ON users USING btree (a)", &["1 create-index"]),
            ("CREATE INDEX i ON ONLY users (a)", &[]),
            ("DROP INDEX i", &["1 drop-index"]),
            ("ALTER TABLE users ADD FOREIGN KEY (a) REFERENCES t (id)", &["1 foreign-key"]),
            ("ALTER TABLE users ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES t NOT VALID", &[]),
            ("ALTER TABLE users ADD CONSTRAINT c CHECK (a > 0)", &["1 check"]),
            ("ALTER TABLE users ADD CHECK (a > 0) NOT VALID", &[]),
            ("ALTER TABLE users ADD CONSTRAINT c UNIQUE (a)", &["1 unique"]),
            ("ALTER TABLE users ADD PRIMARY KEY USING INDEX i", &[]),
            ("ALTER TABLE users ADD EXCLUDE USING gist (a WITH =)", &["1 unique"]),
            ("LOCK TABLE users IN SHARE MODE", &["1 lock-table"]),
            ("TRUNCATE TABLE ONLY users", &["1 truncate"]),
            ("VACUUM FULL users", &["1 concurrently", "1 rewrite"]),
            ("CLUSTER users USING i", &["1 rewrite"]),
            ("REINDEX TABLE users", &["1 rewrite"]),
            ("REFRESH MATERIALIZED VIEW v", &["1 rewrite"]),
            ("ALTER TABLE users SET UNLOGGED", &["1 rewrite"]),
            ("ALTER TABLE users SET (fillfactor = 70)", &[]),
            ("ALTER TABLE a ADD x INT;\nALTER TABLE a ADD y INT;\nALTER TABLE b ADD x INT;", &["3 several-tables"]),
            ("ALTER TABLE a ADD x INT;\nUPDATE a SET x = 1 WHERE id = 1;", &["2 lock-held"]),
            (
                "ALTER TABLE a ADD CONSTRAINT c CHECK (x > 0) NOT VALID;\nALTER TABLE a VALIDATE CONSTRAINT c;",
                &["2 lock-held"],
            ),
            ("ALTER TABLE a ADD CONSTRAINT c CHECK (x > 0) NOT VALID,\n    VALIDATE CONSTRAINT c;", &["2 lock-held"]),
            ("ALTER TABLE a VALIDATE CONSTRAINT c; ALTER TABLE a ALTER x SET STATISTICS 9;", &[]),
            // The rules do not apply to a table that the script creates.
            (
                "CREATE TABLE t (a INT); CREATE INDEX i ON t (a); ALTER TABLE t ADD UNIQUE (a), ALTER a SET NOT NULL;
                 CREATE TABLE u (a INT REFERENCES t); UPDATE public.t SET a = 1; TRUNCATE t, u; DROP INDEX i; DROP TABLE t;",
                &[],
            ),
            ("CREATE TABLE IF NOT EXISTS users ();\nCREATE INDEX i ON users (a);", &["2 create-index"]),
            ("CREATE TABLE t ();\nTRUNCATE t, users;", &["2 truncate"]),
        ],
        true,
    );
}

#[test]
fn statements_that_change_all_rows_at_once_are_found() {
    assert_rules(
        &[
            ("UPDATE users SET a = 1", &["1 whole-table"]),
            ("UPDATE users SET a = (SELECT b FROM t WHERE t.id = 1)", &["1 whole-table"]),
            ("DELETE FROM ONLY users WHERE a IS NOT NULL", &["1 whole-table"]),
            ("DELETE FROM users WHERE 1 = 1", &["1 whole-table"]),
            ("UPDATE users SET a = 1 WHERE role <> 'x'", &["1 whole-table"]),
            ("UPDATE users u SET a = t.a FROM t WHERE t.id = u.id", &["1 whole-table"]),
            (
                "WITH d AS (DELETE FROM users RETURNING *)\nINSERT INTO old SELECT * FROM d WHERE id = 1",
                &["1 whole-table"],
            ),
            (
                "MERGE INTO users u USING t ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = 1",
                &["1 whole-table"],
            ),
            ("UPDATE users SET a = 1 WHERE email = 'x'", &[]),
            ("DELETE FROM users WHERE id IN (SELECT id FROM users WHERE a IS NULL LIMIT 1000)", &[]),
            ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; SELECT 1 FROM t FOR UPDATE", &[]),
        ],
        true,
    );
    let batches = "DO $$ BEGIN LOOP
            UPDATE users SET a = 1 WHERE id IN (SELECT id FROM users WHERE a IS NULL LIMIT 1000);
            EXIT WHEN NOT FOUND;
            COMMIT;
        END LOOP; END $$;";
    assert_rules(&[(batches, &[])], false);
    assert_rules(&[(batches, &["2 whole-table", "4 transaction"])], true);
    assert_rules(&[(&batches.replace("COMMIT;", ""), &["2 whole-table"])], false);
}

#[test]
fn a_statement_that_cannot_run_in_a_transaction_must_be_alone() {
    let index = "CREATE INDEX CONCURRENTLY i ON users (a);";
    let value = "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'x';";
    assert_rules(
        &[
            (index, &["1 concurrently"]),
            (value, &["1 enum-value"]),
            ("DROP INDEX CONCURRENTLY i", &["1 concurrently"]),
            ("REINDEX INDEX CONCURRENTLY i", &["1 concurrently"]),
            ("BEGIN;\nSELECT 1;\nCOMMIT;", &["1 transaction", "3 transaction"]),
            ("SAVEPOINT a; ROLLBACK TO a", &[]),
        ],
        true,
    );
    assert_rules(
        &[
            (index, &[]),
            (value, &[]),
            ("-- why\nDROP INDEX CONCURRENTLY i", &[]),
            ("VACUUM users", &[]),
            (&format!("SET lock_timeout = 0;\n{index}"), &["2 concurrently"]),
            (&format!("DO $$ BEGIN {index} END $$"), &["1 concurrently"]),
        ],
        false,
    );
}

#[test]
fn statements_in_do_blocks_and_executed_strings_are_found() {
    assert_rules(
        &[
            ("DO $$\nBEGIN\n    IF true THEN DROP TABLE users; END IF;\nEND $$", &["3 drop-table"]),
            (
                "DO LANGUAGE 'plpgsql' $x$ BEGIN UPDATE users SET a = CASE WHEN b THEN 1 ELSE 2 END; END $x$",
                &["1 whole-table"],
            ),
            (
                "DO $$ BEGIN\n    EXECUTE format('ALTER TABLE %I DROP COLUMN x', 'users');\nEND $$",
                &["2 drop-column"],
            ),
            (
                "DO $$ DECLARE sql TEXT := 'DROP ' || 'TABLE users'; BEGIN EXECUTE sql; END $$",
                &["1 drop-table"],
            ),
            (
                "DO $$ BEGIN FOR r IN EXECUTE E'DELETE\\nFROM users' LOOP NULL; END LOOP; END $$",
                &["1 whole-table"],
            ),
            ("DO $$ BEGIN RAISE NOTICE 'DROP TABLE users'; END $$", &[]),
            // The linter ignores the body of a function, because the migration only creates the function.
            ("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; END $$", &[]),
            (
                "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC DELETE FROM users; END;\nDROP TABLE users;",
                &["2 drop-table"],
            ),
        ],
        true,
    );
}

#[test]
fn a_marker_with_a_reason_allows_one_statement() {
    let drop = "ALTER TABLE users DROP COLUMN x;";
    let allow = "lint: allow drop-column because no release reads it";
    assert_rules(
        &[
            (&format!("-- {allow}\n-- any more.\n{drop}"), &[]),
            (&format!("{drop} -- {allow}\nSELECT 1;"), &[]),
            (&format!("ALTER TABLE users\n    /* {allow} */\n    DROP COLUMN x"), &[]),
            (&format!("-- {allow}\nDO $$ BEGIN {drop} END $$"), &[]),
            (&format!("-- {allow}\n{drop}\n{drop}"), &["3 drop-column"]),
            (&format!("-- {allow}\nSELECT 1;\n{drop}"), &["1 marker", "3 drop-column"]),
            (&format!("{drop}\n-- {allow}"), &["1 drop-column", "2 marker"]),
            (&format!("-- lint: allow drop-column\n{drop}"), &["1 marker", "2 drop-column"]),
            (&format!("-- lint: allow drop-column because \n{drop}"), &["1 marker", "2 drop-column"]),
            (&format!("-- lint: allow drop-colum because x\n{drop}"), &["1 marker", "2 drop-column"]),
            (&format!("-- lint: allow drop-column, not-null because x\n{drop}"), &["1 marker"]),
        ],
        true,
    );
}

/// SET NOT NULL does not read the table if a valid constraint proves that there is no NULL.
#[test]
fn a_valid_constraint_allows_set_not_null() {
    let add = "ALTER TABLE users ADD CONSTRAINT c CHECK (x IS NOT NULL) NOT VALID";
    let validate = "ALTER TABLE users VALIDATE CONSTRAINT c";
    let set = "ALTER TABLE users ALTER COLUMN x SET NOT NULL";
    let drop = "ALTER TABLE users DROP CONSTRAINT c";
    let rules = |second: String| {
        let folder = Folder::new(&[["2099-01-01-000000_a", add, ""], ["2099-01-02-000000_b", &second, ""]]);
        broken_rules(&folder.migrations(), false)
    };
    assert_eq!(rules(format!("{validate};\n{set};\n{drop};")), [""; 0]);
    assert_eq!(rules(set.into()), ["1 not-null"]);
    assert_eq!(rules(format!("{validate};\n{drop};\n{set};")), ["3 not-null"]);
    // PostgreSQL drops the constraint before it sets NOT NULL.
    assert_eq!(rules(format!("{validate};\n{set}, DROP CONSTRAINT c;")), ["2 not-null"]);
    assert_eq!(rules(format!("{validate};\n{};", set.replace('x', "y"))), ["2 not-null"]);
    for (condition, is_proof) in [
        ("((x IS NOT NULL))", true),
        ("((x IS NOT NULL) OR (y IS NOT NULL))", false),
        ("(((x IS NOT NULL)) OR y)", false),
        ("(x IS NOT NULL OR y)", false),
    ] {
        let add = add.replace("(x IS NOT NULL)", condition);
        let second = format!("{validate};\n{set};\n{drop};");
        let folder = Folder::new(&[["2099-01-01-000000_a", &add, ""], ["2099-01-02-000000_b", &second, ""]]);
        let expected: &[&str] = if is_proof { &[] } else { &["2 not-null"] };
        assert_eq!(broken_rules(&folder.migrations(), false), expected, "{condition}");
    }
    // An older migration, which the linter does not check, may have added the constraint.
    let folder = Folder::new(&[
        ["2020-01-01-000000_a", &format!("{add}; {validate};"), ""],
        ["2099-01-01-000000_b", set, ""],
    ]);
    assert_eq!(broken_rules(&folder.migrations(), false), [""; 0]);
    assert_eq!(broken_rules(&folder.migrations(), true), ["1 lock-held"]);
}

#[tokio::test]
async fn migrate_lint_prints_the_line_and_the_safe_way() {
    let folder = Folder::new(&[["2020-01-01-000000_old", "DROP TABLE a;", ""]]);
    let lint = |args: &[&str]| run(saas(&[&["migrate", "lint", "--dir", folder.path()], args].concat()));
    assert!(lint(&[]).await.succeeded().stdout.contains("checked 0 migrations: nothing to change"));
    folder.write("2099-01-01-000000_new/up.sql", "SELECT 1;\n\nALTER TABLE users\n    DROP COLUMN x;\n");
    let found = lint(&[]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    for words in [
        "2099-01-01-000000_new/up.sql:4: drop-column\n    DROP COLUMN x;",
        "Instead: deploy",
        "checked 1 migrations: 1 to change",
    ] {
        assert!(found.stdout.contains(words), "{words:?} is not in {}", found.stdout);
    }
    let all = lint(&["--all"]).await.stdout;
    assert!(all.contains("2020-01-01-000000_old/up.sql:1: drop-table"), "{all}");
    run(saas(&["migrate", "lint", "--dir", "/nowhere/at/all"])).await.failed(1, &["/nowhere/at/all"]);
}
