//! The rules, with the reason and the safe way of each. `docs/migrations.md` explains them.
//!
//! Source of the locks: PostgreSQL documentation, section 13.3, "Explicit Locking", and ALTER TABLE.

/// A rule of the linter. Most rules are about a kind of statement that is dangerous while an old and a new release run side by
/// side, or while the table is in use.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name, as in `-- lint: allow <name> because <reason>`.
    pub name: &'static str,
    /// The problem that such a statement causes.
    pub problem: &'static str,
    /// The safe way to make the same change.
    pub fix: &'static str,
}

macro_rules! rules {
    ($($constant:ident: $name:literal, $problem:literal, $fix:literal;)+) => {
        $(pub(super) const $constant: &Rule = &Rule { name: $name, problem: $problem, fix: $fix };)+

        /// All rules.
        pub const RULES: &[&Rule] = &[$($constant),+];
    };
}

rules! {
    DROP_TABLE: "drop-table",
        "the running release reads the table",
        "deploy a release that does not use it; drop the table in the next release, with a marker that says so";
    DROP_COLUMN: "drop-column",
        "the running release names the column in its queries",
        "deploy a release without the column in src/schema.rs; drop it in the next release, with a marker that says so";
    DROP_OBJECT: "drop-object",
        "the running release, a trigger or a view may use the object",
        "deploy a release that does not use it; drop the object in the next release, with a marker that says so";
    RENAME_TABLE: "rename-table",
        "the running release uses the old name",
        "rename the table only in the code (#[diesel(table_name = ..)]), or create a view with the new name";
    RENAME_COLUMN: "rename-column",
        "the running release uses the old name",
        "rename the column only in the code (#[diesel(column_name = ..)]), or add a column, write both and drop the old one in a later release";
    RENAME_OBJECT: "rename-object",
        "the running release uses the old name, for example to tell which constraint an error is about",
        "keep the name, or create a second object and drop the old one in a later release";
    COLUMN_TYPE: "column-type",
        "it rewrites the table while it is locked, and the running release expects the old type",
        "add a column of the new type, write both, fill it in batches, read it in the next release, and drop the old one after that; a marker if the types have the same form (varchar to text)";
    NOT_NULL: "not-null",
        "it reads the whole table while it is locked",
        "ADD CONSTRAINT c CHECK (x IS NOT NULL) NOT VALID; in the next migration, VALIDATE CONSTRAINT c, then SET NOT NULL, then DROP CONSTRAINT c";
    DROP_NOT_NULL: "drop-not-null",
        "the running release cannot read a row with NULL in this column",
        "deploy a release that can read NULL; the marker says that the last release can";
    DROP_DEFAULT: "drop-default",
        "inserts of the running release rely on the value that the database fills in",
        "deploy a release that writes the value; the marker says that the last release does";
    REQUIRED_COLUMN: "required-column",
        "existing rows have no value, and inserts of the running release give none",
        "add a constant DEFAULT, or add the column without NOT NULL and follow the rule not-null after both releases write it";
    VOLATILE_DEFAULT: "volatile-default",
        "a value for each row rewrites the table while it is locked",
        "add the column without it, then ALTER COLUMN .. SET DEFAULT, and fill old rows in batches in another migration";
    CREATE_INDEX: "create-index",
        "it blocks all writes to the table until the index is complete",
        "CREATE INDEX CONCURRENTLY, alone in its migration, with `run_in_transaction = false` in metadata.toml";
    DROP_INDEX: "drop-index",
        "it waits for all queries of the table and holds up the ones after them",
        "DROP INDEX CONCURRENTLY, alone in its migration, with `run_in_transaction = false` in metadata.toml";
    CONCURRENTLY: "concurrently",
        "the statement cannot run in a transaction, and statements of one script share one",
        "make it the only statement of its migration, outside of DO, with `run_in_transaction = false` in metadata.toml";
    FOREIGN_KEY: "foreign-key",
        "it blocks writes to both tables while it reads one of them",
        "ADD CONSTRAINT .. FOREIGN KEY .. NOT VALID; VALIDATE CONSTRAINT in the next migration";
    CHECK: "check",
        "it reads the whole table while it is locked",
        "ADD CONSTRAINT .. CHECK (..) NOT VALID, also for a new column; VALIDATE CONSTRAINT in the next migration";
    UNIQUE: "unique",
        "it builds an index while the table is locked",
        "CREATE UNIQUE INDEX CONCURRENTLY in a migration of its own; then ADD CONSTRAINT .. UNIQUE USING INDEX, if a constraint is needed at all";
    ROW_SECURITY: "row-security",
        "the running release sees no rows if it does not set what the policies ask for",
        "deploy a release that sets it; the marker says that the last release does";
    LOCK_TABLE: "lock-table",
        "it holds up the requests that use the table",
        "leave it out: each statement takes the lock that it needs, and the runner has a lock for migrations";
    TRUNCATE: "truncate",
        "it locks the table and deletes rows that the running release uses",
        "DELETE in batches, after a release that does not use the rows";
    REWRITE: "rewrite",
        "it copies the table or its indexes while they are locked",
        "the form with CONCURRENTLY, or outside of migrations a tool such as pg_repack";
    WHOLE_TABLE: "whole-table",
        "one transaction locks every row that it changes, and the running release waits for them",
        "a job, or batches: a DO block with LOOP, an UPDATE .. WHERE id IN (SELECT .. LIMIT 1000) and COMMIT, alone in a migration with `run_in_transaction = false`";
    ENUM_VALUE: "enum-value",
        "the value cannot be used in the transaction that adds it, and the running release cannot read it",
        "a text column with a CHECK; else alone in a migration with `run_in_transaction = false`, one release before the value is written";
    SEVERAL_TABLES: "several-tables",
        "the transaction keeps the lock of one table while it waits for another, which can be a deadlock with requests",
        "one migration for each table";
    LOCK_HELD: "lock-held",
        "it takes long, and this transaction holds the lock of an earlier ALTER TABLE, index or trigger for that time",
        "move it to the next migration";
    TRANSACTION: "transaction",
        "the runner begins and ends the transaction; what is committed before an error stays",
        "leave it out; `run_in_transaction = false` in metadata.toml turns the transaction off";
    MARKER: "marker",
        "this marker is not needed or incomplete: the statement does not break one of its rules, or the rule or the reason is missing",
        "write `-- lint: allow drop-column because the last release does not use it` directly before the statement, or delete it";
}
