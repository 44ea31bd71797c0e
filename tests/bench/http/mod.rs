//! Measures the API under load, most of which wrk generates. Most figures are compared with a baseline. The rounds of a figure
//! and of its baseline alternate in one run, so that a slow or busy machine affects both.
//!
//! | file | concern |
//! |---|---|
//! | `fixture`, `database`, `private_dir` | servers, users, `saas serve`, files |
//! | `process` | starting and stopping processes |
//! | `wrk` | load, and its results |
//! | `baselines` | the rates that the machine allows |
//! | `report`, `plot` | the figures as a table, and as a chart |
//! | `document` | writes the figures into files of `docs` |
//! | `stop` | shutdown under load |
//! | `soak` | mixed load over a long time |
//! | `search` | the list of users at a million users |

mod baselines;
pub mod database;
pub mod document;
pub mod fixture;
mod plot;
pub mod private_dir;
pub mod process;
mod report;
pub mod search;
pub mod soak;
mod stop;
pub mod wrk;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use reqwest::StatusCode;
use tokio::time::sleep;

use baselines::BareHandler;
pub use baselines::{BARE_HANDLER, serve_bare};
use fixture::{
    Fixture, HEALTH, USERS, enqueue, job_status, login, logout, me, product, user_email, user_list,
};
use process::Running;
use report::Figures;
use wrk::{Load, Request, Sample};

/// The number of measured starts of `saas serve`.
const COLD_STARTS: usize = 5;
/// The number of connections of most loads.
const CONNECTIONS: usize = 32;
/// Time for the server to finish the work of the last load, such as hashes for disconnected clients.
const SETTLE_TIME: Duration = Duration::from_millis(1_500);
/// The number of users whose requests a load sends in rotation.
const READERS: i64 = 200;
/// The number of users that log in in rotation.
const LOGIN_USERS: usize = 1_000;
/// The number of measured logouts.
const LOGOUTS: i64 = 50;
/// How long another server may accept the token after a logout before the benchmark fails.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_BETWEEN_LOADS: Duration = Duration::from_millis(200);
/// Seconds by which the flood of logins starts before the measured load, and ends after it.
const FLOOD_MARGIN_SECONDS: u64 = 1;

/// Measures the API.
#[derive(Parser)]
#[command(name = "./scripts/bench http", no_binary_name = true)]
struct Args {
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each round.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// 2 rounds of 2 seconds.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Write the results and a plot into docs/.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let mut args = Args::parse_from(args);
    if args.quick {
        (args.rounds, args.seconds) = (2, 2);
    }
    if args.write {
        document::check(document::PERFORMANCE, "http")?;
    }
    process::block_on(async {
        let fixture = Fixture::set_up().await?;
        let result = measure(&fixture, &args).await;
        fixture.stop().await;
        result
    })
}

async fn measure(fixture: &Fixture, args: &Args) -> Result<()> {
    let environment = document::describe_environment(fixture).await?;
    let mut figures = Figures::new();
    for start in 1..=COLD_STARTS {
        eprintln!("cold start {start} of {COLD_STARTS}");
        let (server, milliseconds) = fixture.serve().await?;
        figures.cold.push(milliseconds);
        server.stop().await?;
    }
    let (mut server, _) = fixture.serve().await?;
    let idle = Duration::from_secs(if args.quick { 3 } else { 10 });
    measure_at_rest(&server, idle, &mut figures, 0).await;
    let mut other = fixture.serve_other().await?;
    let mut limited = fixture.serve_limited().await?;
    let bench = Bench::prepare(fixture, args.seconds).await?;
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        bench.run_round(&mut figures).await?;
        server.check()?;
        other.check()?;
        limited.check()?;
    }
    limited.stop().await?;
    measure_at_rest(&server, idle, &mut figures, 1).await;
    eprintln!("logouts, until another replica refuses the token");
    bench.measure_logouts(&mut figures).await?;
    other.stop().await?;
    eprintln!("shutdown under load");
    figures.stop = stop::measure(fixture, server, &bench.me.requests[0]).await?;

    let rounds = format!("{} rounds of {} s, medians (least..most)", args.rounds, args.seconds);
    let table = figures.table();
    println!("{environment}\n{rounds}\n\n{table}");
    if args.write {
        let rounds = format!("{rounds}; `./scripts/bench http --write`");
        let plot = "![Requests per second](performance.svg)";
        let text = format!("{environment}; {rounds}.\n\n{}\n{plot}\n", table.markdown());
        document::write(document::PERFORMANCE, "http", &text)?;
        document::write_plot(&plot::draw_bars("Requests per second", &figures.bars()))?;
    }
    Ok(())
}

/// Measures memory and wake-ups of the idle server: before the load (`when` is 0) or after it (1).
async fn measure_at_rest(server: &Running, period: Duration, figures: &mut Figures, when: usize) {
    eprintln!("at rest");
    sleep(SETTLE_TIME).await;
    if let Some(wake_ups) = server.wake_ups(period).await {
        figures.wake_ups[when].push(wake_ups);
    }
    if let Some(memory) = server.memory() {
        figures.memory[when].push(memory);
    }
}

/// The loads, and the fixture that they run on.
struct Bench<'a> {
    fixture: &'a Fixture,
    bare: BareHandler,
    /// The id of the session that pgbench reads.
    session: String,
    seconds: u64,
    health: Load,
    me: Load,
    /// Requests to `/users/me` of all users. With so many users, the server has no recent copies of their sessions.
    uncached: Load,
    list: Load,
    /// The ids of an organization and of one of its products.
    product_ids: [i64; 2],
    product: Load,
    /// Reads of the product with API keys instead of access tokens.
    product_by_key: Load,
    enqueue: Load,
    /// Enqueues by many users, each request with an idempotency key of its own.
    keyed: Load,
    status: Load,
    login: Load,
    /// Requests to `/users/me` from 16 connections.
    few: Load,
    /// Logins from 64 connections. A 503 with `Retry-After` is not an error.
    flood: Load,
}

impl<'a> Bench<'a> {
    /// Signs users in and builds the loads. Runs most loads and the bare handler once, to warm up.
    async fn prepare(fixture: &'a Fixture, seconds: u64) -> Result<Self> {
        eprintln!("warming up");
        let email = user_email(0);
        let (token, admin) = (fixture.sign_in(&email).await?, fixture.sign_in_admin().await?);
        let job = fixture.finished_job(&token).await?;
        let requests = async |users: i64| {
            anyhow::Ok(fixture.sign_in_many(users).await?.iter().map(|token| me(token)).collect::<Vec<_>>())
        };
        let keyed = fixture.sign_in_many(READERS).await?.iter().map(|token| enqueue(token)).collect();
        let (readers, all) = (requests(READERS).await?, requests(USERS as i64).await?);
        let product_ids = fixture.create_org(READERS).await?;
        let members = fixture.sign_in_many(READERS).await?;
        let products = members.iter().map(|token| product(product_ids, token)).collect();
        let keys = fixture.create_keys(product_ids[0]).await?;
        let by_key = keys.iter().map(|key| product(product_ids, key)).collect();
        baselines::store_value(fixture).await?;
        // Many users log in, because the number of logins of one user is limited.
        let logins: Vec<_> = (0..LOGIN_USERS).map(|n| login(&user_email(n))).collect();
        let bench = Self {
            fixture,
            bare: BareHandler::start().await?,
            session: fixture.session(&email).await?,
            seconds,
            health: Load::single("health", CONNECTIONS, Request::get(HEALTH)),
            me: Load { requests: readers.clone(), ..Load::single("me", CONNECTIONS, me(&token)) },
            uncached: Load { requests: all, ..Load::single("uncached", CONNECTIONS, me(&token)) },
            list: Load::single("list", CONNECTIONS, user_list(&admin)),
            product_ids,
            product: Load { requests: products, ..Load::single("product", CONNECTIONS, me(&token)) },
            product_by_key: Load {
                requests: by_key,
                ..Load::single("product_by_key", CONNECTIONS, me(&token))
            },
            enqueue: Load::single("enqueue", CONNECTIONS, enqueue(&token)),
            keyed: Load {
                requests: keyed,
                with_keys: true,
                ..Load::single("keyed", CONNECTIONS, enqueue(&token))
            },
            status: Load::single("status", CONNECTIONS, job_status(&job, &token)),
            login: Load { requests: logins.clone(), ..Load::single("login", 8, login(&email)) },
            few: Load { requests: readers, ..Load::single("few", 16, me(&token)) },
            flood: Load { requests: logins, allow_503: true, ..Load::single("flood", 64, login(&email)) },
        };
        for load in [
            &bench.health,
            &bench.me,
            &bench.list,
            &bench.product,
            &bench.product_by_key,
            &bench.enqueue,
            &bench.status,
        ] {
            for request in load.requests.iter().take(8) {
                fixture.send(request).await?;
            }
            load.run(&fixture.url(), fixture.dir(), 1).await?;
        }
        bench.health.run(&bench.bare.url, fixture.dir(), 1).await?;
        bench.purge_jobs().await?;
        Ok(bench)
    }

    async fn run_load(&self, load: &Load) -> Result<Sample> {
        sleep(PAUSE_BETWEEN_LOADS).await;
        load.run(&self.fixture.url(), self.fixture.dir(), self.seconds).await
    }

    /// Deletes the enqueued jobs. No worker runs them, since it would take CPU time from the measurement.
    async fn purge_jobs(&self) -> Result<()> {
        self.fixture.run(&["queue", "purge", "default", "--status", "queued", "--yes"]).await
    }

    async fn run_round(&self, figures: &mut Figures) -> Result<()> {
        let (fixture, seconds) = (self.fixture, self.seconds);
        figures.bare.add(self.health.run(&self.bare.url, fixture.dir(), seconds).await?);
        figures.health.add(self.run_load(&self.health).await?);
        figures.postgres.rate.push(baselines::measure_postgres_reads(fixture, &self.session, seconds).await?);
        figures.me.add(self.run_load(&self.me).await?);
        figures.uncached.add(self.run_load(&self.uncached).await?);
        fixture.age_sessions().await?;
        figures.touched.add(self.run_load(&self.uncached).await?);
        sleep(PAUSE_BETWEEN_LOADS).await;
        figures.logged.add(self.me.run(&fixture.other_url(), fixture.dir(), seconds).await?);
        for (load, series) in
            [(&self.health, &mut figures.limited_health), (&self.me, &mut figures.limited_me)]
        {
            sleep(PAUSE_BETWEEN_LOADS).await;
            series.add(load.run(&fixture.limited_url(), fixture.dir(), seconds).await?);
        }
        figures.product.add(self.run_load(&self.product).await?);
        figures.product_by_key.add(self.run_load(&self.product_by_key).await?);
        for (series, in_role) in [(&mut figures.tenant, true), (&mut figures.no_tenant, false)] {
            let rate = baselines::measure_product_reads(fixture, self.product_ids, in_role, seconds).await?;
            series.rate.push(rate);
        }
        figures.list.add(self.run_load(&self.list).await?);
        figures.redis.add(baselines::measure_redis_reads(fixture, seconds).await?);
        figures.status.add(self.run_load(&self.status).await?);
        figures.enqueue.add(self.run_load(&self.enqueue).await?);
        self.purge_jobs().await?;
        fixture.vacuum_jobs().await?;
        figures.keyed.add(self.run_load(&self.keyed).await?);
        // Time for the last jobs to reach the queue.
        sleep(SETTLE_TIME).await;
        self.purge_jobs().await?;
        figures.hashes.rate.push(baselines::measure_hashes(seconds).await?);
        figures.login.add(self.run_load(&self.login).await?);
        sleep(SETTLE_TIME).await;
        figures.alone.add(self.run_load(&self.few).await?);
        let (during_flood, flood) = self.measure_flood().await?;
        figures.during_flood.add(during_flood);
        figures.flood.add(flood);
        sleep(SETTLE_TIME).await;
        Ok(())
    }

    /// Measures the time from the response to a logout until a second server refuses the token. The second server has a
    /// copy of the session, and is under load for the first `seconds` seconds.
    async fn measure_logouts(&self, figures: &mut Figures) -> Result<()> {
        let fixture = self.fixture;
        let logouts = async {
            for token in fixture.sign_in_many(LOGOUTS).await? {
                let request = me(&token);
                for _ in 0..3 {
                    let status = fixture.status_at_other(&request).await?;
                    ensure!(status.is_success(), "a valid token is refused with {status}");
                }
                fixture.send(&logout(&token)).await?;
                let begun = Instant::now();
                loop {
                    let status = fixture.status_at_other(&request).await?;
                    if status == StatusCode::UNAUTHORIZED {
                        break;
                    }
                    ensure!(status.is_success(), "unexpected status {status} after the logout");
                    ensure!(begun.elapsed() < LOGOUT_TIMEOUT, "another replica still accepts the token");
                }
                figures.logouts.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(())
        };
        let url = fixture.other_url();
        let load = self.few.run(&url, fixture.dir(), self.seconds);
        tokio::try_join!(load, logouts).map(drop)
    }

    /// Measures `/users/me` during a flood of logins. Returns the results of `/users/me`, then those of the logins.
    async fn measure_flood(&self) -> Result<(Sample, Sample)> {
        let (url, dir) = (self.fixture.url(), self.fixture.dir());
        let during_flood = async {
            sleep(Duration::from_secs(FLOOD_MARGIN_SECONDS)).await;
            self.few.run(&url, dir, self.seconds).await
        };
        tokio::try_join!(during_flood, self.flood.run(&url, dir, self.seconds + 2 * FLOOD_MARGIN_SECONDS))
    }
}
