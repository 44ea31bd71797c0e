//! Rules of the source tree: imports between modules, settings, the paths in the Dockerfile, and changes without an
//! authorized actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::support::process::{run, saas};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn list_sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    own.chain(dirs.iter().flat_map(|dir| list_sources(dir))).collect()
}

/// Returns the modules of the crate that a source file imports.
fn imported_modules(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (_, after) in text.match_indices("crate::").map(|(at, found)| (at, &text[at + found.len()..])) {
        match after.strip_prefix('{') {
            None => drop(names.insert(word(after))),
            Some(group) => {
                // Collects the names at the first level of the group.
                let mut depth = 0;
                let mut begins = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && depth == 0 && c.is_alphabetic() => {
                            names.insert(word(&group[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// Reads the table in `src/lib.rs`: each module, and the modules that it may import.
fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut table = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let may = cells[2].trim_end_matches('|').split(',').map(|name| name.trim().to_owned());
        let may: BTreeSet<_> = may.filter(|name| !name.is_empty()).collect();
        let names = cells[0].split(',').map(|name| name.trim_matches([' ', '[', ']', '`']).to_owned());
        table.extend(names.map(|name| (name, may.clone())));
    }
    table
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let base = ["config", "error", "logging", "lookups", "pool", "redis_pool", "redis_servers"];
    let table = import_table();
    let modules = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = modules.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<_> = modules.filter(|name| *name != "schema" && !table.contains_key(*name)).collect();
    assert!(missing.is_empty(), "add a row to the table in src/lib.rs for {missing:?}");
    let mut found = Vec::new();
    for file in list_sources(&root().join("src")) {
        let relative = file.strip_prefix(root().join("src")).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        let Some(may) = table.get(&module).filter(|may| !may.contains("everything")) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for name in imported_modules(&text) {
            let is_base = module != "queue" && base.contains(&name.as_str());
            if name != module && !is_base && !may.contains(&name) && is_module(&name) {
                found.push(format!("{} uses {name}", relative.display()));
            }
        }
    }
    assert!(found.is_empty(), "not allowed by the table in src/lib.rs: {found:#?}");
}

fn is_module(module: &str) -> bool {
    let src = root().join("src");
    src.join(format!("{module}.rs")).exists() || src.join(module).is_dir()
}

#[test]
fn imports_in_groups_are_found() {
    let text = "use crate::{\n a::{b, c},\n d, e::f,\n};\nfn x() { crate::g::h() }";
    assert_eq!(imported_modules(text).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

/// `.env.example` has exactly the settings of `saas serve`, `saas worker` and `saas dev`.
#[tokio::test]
async fn the_example_environment_has_every_setting() {
    let mut settings = BTreeSet::new();
    for command in ["serve", "worker", "dev"] {
        let help = run(saas(&[command, "--help"])).await.succeeded().stdout;
        for entry in help.split("[env: ").skip(1) {
            settings.insert(entry.split(['=', ']']).next().unwrap().to_owned());
        }
    }
    assert!(settings.len() > 30, "{settings:?}");
    let example = fs::read_to_string(root().join(".env.example")).unwrap();
    let named: BTreeSet<_> = example
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once('='))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    assert_eq!(named, settings);
}

#[test]
fn the_paths_that_the_dockerfile_copies_exist() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "Dockerfile copies {source}, which does not exist");
        }
    }
}

/// No role or session authorizes a change without an actor. So this test lists the files of `src/services` that may make such
/// changes.
#[test]
fn only_listed_files_make_changes_without_an_actor() {
    let allowed = [
        (
            "change_without_actor(",
            vec![
                "api_key_revocation.rs",
                "invitation_guests.rs",
                "login.rs",
                "recovery.rs",
                "sessions.rs",
                "users.rs",
            ],
        ),
        (
            "change_by_job(",
            vec!["api_key_notices.rs", "housekeeping.rs", "org_erasure.rs", "org_retention.rs"],
        ),
        (".db.transaction", vec!["transaction.rs"]),
        (
            "Tx::on(",
            vec![
                "admin_password.rs",
                "admins.rs",
                "api_key_revocation.rs",
                "personal_orgs.rs",
                "transaction.rs",
            ],
        ),
        // `sessions.rs` also revokes pending login challenges, which must not outlive the sessions.
        ("Session::revoke_all(", vec!["sessions.rs"]),
    ];
    for (call, files) in allowed {
        let mut found: Vec<_> = list_sources(&root().join("src/services"))
            .into_iter()
            .filter(|file| fs::read_to_string(file).unwrap().contains(call))
            .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, files, "services that use `{call}`");
    }
}

/// A scope proves that the membership was checked. So only the file that checks the membership may create a scope.
#[test]
fn scopes_are_made_in_one_place() {
    let makes_scope = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("OrgScope::verified("))
    };
    let src = root().join("src");
    let found: Vec<_> = list_sources(&src).into_iter().filter(makes_scope).collect();
    assert_eq!(found, [src.join("services/org_access.rs")]);
}
