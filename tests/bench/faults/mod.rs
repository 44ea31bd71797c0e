//! Injects faults while the real binary serves a steady load, and counts failed requests and lost jobs. Each fault has
//! servers and processes of its own.
//!
//! | file | concern |
//! |---|---|
//! | `fault` | the faults |
//! | `stack` | the servers and processes that a fault is injected into |
//! | `redis_servers`, `redis_node` | one Redis server, Sentinels with a primary and its replicas, a cluster |
//! | `postgres` | a PostgreSQL server that can be killed, suspended and promoted |
//! | `proxy`, `signals` | a network that can be cut, processes that can be suspended and killed |
//! | `load` | the load, and the time without successful responses |
//! | `report` | the counts of failed requests and lost jobs, and the table |
//! | `poll` | waiting for conditions |

mod fault;
mod load;
mod poll;
mod postgres;
mod proxy;
mod redis_node;
mod redis_servers;
mod report;
mod signals;
mod stack;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::http::{document, process};
use fault::Fault;
use report::{Measurement, Report, Runs};
use stack::Stack;

/// How long the load runs before a fault.
const LOAD_BEFORE: Duration = Duration::from_secs(3);
/// How long the load runs after the cause of a fault has ended.
const LOAD_AFTER: Duration = Duration::from_secs(10);

/// Injects faults under load, and counts failed requests and lost jobs.
#[derive(Parser)]
#[command(name = "./scripts/bench faults", no_binary_name = true)]
struct Args {
    /// Only faults with this text in their name.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the results into docs/scaling.md.
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let args = Args::parse_from(args);
    if args.write {
        document::check(document::SCALING, "faults")?;
    }
    process::block_on(measure_all(args))
}

async fn measure_all(args: Args) -> Result<()> {
    let only = args.only.as_deref().unwrap_or_default();
    let faults: Vec<_> = Fault::ALL.into_iter().filter(|fault| fault.name().contains(only)).collect();
    ensure!(!faults.is_empty(), "no fault has {only:?} in its name");
    let (mut report, mut servers) = (Report::new(), String::new());
    for (at, fault) in faults.iter().enumerate() {
        eprintln!("{} of {}: {}", at + 1, faults.len(), fault.name());
        let mut stack = Stack::start(*fault).await?;
        if servers.is_empty() {
            servers = stack.describe().await?;
        }
        let measurement = measure(*fault, &mut stack).await.with_context(|| fault.name())?;
        stack.stop().await?;
        report.add(fault.name(), &measurement);
    }
    let environment = format!("{}; {servers}", document::describe_machine()?);
    println!("\n{environment}\n\n{}", report.table());
    if args.write {
        let how = "`./scripts/bench faults --write`";
        let text = format!("{environment}; {how}.\n\n{}", report.table().markdown());
        document::write(document::SCALING, "faults", &text)?;
    }
    Ok(())
}

/// Injects a fault under load, and waits until all jobs have ended.
async fn measure(fault: Fault, stack: &mut Stack) -> Result<Measurement> {
    let (load, stop) = (stack.load()?, CancellationToken::new());
    let injection = async {
        sleep(LOAD_BEFORE).await;
        fault.inject(stack).await?;
        let over = Instant::now();
        sleep(LOAD_AFTER).await;
        stop.cancel();
        anyhow::Ok(over)
    };
    let loading = async { anyhow::Ok(load.run(&stop).await) };
    let (samples, over) = tokio::try_join!(loading, injection)?;
    stack.check()?;
    stack.wait_for_jobs().await?;
    let ids = samples.accepted();
    let states = stack.states(&ids).await?;
    let (runs, jobs) = (Runs::parse(&stack.worker_logs()?), ids.into_iter().zip(states).collect());
    Ok(Measurement { samples, over, runs, jobs })
}
