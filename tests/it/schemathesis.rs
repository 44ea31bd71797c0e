//! Checks the API against its document with schemathesis, which generates requests from the document: as an anonymous
//! caller, as a user and as an admin.
//!
//! `./scripts/test --full schemathesis` runs only these tests. They need Python 3 with venv, and install the packages of
//! `tests/schemathesis/requirements.txt` in the build directory. A run prints its seed;
//! `SCHEMATHESIS_SEED=7 ./scripts/test --full schemathesis` runs with another one. `SCHEMATHESIS_EXAMPLES` is the maximum
//! number of random requests to each operation. The accepted failures are in `tests/schemathesis/exceptions.py`, each with its
//! reason.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, sync::OnceCell};

use crate::{
    openapi::{fetch_document, list_operations},
    support::{TestApp, app::PASSWORD, process::TempDir},
};

/// The default of `SCHEMATHESIS_EXAMPLES`.
const EXAMPLES: &str = "100";
/// The number of accounts of a run. A run needs a new account after each logout, deletion or deactivation.
const ACCOUNTS: usize = 300;
/// Longer than a run takes on a loaded machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(30 * 60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Anonymous,
    User,
    Admin,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis")
}

/// Returns the output of a program.
///
/// # Panics
/// If the program fails, with its output; or if it does not end within [`RUN_TIMEOUT`].
async fn output(command: &mut Command, problem: &str) -> String {
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(RUN_TIMEOUT, output).await.expect("the program does not end");
    let output = output.unwrap_or_else(|error| panic!("{problem}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}:\n{text}\n{errors}");
    text
}

/// Installs schemathesis, unless an earlier run has done so. Returns the path of the program.
async fn install() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let program = PROGRAM.get_or_init(async || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
        let (program, installed) = (dir.join("bin/schemathesis"), dir.join("requirements.txt"));
        let required = std::fs::read(folder().join("requirements.txt")).unwrap();
        if std::fs::read(&installed).is_ok_and(|installed| installed == required) {
            return program;
        }
        let problem = "cannot create a Python environment: install Python 3.10 or newer with venv, such as \
                       `apt-get install python3-venv`";
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir), problem).await;
        let mut install = Command::new(dir.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        let problem = "cannot install schemathesis: check the connection to PyPI, or set PIP_INDEX_URL";
        output(install.arg(folder().join("requirements.txt")), problem).await;
        std::fs::write(installed, required).unwrap();
        program
    });
    program.await
}

/// Runs schemathesis. Returns the text on its standard output.
async fn run(caller: Caller) -> String {
    let config = folder().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(PASSWORD), "the password of the accounts is not in config.toml");
    let program = install().await;
    // The hooks send each request from another network.
    let app = TestApp::with(&["--trusted-proxies=1"]).await;
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let (seed, examples) = (setting("SCHEMATHESIS_SEED", "1"), setting("SCHEMATHESIS_EXAMPLES", EXAMPLES));
    let dir = TempDir::new();
    let name = match caller {
        Caller::Anonymous => "anonymous",
        Caller::User => "user",
        Caller::Admin => "admin",
    };
    println!("schemathesis as {name}: SCHEMATHESIS_SEED={seed} SCHEMATHESIS_EXAMPLES={examples}");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(&config)
        .arg("run")
        .arg(format!("{}/openapi.json", app.url))
        .args(["--checks", "all", "--seed", &seed, "--max-examples", &examples, "--no-color"])
        .current_dir(dir.path())
        .env("PYTHONPATH", folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONHASHSEED", "0")
        .env("PYTHONUTF8", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("SCHEMATHESIS_SEED", &seed)
        .env("SCHEMATHESIS_CALLER", name);
    if caller != Caller::Anonymous {
        let mut tokens = Vec::with_capacity(ACCOUNTS);
        for _ in 0..ACCOUNTS {
            let account = if caller == Caller::Admin { app.admin().await } else { app.user().await };
            tokens.push(account.token);
        }
        let file = dir.path().join("tokens.json");
        std::fs::write(&file, serde_json::to_vec(&tokens).unwrap()).unwrap();
        command.env("SCHEMATHESIS_TOKENS", file);
    }
    let problem = format!("schemathesis as {name} with SCHEMATHESIS_SEED={seed} has found faults");
    let printed = output(&mut command, &problem).await;
    let operations = list_operations(&fetch_document().await).len();
    assert!(
        printed.contains(&format!("Tested: {operations}\n")),
        "not all operations were tested:\n{printed}"
    );
    printed
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python, and takes minutes"]
async fn schemathesis_finds_no_fault_as_an_anonymous_caller() {
    run(Caller::Anonymous).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python, and takes minutes"]
async fn schemathesis_finds_no_fault_as_a_user() {
    run(Caller::User).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python, and takes minutes"]
async fn schemathesis_finds_no_fault_as_an_admin() {
    let printed = run(Caller::Admin).await;
    // If the accounts have lost the role `admin`, all operations for admins respond with 401 or 403, and are not tested.
    assert!(!printed.contains("returned only 401/403 responses"), "{printed}");
}
