//! `saas migrate` as a command: confirmations, new migrations, src/schema.rs and `scripts/migrate`.

use std::{fs, path::Path, process::Command};

use saas::db::migrations::{Migrations, State};

use crate::support::{
    migrations::{Folder, migrate, states},
    process::{TempDir, run, saas},
    servers::TestDatabase,
};

#[tokio::test]
async fn nothing_is_reverted_without_a_confirmation() {
    let database = TestDatabase::migrated().await;
    let all = states(&Migrations::embedded(), &database).await;
    let newest = Migrations::embedded().names().last().unwrap().to_owned();
    let (first, newest, count) = ("2026-11-22-000000_users", newest.as_str(), all.len().to_string());
    for args in [&["down"][..], &["redo"], &["down", "-n", "2"], &["down", "-n", count.as_str()]] {
        run(migrate(&database, args)).await.failed(1, &[newest, "--yes", "with the data"]);
    }
    let every = run(migrate(&database, &["down", "-n", count.as_str()])).await.failed(1, &["--yes"]);
    assert!(every.stderr.contains(first), "{every:?}");
    // With `DEBUG`, `saas migrate` reverts one migration without `--yes`, but not several.
    let debug = |args: &[&str]| {
        let mut command = migrate(&database, args);
        command.env("DEBUG", "true");
        command
    };
    run(debug(&["down", "-n", "2"])).await.failed(1, &["--yes"]);
    assert_eq!(states(&Migrations::embedded(), &database).await, all);
    let more = (all.len() + 1).to_string();
    let has = format!("the database has {count} applied ones");
    run(debug(&["down", "-n", more.as_str(), "--yes"])).await.failed(1, &[has.as_str()]);
    assert_eq!(states(&Migrations::embedded(), &database).await, all);
    run(debug(&["redo"])).await.succeeded();
    assert!(run(debug(&["down"])).await.succeeded().stdout.contains(&format!("reverted {newest}")));
    let yes = run(migrate(&database, &["down", "-n", "2", "--yes"])).await.succeeded();
    assert_eq!(yes.stdout.lines().count(), 2);
    let states = states(&Migrations::embedded(), &database).await;
    assert_eq!(states.iter().filter(|state| **state == State::Pending).count(), 3);
}

#[tokio::test]
async fn migrate_new_creates_up_sql_and_down_sql() {
    let dir = TempDir::new();
    let folder = dir.path().to_str().unwrap().to_owned();
    let new = |description: &str| run(saas(&["migrate", "new", description, "--dir", &folder]));
    let made = new("Add products!\nDROP TABLE users;").await.succeeded();
    let files: Vec<_> = made.stdout.lines().map(Path::new).collect();
    assert_eq!(files.len(), 2);
    for (file, name) in files.iter().zip(["up.sql", "down.sql"]) {
        assert!(file.ends_with(name));
        let text = fs::read_to_string(file).unwrap();
        assert!(text.lines().all(|line| line.starts_with("--")), "{text}");
    }
    assert!(made.stderr.contains("./scripts/migrate schema"), "{made:?}");
    new("!!").await.failed(1, &["description"]);
    new(&"word ".repeat(60)).await.failed(1, &["too long"]);
    new("add products, drop table users")
        .await
        .failed(1, &["with this name", "_add_products_drop_table_users"]);
    run(saas(&["migrate", "new", "x", "--dir", "/nowhere/at/all"]))
        .await
        .failed(1, &["/nowhere/at/all", "--dir"]);

    // A new migration sorts after all others, even after one with a date in the future.
    new("second").await.succeeded();
    fs::create_dir(dir.path().join("2099-01-01-000000_future")).unwrap();
    fs::write(dir.path().join("2099-01-01-000000_future/up.sql"), "SELECT 1;").unwrap();
    for name in ["third", "fourth"] {
        new(name).await.succeeded();
    }
    let all = Migrations::in_directory(dir.path()).unwrap();
    let embedded = Migrations::embedded();
    let names: Vec<_> = all.names().collect();
    assert!(names[0] > embedded.names().last().unwrap(), "{names:?}");
    let order: Vec<_> = names.iter().map(|name| name.split_once('_').unwrap().1).collect();
    assert_eq!(order, ["add_products_drop_table_users", "second", "future", "third", "fourth"]);
}

#[tokio::test]
async fn migrate_schema_needs_only_the_migrations() {
    let folder = Folder::new(&[[
        "1_products",
        "CREATE TABLE products (id BIGINT PRIMARY KEY, type TEXT NOT NULL, tags TEXT[]);
         CREATE VIEW names AS SELECT id FROM products;",
        "",
    ]]);
    let out = format!("{}/schema.rs", folder.path());
    let schema = || run(saas(&["migrate", "schema", "--dir", folder.path(), "--out", &out]));
    schema().await.succeeded();
    let text = fs::read_to_string(&out).unwrap();
    let table = "diesel::table! {\n    products (id) {\n        id -> Int8,\n        #[sql_name = \"type\"]\n        \
                 type_ -> Text,\n        tags -> Nullable<Array<Nullable<Text>>>,\n    }\n}\n";
    assert!(text.ends_with(table), "{text}");
    assert!(schema().await.succeeded().stdout.contains("up to date"));
    folder.write("2_keyless/up.sql", "CREATE TABLE keyless (id INT);");
    schema().await.failed(1, &["keyless", "primary key"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), text);

    // If the temporary PostgreSQL server cannot start, its directory is removed. Here the process cannot write to files: without
    // the `trap`, the first write would kill it.
    let temp = TempDir::new();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_saas")])
        .args(["migrate", "schema", "--dir", folder.path(), "--out", &out])
        .env("TMPDIR", temp.path());
    run(command).await.failed(1, &["File too large"]);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

/// A developer may use a new table in the code before src/schema.rs has it. The code then does not compile, but the
/// migration must still run.
#[tokio::test]
async fn the_script_migrate_uses_the_last_binary_if_the_code_does_not_compile() {
    let dir = TempDir::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/migrate");
    // A shell writes the fake programs. If this process wrote them, a child that it starts at the same time could inherit
    // the open file, and a program that is open for writing cannot be run (ETXTBSY).
    let set_up = async |text: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", text]).current_dir(dir.path()).env("SCRIPT", &script);
        run(shell).await.succeeded();
    };
    let program =
        |path: &str, body: &str| format!("printf '#!/bin/sh\\n%s\\n' '{body}' > {path}; chmod +x {path}; ");
    let files = "mkdir -p bin scripts target/debug; cp \"$SCRIPT\" scripts/; ".to_owned()
        + &program("bin/cargo", "echo \"error[E0432]: unresolved import\" >&2; exit 101")
        + &program("scripts/ensure-toolchain", "exit 0")
        + &program("scripts/ensure-servers", "exit 0");
    set_up(&files).await;
    let path = format!("{}/bin:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let migrate = |args: &[&str]| {
        let mut command = Command::new(dir.path().join("scripts/migrate"));
        command.args(args).env("PATH", &path).env_remove("CARGO_TARGET_DIR");
        run(command)
    };
    migrate(&["schema"]).await.failed(1, &["E0432", "does not compile", "no binary of an earlier build"]);

    set_up(&program("target/debug/saas", "echo \"$@\"")).await;
    let cases: [(&[&str], &str); 6] = [
        (&["schema"], "migrate schema --dir migrations"),
        (&["new", "add products"], "migrate new add products --dir migrations"),
        (&["down", "-n", "2"], "migrate down -n 2 --dir migrations"),
        (&["up", "--dir", "other"], "migrate up --dir other"),
        (&["--help"], "migrate --help"),
        (&[], "migrate"),
    ];
    for (args, expected) in cases {
        let ran = migrate(args).await.succeeded();
        assert_eq!(ran.stdout.trim(), expected);
        assert!(ran.stderr.contains("does not compile") && !ran.stderr.contains("E0432"), "{ran:?}");
    }
    set_up(&program("bin/cargo", "exit 0")).await;
    assert_eq!(migrate(&["up"]).await.succeeded().stderr, "");
}
