//! Measurements under load, for whoever changes what they measure: `./scripts/bench`.
//!
//! Each starts private servers of its own and leaves nothing running.

mod bare;
mod http;
mod queue;
mod table;

use std::process::ExitCode;

// As `saas` has it, for the bare handler that it is compared with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "Usage: ./scripts/bench <WHAT> [OPTIONS]\n\n  \
    http    the API, beside a bare handler, PostgreSQL and Redis alone\n  \
    soak    everything at once for ten minutes: memory, errors\n  \
    queue   the job engine, beside a bare loop over the same scripts";

fn main() -> anyhow::Result<ExitCode> {
    // Cargo tells every benchmark that it is one.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        Some("http") => http::main(args)?,
        Some("soak") => http::soak::main(args)?,
        Some("queue") => queue::main(args)?,
        Some(http::BARE_HANDLER) => http::serve_bare()?,
        None | Some("-h" | "--help") => println!("{USAGE}"),
        Some(other) => {
            eprintln!("error: there is nothing to measure that is called {other:?}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
