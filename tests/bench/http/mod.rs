//! The API under load, by wrk. Every figure stands beside its floor, and they are measured in turns in one run, so
//! that a slow or busy machine is so for all.
//!
//! | file | concern |
//! |---|---|
//! | `stage` | what is measured on: servers, users, `saas serve` |
//! | `process` | the processes that are started, and their end |
//! | `wrk` | load, and what came of it |
//! | `floors` | what the machine allows |
//! | `report`, `plot`, `document` | the figures: as a table, as bars, in `docs/performance.md` |
//! | `stop` | the end of the server under load |
//! | `soak` | everything at once, for long |

mod document;
mod floors;
mod plot;
mod process;
mod report;
pub mod soak;
mod stage;
mod stop;
mod wrk;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use reqwest::StatusCode;
use tokio::time::sleep;

use floors::BareHandler;
pub use floors::{BARE_HANDLER, serve_bare};
use process::Running;
use report::Figures;
use stage::{HEALTH, Stage, enqueue, job_status, login, me, sign_out, user, user_list};
use wrk::{Load, Request, Sample};

const COLD_STARTS: usize = 5;
const CONNECTIONS: usize = 32;
/// For what the last load has left behind: passwords that are still being hashed for nobody.
const CALM: Duration = Duration::from_millis(1_500);
/// Who ask `/users/me`, in turns.
const READERS: i64 = 200;
const SIGN_OUTS: i64 = 50;
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// By which the flood begins before the others are measured, and ends after.
const EDGE: u64 = 1;

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
    /// Put the results into docs/performance.md, with a plot.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let mut args = Args::parse_from(args);
    if args.quick {
        (args.rounds, args.seconds) = (2, 2);
    }
    if args.write {
        document::check("http")?;
    }
    process::block_on(async {
        let stage = Stage::set_up().await?;
        let result = measure(&stage, &args).await;
        stage.stop().await;
        result
    })
}

async fn measure(stage: &Stage, args: &Args) -> Result<()> {
    let circumstances = document::circumstances(stage).await?;
    let mut figures = Figures::new();
    for start in 1..=COLD_STARTS {
        eprintln!("cold start {start} of {COLD_STARTS}");
        let (server, milliseconds) = stage.serve().await?;
        figures.cold.push(milliseconds);
        server.stop().await?;
    }
    let (mut server, _) = stage.serve().await?;
    let idle = Duration::from_secs(if args.quick { 3 } else { 10 });
    look_at(&server, idle, &mut figures, 0).await;
    let mut other = stage.serve_other().await?;
    let bench = Bench::prepare(stage, args.seconds).await?;
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        bench.round(&mut figures).await?;
        server.check()?;
        other.check()?;
    }
    look_at(&server, idle, &mut figures, 1).await;
    eprintln!("signing out, and what another replica knows of it");
    bench.sign_outs(&mut figures).await?;
    other.stop().await?;
    eprintln!("the end under load");
    figures.stop = stop::measure(stage, server, &bench.me.requests[0]).await?;

    let rounds = format!("{} rounds of {} s, medians (least..most)", args.rounds, args.seconds);
    let table = figures.table();
    println!("{circumstances}\n{rounds}\n\n{table}");
    if args.write {
        let rounds = format!("{rounds}; `./scripts/bench http --write`");
        let plot = "![Requests a second](performance.svg)";
        document::write("http", &format!("{circumstances}; {rounds}.\n\n{}\n{plot}\n", table.markdown()))?;
        document::write_plot(&plot::bars("Requests a second", &figures.bars()))?;
    }
    Ok(())
}

/// How much the server has and does while nobody asks it anything.
async fn look_at(server: &Running, period: Duration, figures: &mut Figures, when: usize) {
    eprintln!("at rest");
    sleep(CALM).await;
    if let Some(wake_ups) = server.wake_ups(period).await {
        figures.wake_ups[when].push(wake_ups);
    }
    if let Some(memory) = server.memory() {
        figures.memory[when].push(memory);
    }
}

struct Bench<'a> {
    stage: &'a Stage,
    bare: BareHandler,
    /// Whose read PostgreSQL alone repeats.
    session: String,
    seconds: u64,
    health: Load,
    me: Load,
    list: Load,
    enqueue: Load,
    status: Load,
    login: Load,
    /// From fewer connections.
    few: Load,
    flood: Load,
}

impl<'a> Bench<'a> {
    /// Signs in, and lets all sides run once.
    async fn prepare(stage: &'a Stage, seconds: u64) -> Result<Self> {
        eprintln!("warming up");
        let somebody = user(0);
        let (token, admin) = (stage.sign_in(&somebody).await?, stage.sign_in_admin().await?);
        let job = stage.finished_job(&token).await?;
        let readers: Vec<_> = stage.sign_in_many(READERS).await?.iter().map(|token| me(token)).collect();
        floors::set_value(stage).await?;
        let bench = Self {
            stage,
            bare: BareHandler::start().await?,
            session: stage.session(&somebody).await?,
            seconds,
            health: Load::of("health", CONNECTIONS, Request::get(HEALTH)),
            me: Load { requests: readers.clone(), ..Load::of("me", CONNECTIONS, me(&token)) },
            list: Load::of("list", CONNECTIONS, user_list(&admin)),
            enqueue: Load::of("enqueue", CONNECTIONS, enqueue(&token)),
            status: Load::of("status", CONNECTIONS, job_status(&job, &token)),
            login: Load::of("login", 8, login(&somebody)),
            few: Load { requests: readers, ..Load::of("few", 16, me(&token)) },
            flood: Load { refusable: true, ..Load::of("flood", 64, login(&somebody)) },
        };
        for load in [&bench.health, &bench.me, &bench.list, &bench.enqueue, &bench.status] {
            for request in load.requests.iter().take(8) {
                stage.send(request).await?;
            }
            load.run(&stage.url(), stage.dir(), 1).await?;
        }
        bench.health.run(&bench.bare.url, stage.dir(), 1).await?;
        bench.forget_jobs().await?;
        Ok(bench)
    }

    async fn ask(&self, load: &Load) -> Result<Sample> {
        sleep(PAUSE).await;
        load.run(&self.stage.url(), self.stage.dir(), self.seconds).await
    }

    /// Those that were enqueued: no worker runs, which would take its part of the machine.
    async fn forget_jobs(&self) -> Result<()> {
        self.stage.run(&["queue", "purge", "default", "--status", "queued", "--yes"]).await
    }

    async fn round(&self, figures: &mut Figures) -> Result<()> {
        let (stage, seconds) = (self.stage, self.seconds);
        figures.bare.add(self.health.run(&self.bare.url, stage.dir(), seconds).await?);
        figures.health.add(self.ask(&self.health).await?);
        figures.postgres.rate.push(floors::postgres_reads(stage, &self.session, seconds).await?);
        figures.me.add(self.ask(&self.me).await?);
        sleep(PAUSE).await;
        figures.logged.add(self.me.run(&stage.other_url(), stage.dir(), seconds).await?);
        figures.list.add(self.ask(&self.list).await?);
        figures.redis.add(floors::redis_reads(stage, seconds).await?);
        figures.status.add(self.ask(&self.status).await?);
        figures.enqueue.add(self.ask(&self.enqueue).await?);
        self.forget_jobs().await?;
        figures.hashes.rate.push(floors::hashes(seconds).await?);
        figures.login.add(self.ask(&self.login).await?);
        sleep(CALM).await;
        figures.alone.add(self.ask(&self.few).await?);
        let (beside, flood) = self.flood().await?;
        figures.beside.add(beside);
        figures.flood.add(flood);
        sleep(CALM).await;
        Ok(())
    }

    /// How long somebody who has signed out is known to another replica, which is busy and keeps copies.
    async fn sign_outs(&self, figures: &mut Figures) -> Result<()> {
        let stage = self.stage;
        let sign_outs = async {
            for token in stage.sign_in_many(SIGN_OUTS).await? {
                let who = me(&token);
                for _ in 0..3 {
                    let status = stage.status_at_other(&who).await?;
                    ensure!(status.is_success(), "somebody who has signed in is refused with {status}");
                }
                stage.send(&sign_out(&token)).await?;
                let begun = Instant::now();
                loop {
                    let status = stage.status_at_other(&who).await?;
                    if status == StatusCode::UNAUTHORIZED {
                        break;
                    }
                    ensure!(status.is_success(), "{status} for somebody who has signed out");
                    ensure!(begun.elapsed() < PATIENCE, "another replica goes on knowing who has signed out");
                }
                figures.sign_outs.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(())
        };
        let url = stage.other_url();
        let load = self.few.run(&url, stage.dir(), self.seconds);
        tokio::try_join!(load, sign_outs).map(drop)
    }

    /// `/users/me` while others log in without pause, and what becomes of those.
    async fn flood(&self) -> Result<(Sample, Sample)> {
        let (url, dir) = (self.stage.url(), self.stage.dir());
        let beside = async {
            sleep(Duration::from_secs(EDGE)).await;
            self.few.run(&url, dir, self.seconds).await
        };
        tokio::try_join!(beside, self.flood.run(&url, dir, self.seconds + 2 * EDGE))
    }
}
