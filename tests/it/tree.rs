//! The tree keeps its own rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::support::process::{run, saas};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let own = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    own.chain(dirs.iter().flat_map(|dir| sources(dir))).collect()
}

/// The modules of the crate that a source file names.
fn used(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (_, after) in text.match_indices("crate::").map(|(at, found)| (at, &text[at + found.len()..])) {
        match after.strip_prefix('{') {
            None => drop(names.insert(word(after))),
            Some(group) => {
                // The names at the first level of the group.
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

/// The table in `lib.rs`, held.
#[test]
fn modules_use_only_what_they_may() {
    let ground = ["error", "telemetry", "config", "pool", "redis_pool"];
    let may: BTreeMap<&str, Vec<&str>> = [
        ("api", vec!["services", "models", "jobs", "queue", "app", "db", "security"]),
        ("services", vec!["models", "security", "app", "cache", "db", "mail"]),
        ("jobs", vec!["services", "models", "app", "mail", "queue"]),
        ("queue", vec![]),
        ("models", vec!["schema"]),
        ("app", vec!["cache", "db", "queue", "mail", "security"]),
        ("cache", vec!["db", "security"]),
        ("db", vec![]),
        ("mail", vec![]),
        ("security", vec![]),
        ("dev", vec![]),
    ]
    .into();
    let mut found = Vec::new();
    for file in sources(&root().join("src")) {
        let relative = file.strip_prefix(root().join("src")).unwrap();
        let module = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let Some(allowed) = may.get(module.as_str()) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for name in used(&text) {
            let fine = name == module || ground.contains(&name.as_str()) || allowed.contains(&name.as_str());
            if !fine && sources_have(&name) {
                found.push(format!("{} uses {name}", relative.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The job engine can be taken out of this product as it is.
#[test]
fn the_job_engine_uses_nothing_of_the_product() {
    for file in sources(&root().join("src/queue")) {
        let mut names = used(&fs::read_to_string(&file).unwrap());
        names.remove("queue");
        assert!(names.is_empty(), "{} uses {names:?}", file.display());
    }
}

fn sources_have(module: &str) -> bool {
    let src = root().join("src");
    src.join(format!("{module}.rs")).exists() || src.join(module).is_dir()
}

#[test]
fn the_reader_of_imports_sees_groups() {
    let text = "use crate::{\n a::{b, c},\n d, e::f,\n};\nfn x() { crate::g::h() }";
    assert_eq!(used(text).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

/// Every setting is in `.env.example`, and nothing else is.
#[tokio::test]
async fn the_example_environment_is_in_step() {
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
fn what_the_container_files_name_exists() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "Dockerfile copies {source}, which is not there");
        }
    }
}
