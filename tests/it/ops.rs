//! The Kubernetes manifest, the systemd units and the proxy configurations in `ops/`, and the guide `docs/deployment.md`,
//! match the commands, settings, API paths and time limits of the product. `scripts/check-ops` checks the syntax of these
//! files in `ops/`.

use std::{collections::BTreeMap, fs, path::Path};

use clap::CommandFactory;
use saas::cli::Cli;
use serde_json::Value;

const KUBERNETES: &str = "ops/kubernetes.yaml";
const UNITS: [&str; 3] =
    ["ops/systemd/saas-api@.service", "ops/systemd/saas-worker@.service", "ops/systemd/saas-migrate.service"];
const PROXIES: [&str; 2] = ["ops/nginx.conf", "ops/haproxy.cfg"];
const GUIDE: &str = "docs/deployment.md";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the path and the text of these files in `ops/`: the Kubernetes manifest, the units and the proxies.
fn list_ops() -> Vec<(&'static str, String)> {
    [KUBERNETES].into_iter().chain(UNITS).chain(PROXIES).map(|path| (path, read(path))).collect()
}

/// Returns the arguments of each call of `saas` in lines of shell commands or systemd units.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        // A semicolon and a closing parenthesis end a command as a pipe does.
        let line = line.replace([';', ')'], " | ").replace("%i", "1");
        let words: Vec<_> = line.split_whitespace().collect();
        for (at, word) in words.iter().enumerate() {
            let is_call = word.strip_suffix("saas").is_some_and(|before| {
                before.is_empty() || before.ends_with('(') || before.ends_with("/bin/")
            });
            let args: Vec<_> = words[at + 1..]
                .iter()
                .take_while(|arg| !arg.starts_with(['|', '&', '>', '#']))
                .map(|arg| (*arg).to_owned())
                .collect();
            // In other places, `saas` is the name of a role or a secret.
            if is_call && args.first().is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
            {
                calls.push(args);
            }
        }
    }
    calls
}

/// Returns the command lines of a manifest: the lists in brackets after `args` or `command`.
fn manifest_calls(manifest: &str) -> Vec<Vec<String>> {
    let lists = manifest.lines().filter_map(|line| {
        let (_, list) = line.split_once("args: [").or_else(|| line.split_once("command: [saas, "))?;
        list.split_once(']')
    });
    lists.map(|(list, _)| list.split(", ").map(str::to_owned).collect()).collect()
}

#[test]
fn all_saas_commands_in_ops_and_the_deployment_guide_exist() {
    // Text between two backticks or two groups of three backticks is code.
    let guide = read(GUIDE);
    let code: Vec<_> = guide.split('`').skip(1).step_by(2).collect();
    let mut found: Vec<_> = calls(&code.join("\n"));
    assert!(found.len() > 15, "{found:?}");
    found.extend(UNITS.iter().flat_map(|path| calls(&read(path))));
    let in_manifest = manifest_calls(&read(KUBERNETES));
    assert_eq!(in_manifest.len(), 6, "{in_manifest:?}");
    found.extend(in_manifest);
    for args in found {
        let given = ["saas".to_owned()].into_iter().chain(args.clone());
        let parsed = Cli::command().try_get_matches_from(given);
        assert!(parsed.is_ok(), "saas {}: {}", args.join(" "), parsed.unwrap_err());
    }
}

/// Adds the settings of a command and its subcommands to `found`, with their defaults.
fn collect_settings(command: &clap::Command, found: &mut BTreeMap<String, String>) {
    for arg in command.get_arguments() {
        if let Some(name) = arg.get_env().and_then(|name| name.to_str()) {
            let default = arg.get_default_values().first().and_then(|value| value.to_str());
            found.insert(name.to_owned(), default.unwrap_or_default().to_owned());
        }
    }
    command.get_subcommands().for_each(|subcommand| collect_settings(subcommand, found));
}

fn all_settings() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect_settings(&Cli::command(), &mut found);
    found
}

#[test]
fn all_settings_in_ops_and_the_deployment_guide_exist() {
    let settings = all_settings();
    // Settings of `redis-cli`, Compose and `scripts/deploy`, and the families of addresses in systemd.
    let others = ["REDISCLI_AUTH", "COMPOSE_PROFILES", "SAAS_IMAGE", "AF_INET", "AF_INET6", "AF_UNIX"];
    let mut count = 0;
    for (path, text) in list_ops().into_iter().chain([(GUIDE, read(GUIDE))]) {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let is_name = |word: &&str| {
            word.contains('_')
                && word.starts_with(|c: char| c.is_ascii_uppercase())
                && !word.contains(|c: char| c.is_ascii_lowercase())
        };
        for name in words.filter(is_name).filter(|name| !others.contains(name)) {
            let setting = name.strip_suffix("_FILE").unwrap_or(name);
            assert!(settings.contains_key(setting), "{path} names {name}, which is not a setting");
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn all_api_paths_in_ops_and_the_deployment_guide_exist() {
    let document: Value = serde_json::from_str(&read("tests/it/openapi.json")).unwrap();
    let mut count = 0;
    for (path, text) in list_ops().into_iter().chain([(GUIDE, read(GUIDE))]) {
        for (at, _) in text.match_indices("/api/v1/") {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
            let end = text[at..].find(|c: char| !is_part(c)).map_or(text.len(), |length| at + length);
            let found = &text[at..end];
            assert!(document["paths"].get(found).is_some(), "{path} requests {found}, which does not exist");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

/// Returns the numbers that follow a key, in quotes or not.
fn numbers(text: &str, key: &str) -> Vec<u64> {
    let after = text.match_indices(key).map(|(at, _)| text[at + key.len()..].trim_start_matches('"'));
    after.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

/// If an orchestrator kills a process too early, requests are dropped and jobs run again.
#[test]
fn a_process_has_enough_time_to_stop() {
    let settings = all_settings();
    let default = |name: &str| settings[name].parse::<u64>().unwrap();
    let worker = default("WORKER_SHUTDOWN_GRACE_SECONDS");
    let api = |delays: Vec<u64>| delays.into_iter().max().unwrap() + default("SHUTDOWN_TIMEOUT_SECONDS");

    let manifest = read(KUBERNETES);
    let limits = numbers(&manifest, "terminationGracePeriodSeconds: ");
    assert_eq!(limits.len(), 2, "{limits:?}");
    let needed = worker.max(api(numbers(&manifest, "SHUTDOWN_DELAY_SECONDS: ")));
    assert!(limits.iter().all(|limit| *limit > needed), "{limits:?} are not more than {needed}");

    let needed = worker.max(api(numbers(&read(GUIDE), "SHUTDOWN_DELAY_SECONDS=")));
    for path in &UNITS[..2] {
        let unit = read(path);
        assert!(
            numbers(&unit, "TimeoutStopSec=")[0] > needed,
            "TimeoutStopSec of {path} is not more than {needed}"
        );
    }
    // `saas serve` waits for the database at start, for up to `DATABASE_WAIT_SECONDS`.
    let starting = numbers(&read(UNITS[0]), "TimeoutStartSec=")[0];
    assert!(starting > default("DATABASE_WAIT_SECONDS"));
    // A process may have `MAX_CONNECTIONS` client connections, plus other open files.
    assert!(numbers(&read(UNITS[0]), "LimitNOFILE=")[0] > default("MAX_CONNECTIONS") + 100);
}

#[test]
fn all_processes_have_few_privileges() {
    let manifest = read(KUBERNETES);
    let count = |text: &str| manifest.matches(text).count();
    let (pods, containers) = (count("runAsNonRoot: true"), count("    image: "));
    assert_eq!((pods, containers), (3, 4));
    for (setting, wanted) in [
        ("      enableServiceLinks: false", pods),
        ("      automountServiceAccountToken: false", pods),
        ("seccompProfile: {type: RuntimeDefault}", pods),
        ("allowPrivilegeEscalation: false", containers),
        ("readOnlyRootFilesystem: true", containers),
        ("capabilities: {drop: [ALL]}", containers),
    ] {
        assert_eq!(count(setting), wanted, "{setting}");
    }
    let dockerfile = read("Dockerfile");
    for user in numbers(&manifest, "runAsUser: ") {
        assert!(dockerfile.contains(&user.to_string()), "the image has another user than {user}");
    }

    let sandbox = |path: &str| {
        let unit = read(path);
        let (_, rest) = unit.split_once("\nCapabilityBoundingSet=\n").unwrap();
        rest.split("\n\n").next().unwrap().trim_end().to_owned()
    };
    let first = sandbox(UNITS[0]);
    assert!(first.contains("ProtectSystem=strict") && first.contains("NoNewPrivileges=yes"), "{first}");
    for path in UNITS {
        assert_eq!(sandbox(path), first, "the sandbox of {path}");
    }
}
