//! Checks of Dockerfile, compose.yaml and create-role.sh. `.ci/image` builds the image and runs the containers.

use std::{fs, path::Path};

use clap::CommandFactory;
use saas::{
    cli::Cli,
    dev::{Purpose, Server, test_dir},
};
use secrecy::ExposeSecret;

use crate::support::{
    process::{run, saas},
    servers::execute,
};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the lines that follow the line that begins with `head`, up to the next line that is not indented further.
fn block<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let after_head = text.lines().skip_while(|line| !line.starts_with(head)).skip(1);
    let lines: Vec<_> =
        after_head.take_while(|line| line.is_empty() || indentation(line) > indentation(head)).collect();
    assert!(!lines.is_empty(), "{head} is not in the file");
    lines
}

/// Returns the lines of a service in compose.yaml, followed by the lines of the blocks that it merges (`<<: *anchor`).
fn service<'a>(compose: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = block(compose, &format!("  {name}:"));
    let mut merged = lines.clone();
    while let Some(anchor) = merged.iter().find_map(|line| line.trim().strip_prefix("<<: *")) {
        merged = block(compose, &format!("x-{anchor}: &{anchor}"));
        lines.extend(&merged);
    }
    lines
}

fn service_names(compose: &str) -> Vec<&str> {
    let lines = block(compose, "services:").into_iter();
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    names.filter(|name| !name.starts_with([' ', '#'])).collect()
}

/// Returns the value of a key of a service.
fn value_of<'a>(service: &[&'a str], key: &str) -> &'a str {
    let value = service.iter().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    value.unwrap_or_else(|| panic!("{key} is not in {service:#?}"))
}

#[test]
fn the_dockerfile_needs_no_buildkit_frontend_and_has_a_numeric_user() {
    let dockerfile = read("Dockerfile");
    assert!(!dockerfile.contains("# syntax"), "a build must not need the public registry");
    let instruction = |name: &str| {
        dockerfile.lines().rfind(|line| line.split(' ').next() == Some(name)).unwrap_or_default()
    };
    assert_eq!(instruction("USER"), "USER 10001:10001");
    assert_eq!(instruction("HEALTHCHECK"), "", "a check of the API would fail in a worker");
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = \"")).unwrap();
    let version = channel.rsplit_once('.').unwrap().0;
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "{channel}");
}

#[test]
fn every_service_of_the_product_has_the_same_image_and_few_privileges() {
    let compose = read("compose.yaml");
    assert_eq!(compose.matches("build:").count(), 1, "each `build` makes another image");
    for name in ["migrate", "api", "api-2", "worker"] {
        let service = service(&compose, name);
        assert_eq!(value_of(&service, "image"), "${SAAS_IMAGE:-saas}", "{name}");
        assert_eq!(value_of(&service, "read_only"), "true", "{name}");
        assert_eq!(value_of(&service, "tmpfs"), "/tmp", "{name}");
        assert_eq!(value_of(&service, "cap_drop"), "[ALL]", "{name}");
        assert!(value_of(&service, "security_opt").contains("no-new-privileges"), "{name}");
    }
}

#[test]
fn logs_are_limited_and_only_the_proxy_is_public() {
    let compose = read("compose.yaml");
    let names = service_names(&compose);
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let service = service(&compose, name);
        assert_eq!(value_of(&service, "logging"), "*logging", "{name}");
        let ports = service.iter().skip_while(|line| line.trim() != "ports:").skip(1);
        let ports = ports.map_while(|line| line.trim().strip_prefix("- "));
        for port in ports.filter(|_| name != "caddy") {
            assert!(port.starts_with("\"127.0.0.1:"), "{name} publishes {port}");
        }
    }
    assert!(block(&compose, "x-logging: &logging").iter().any(|line| line.trim().starts_with("max-size:")));
}

#[test]
fn each_process_has_a_health_check_and_time_to_stop() {
    let compose = read("compose.yaml");
    let api =
        (r#"["CMD", "saas", "healthcheck"]"#, &["SHUTDOWN_DELAY_SECONDS", "SHUTDOWN_TIMEOUT_SECONDS"][..]);
    let worker = (r#"["CMD", "saas", "healthcheck", "--worker"]"#, &["WORKER_SHUTDOWN_GRACE_SECONDS"][..]);
    for (name, (check, settings)) in [("api", api), ("api-2", api), ("worker", worker)] {
        let service = service(&compose, name);
        assert_eq!(value_of(&service, "test"), check, "{name}");
        let time = value_of(&service, "stop_grace_period");
        for setting in settings {
            let default =
                time.split_once(&format!("${{{setting}:-")).unwrap_or_else(|| panic!("{setting}")).1;
            let default = default.split('}').next().unwrap();
            // The service sets the setting to `default`, or leaves it unset and the product has the same default.
            let is_set = service.contains(&&*format!("    {setting}: ${{{setting}:-{default}}}"));
            assert!(is_set || default_of(setting) == default, "{name}: {setting} is not {default}");
        }
    }
}

/// Returns the default of a setting of `saas serve` or `saas worker`.
fn default_of(setting: &str) -> String {
    let cli = Cli::command();
    let mut args =
        ["serve", "worker"].into_iter().flat_map(|name| cli.find_subcommand(name).unwrap().get_arguments());
    let arg = args.find(|arg| arg.get_env().is_some_and(|name| name == setting)).unwrap();
    arg.get_default_values()[0].to_str().unwrap().to_owned()
}

/// Runs the statements of `create-role.sh` on a private server, because they disable the login of the superuser.
#[tokio::test]
async fn the_role_of_the_product_is_no_superuser() {
    let server = Server::postgres(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let url = server.url.expose_secret();
    let (address, name) = url.rsplit_once('/').unwrap();
    let (_, host) = address.split_once('@').unwrap();
    let script = read("ops/compose/create-role.sh");
    let (_, statements) = script.split_once("<<'END'\n").unwrap();
    let statements =
        statements.lines().take_while(|line| *line != "END").filter(|line| !line.starts_with('\\'));
    let statements = statements.collect::<Vec<_>>().join("\n");
    let statements = statements.replace(":'password'", "'x'").replace(":\"database\"", name);
    execute(url, &statements).await;

    let product = format!("postgres://app:x@{host}/{name}");
    let mut migrate = saas(&["migrate", "up"]);
    migrate.env("DATABASE_URL", &product);
    run(migrate).await.succeeded();
    execute(&product, "DO $$ BEGIN ASSERT current_setting('is_superuser') = 'off'; END $$").await;
    let mut as_superuser = saas(&["migrate", "status"]);
    as_superuser.env("DATABASE_URL", url);
    run(as_superuser).await.failed(1, &["password"]);
    server.stop().await;
}
