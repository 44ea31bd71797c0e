//! Measurements under load, for whoever changes what they measure: `./scripts/bench`.
//!
//! Each starts private servers of its own and leaves nothing running.

mod bare;
mod queue;
mod table;

use std::process::ExitCode;

const USAGE: &str = "Usage: ./scripts/bench <WHAT> [OPTIONS]\n\n  \
    queue   the job engine, beside a bare loop over the same scripts";

fn main() -> anyhow::Result<ExitCode> {
    // Cargo tells every benchmark that it is one.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        Some("queue") => queue::main(args)?,
        None | Some("-h" | "--help") => println!("{USAGE}"),
        Some(other) => {
            eprintln!("error: there is nothing to measure that is called {other:?}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
