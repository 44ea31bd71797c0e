//! Mixed load over a long time, at a limited rate. Targets: memory grows by at most a tenth after the first minute, no
//! request and no job fails, no job is left at the end, and the logs have no errors.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tokio::time::{Instant, sleep_until};

use super::{
    document,
    fixture::{Fixture, HEALTH, enqueue, job_status, login, me, user_email, user_list},
    process::{self, Running},
    report::{LATENCY, MEGABYTES},
    wrk::{Load, Request, Sample},
};
use crate::table::{PER_SECOND, Table, number, target};

/// The number of users that read. Each has a session, so the server keeps copies of many sessions.
const READERS: i64 = 200;
/// The number of users that log in in rotation.
const LOGINS: usize = 200;

/// Runs reads, logins, enqueues and a worker together, and measures the memory each minute.
#[derive(Parser)]
#[command(name = "./scripts/bench soak", no_binary_name = true)]
struct Args {
    /// Duration in minutes.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// Write the results into docs/performance.md.
    #[arg(long)]
    write: bool,
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let args = Args::parse_from(args);
    if args.write {
        document::check(document::PERFORMANCE, "soak")?;
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
    let (mut server, _) = fixture.serve().await?;
    let admin = fixture.sign_in_admin().await?;
    let [reads, logins, enqueues] = build_loads(fixture, &admin).await?;
    let mut worker = fixture.worker()?;
    let (url, dir, seconds) = (fixture.url(), fixture.dir(), 60 * args.minutes);
    eprintln!("{} minutes of reads, logins, enqueues and jobs", args.minutes);
    let (read, logged_in, enqueued, memory) = tokio::try_join!(
        reads.run(&url, dir, seconds),
        logins.run(&url, dir, seconds),
        enqueues.run(&url, dir, seconds),
        watch_memory(&mut server, &mut worker, args.minutes)
    )?;
    let [left, failed] = fixture.jobs_left(&admin).await?;
    let logged = count_errors(&server) + count_errors(&worker);
    server.stop().await?;
    worker.stop().await?;

    let mut load = Table::new(["load", "responses", "p50", "p99", "errors"]);
    let samples = [("reads", &read), ("logins", &logged_in), ("enqueues", &enqueued)];
    samples.iter().for_each(|(name, sample)| load.push(row(name, sample)));
    let mut growth = Table::new(["memory (RSS)", "after the first minute", "at the end", "ratio"]);
    for (process, name) in ["saas serve", "saas worker"].into_iter().enumerate() {
        let of = |minute: Option<&[Option<f64>; 2]>| minute.and_then(|both| both[process]);
        let (first, last) = (of(memory.first()), of(memory.last()));
        let ratio = first.zip(last).map_or("-".into(), |(first, last)| number(last / first, 2));
        growth.push([name.into(), megabytes(first), megabytes(last), ratio]);
    }
    let grown = memory.first().zip(memory.last()).is_some_and(|(first, last)| {
        first
            .iter()
            .zip(last)
            .any(|(first, last)| first.zip(*last).is_some_and(|(first, last)| last > 1.1 * first))
    });
    let answered: u64 = samples.iter().map(|(_, sample)| sample.errors).sum();
    let all = answered + failed + left + logged;
    let errors = format!(
        "{answered} request errors, {failed} jobs failed, {left} jobs left, {logged} errors in the logs; {}; {}",
        target("none", all == 0),
        target("memory within 1.1 of that after the first minute", !grown)
    );
    println!("\n{environment}\n\n{load}\n{growth}\n{errors}");
    if args.write {
        let how = format!("`./scripts/bench soak --minutes {} --write`", args.minutes);
        let tables = format!("{}\n{}", load.markdown(), growth.markdown());
        let text = format!("{environment}; {how}.\n\n{tables}\n{errors}.\n");
        document::write(document::PERFORMANCE, "soak", &text)?;
    }
    Ok(())
}

/// Builds the loads: at most 2,000 reads, 2 logins and 200 enqueues per second.
async fn build_loads(fixture: &Fixture, admin: &str) -> Result<[Load; 3]> {
    let token = fixture.sign_in(&user_email(0)).await?;
    let job = fixture.finished_job(&token).await?;
    let mut reads = Vec::new();
    for (n, reader) in fixture.sign_in_many(READERS).await?.iter().enumerate() {
        reads.push(me(reader));
        reads.push(match n % 4 {
            0 => Request::get(HEALTH),
            1 => job_status(&job, &token),
            2 => user_list(admin),
            _ => me(&token),
        });
    }
    let logins: Vec<_> = (0..LOGINS).map(|n| login(&user_email(n))).collect();
    for request in reads.iter().take(8).chain(logins.first()) {
        fixture.send(request).await?;
    }
    let load = |name, connections, pause_ms, requests| Load {
        name,
        requests,
        connections,
        pause_ms,
        allow_503: false,
        with_keys: false,
    };
    Ok([
        load("reads", 16, 8, reads),
        load("logins", 2, 1_000, logins),
        load("enqueues", 4, 20, vec![enqueue(&token)]),
    ])
}

/// Measures the memory of the server and the worker in megabytes after each minute.
async fn watch_memory(
    server: &mut Running,
    worker: &mut Running,
    minutes: u64,
) -> Result<Vec<[Option<f64>; 2]>> {
    let (begun, mut found) = (Instant::now(), Vec::new());
    for minute in 1..=minutes {
        sleep_until(begun + Duration::from_secs(60 * minute)).await;
        server.check()?;
        worker.check()?;
        let both = [server.memory(), worker.memory()];
        let [serve, work] = both.map(megabytes);
        eprintln!("minute {minute}: saas serve {serve}, saas worker {work}");
        found.push(both);
    }
    Ok(found)
}

fn megabytes(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| MEGABYTES.format(value))
}

fn row(name: &str, sample: &Sample) -> [String; 5] {
    [
        name.into(),
        PER_SECOND.format(sample.rate),
        LATENCY.format(sample.p50),
        LATENCY.format(sample.p99),
        number(sample.errors as f64, 0),
    ]
}

/// Counts the lines of the level `error` in the log of a process.
fn count_errors(process: &Running) -> u64 {
    process.log().lines().filter(|line| line.contains(r#""level":"error""#)).count() as u64
}
