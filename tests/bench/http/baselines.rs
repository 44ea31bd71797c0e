//! The baselines: the rates that the machine allows for a bare handler, PostgreSQL, Redis and bcrypt.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use poem::{Endpoint, Request, Response, Server, listener::TcpAcceptor};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Child,
    task::JoinSet,
    time::timeout,
};

use super::{
    fixture::{BCRYPT_COST, Fixture, PASSWORD},
    process,
    wrk::Sample,
};

/// The argument with which the benchmark starts itself to serve the bare handler. Users do not pass it.
pub const BARE_HANDLER: &str = "bare-handler";
/// The body of the response of `/health`.
const BODY: &str =
    concat!(r#"{"status":"healthy","service":"saas","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
/// The query of `/users/me`, but without the memberships of the user.
const READ_SQL: &str = "SELECT sessions.*, users.* FROM sessions INNER JOIN users ON sessions.user_id = users.id \
                    WHERE sessions.id = :session LIMIT 1;\n";
/// The query that reads a product.
const PRODUCT_SQL: &str = "SELECT products.* FROM products WHERE org_id = :org AND id = :id LIMIT 1;\n";
/// The statements before the query that reads a product: they begin a transaction in the role `saas_tenant` and in the
/// organization of the caller. `saas` sends them in one pipeline with the query, so pgbench does too.
const ENTER_SQL: &str = "\\startpipeline\nBEGIN ISOLATION LEVEL READ COMMITTED;\nSET LOCAL statement_timeout = 30000;\n\
                    SET LOCAL ROLE saas_tenant;\nSELECT set_config('app.org_id', :org::text, true);\n";
const LEAVE_SQL: &str = "\\endpipeline\nCOMMIT;\n";
const REDIS_KEY: &str = "bench:value";
/// The size of the value in Redis.
const VALUE_BYTES: usize = 250;

/// A handler that returns a constant response.
struct BareEndpoint;

impl Endpoint for BareEndpoint {
    type Output = Response;

    async fn call(&self, _: Request) -> poem::Result<Response> {
        Ok(Response::builder().content_type("application/json; charset=utf-8").body(BODY))
    }
}

/// Serves the bare handler until standard input closes, which happens when the parent process ends.
pub fn serve_bare() -> Result<()> {
    // The same runtime as in `saas`.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        println!("http://{}", listener.local_addr()?);
        let server = Server::new_with_acceptor(TcpAcceptor::from_std(listener)?).run(BareEndpoint);
        let (mut parent, mut byte) = (tokio::io::stdin(), [0]);
        tokio::select! {
            ended = server => Ok(ended?),
            _ = parent.read(&mut byte) => anyhow::Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

/// The bare handler in a separate process, which is killed when this value is dropped.
pub struct BareHandler {
    _process: Child,
    pub url: String,
}

impl BareHandler {
    pub async fn start() -> Result<Self> {
        let mut command = process::command(std::env::current_exe()?);
        command.arg(BARE_HANDLER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start the bare handler")?;
        let mut lines =
            BufReader::new(process.stdout.take().context("the bare handler has no output")?).lines();
        let line = timeout(Duration::from_secs(10), lines.next_line()).await;
        let url = line.context("the bare handler does not start")??.context("the bare handler has ended")?;
        Ok(Self { _process: process, url })
    }
}

/// Measures reads of a session and its user per second.
pub async fn measure_postgres_reads(fixture: &Fixture, session: &str, seconds: u64) -> Result<f64> {
    run_pgbench(fixture, READ_SQL, &[("session", session)], seconds).await
}

/// Measures reads of a product per second. With `in_role`, each read is a transaction in the role `saas_tenant`. Without it,
/// each read is a single query.
pub async fn measure_product_reads(
    fixture: &Fixture,
    [org, id]: [i64; 2],
    in_role: bool,
    seconds: u64,
) -> Result<f64> {
    let (enter, leave) = if in_role { (ENTER_SQL, LEAVE_SQL) } else { ("", "") };
    let script = format!("{enter}{PRODUCT_SQL}{leave}");
    run_pgbench(fixture, &script, &[("org", &org.to_string()), ("id", &id.to_string())], seconds).await
}

/// Runs a script of pgbench with 8 clients. Returns how many times per second it ran.
async fn run_pgbench(fixture: &Fixture, sql: &str, variables: &[(&str, &str)], seconds: u64) -> Result<f64> {
    let script = fixture.dir().join("read.sql");
    fs::write(&script, sql)?;
    let server: tokio_postgres::Config = fixture.postgres_url().parse()?;
    let password = String::from_utf8_lossy(server.get_password().unwrap_or_default()).into_owned();
    let port = server.get_ports().first().context("PostgreSQL has no port")?;
    let mut command = process::command("pgbench");
    command.args(["-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", &seconds.to_string()]);
    for (name, value) in variables {
        command.arg("-D").arg(format!("{name}={value}"));
    }
    command
        .arg("-f")
        .arg(&script)
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", server.get_user().unwrap_or_default())
        .env("PGPASSWORD", password)
        .env("PGDATABASE", server.get_dbname().unwrap_or_default());
    let output = process::run_for(command, seconds).await?;
    let rate = output.lines().rev().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    let rate = rate.with_context(|| format!("cannot parse the output of pgbench:\n{output}"))?;
    Ok(rate.parse()?)
}

/// Stores the value that [`measure_redis_reads`] reads.
pub async fn store_value(fixture: &Fixture) -> Result<()> {
    let mut conn = crate::bare::connect(fixture.redis_url()).await?;
    redis::cmd("SET").arg(REDIS_KEY).arg("x".repeat(VALUE_BYTES)).query_async::<()>(&mut conn).await?;
    Ok(())
}

/// Measures reads per second of a value by 32 clients, without pipelining.
pub async fn measure_redis_reads(fixture: &Fixture, seconds: u64) -> Result<Sample> {
    // redis-benchmark takes a number of requests instead of a duration, so a short run measures the rate
    // first.
    let first = redis_benchmark(fixture, 20_000, seconds).await?;
    redis_benchmark(fixture, (first.rate * seconds as f64) as u64, seconds).await
}

async fn redis_benchmark(fixture: &Fixture, requests: u64, seconds: u64) -> Result<Sample> {
    let address =
        fixture.redis_url().strip_prefix("redis://:").context("the URL of Redis has an unknown form")?;
    let (password, host) = address.split_once('@').context("Redis has no password")?;
    let host = host.split('/').next().unwrap_or_default();
    let (host, port) = host.split_once(':').context("Redis has no port")?;
    let program = find_installed(&["redis-benchmark", "valkey-benchmark"])?;
    let mut command = process::command(program);
    command.args(["-h", host, "-p", port, "-a", password, "-c", "32", "-P", "1", "--csv"]).args([
        "-n",
        &requests.to_string(),
        "GET",
        REDIS_KEY,
    ]);
    let output = process::run_for(command, seconds).await?;
    let line = output.lines().find_map(|line| line.strip_prefix("\"GET")).context("there is no line for GET");
    let line = line.with_context(|| format!("cannot parse the output of {program}:\n{output}"))?;
    // The fields after the name: requests per second, then mean, min, p50, p95, p99 and max in milliseconds.
    let numbers = line.split(',').skip(1).map(|number| number.trim_matches('"').parse::<f64>());
    let numbers: Vec<f64> = numbers.collect::<Result<_, _>>()?;
    let [rate, _, _, p50, _, p99, ..] = numbers[..] else {
        bail!("cannot parse the output of {program}:\n{output}")
    };
    Ok(Sample { rate, p50, p99, errors: 0, refused: 0 })
}

/// Returns the first of `names` that is a program in `PATH`.
fn find_installed(names: &[&'static str]) -> Result<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    let found = names.iter().copied().find(|name| dirs.iter().any(|dir| dir.join(name).is_file()));
    found.with_context(|| format!("{} is not installed: run ./scripts/bench, which installs it", names[0]))
}

/// Measures passwords hashed per second on all cores.
pub async fn measure_hashes(seconds: u64) -> Result<f64> {
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut cores = JoinSet::new();
    for _ in 0..std::thread::available_parallelism()?.get() {
        cores.spawn_blocking(move || {
            let mut count = 0_u32;
            while begun.elapsed() < time {
                bcrypt::hash(PASSWORD, BCRYPT_COST)?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0_u32;
    while let Some(hashed) = cores.join_next().await {
        count += hashed??;
    }
    ensure!(count > 0, "nothing was hashed");
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}
