//! Benchmarks, run by `./scripts/bench`.
//!
//! Each benchmark starts private servers and stops them at the end.

mod bare;
mod faults;
mod http;
mod queue;
mod table;

use std::process::ExitCode;

// The same allocator as in `saas`, so that the bare handler is comparable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "Usage: ./scripts/bench <WHAT> [OPTIONS]\n\n  \
    http    the API, beside a bare handler, PostgreSQL and Redis\n  \
    soak    ten minutes of mixed load: memory, errors\n  \
    search  the list of users at a million users\n  \
    queue   the job engine, beside a bare loop over the same scripts\n  \
    faults  what faults of Redis, PostgreSQL, workers and networks cost";

fn main() -> anyhow::Result<ExitCode> {
    // Cargo passes `--bench` to every benchmark.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        Some("http") => http::main(args)?,
        Some("soak") => http::soak::main(args)?,
        Some("search") => http::search::main(args)?,
        Some("queue") => queue::main(args)?,
        Some("faults") => faults::main(args)?,
        Some(http::BARE_HANDLER) => http::serve_bare()?,
        None | Some("-h" | "--help") => println!("{USAGE}"),
        Some(other) => {
            eprintln!("error: unknown benchmark {other:?}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
