//! Measures the list of users with a million users: the time to get a page, by search, by sort order, and by the number of
//! users before the page.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

use super::{
    document,
    fixture::{API, Fixture},
    process,
    report::LATENCY,
    wrk::Request,
};
use crate::table::{Rounds, Table, number, target};

/// The target in milliseconds: for each search and order, the median time of the first page is shorter.
const MAX_MS: f64 = 50.0;
const SORTS: [&str; 6] = ["created_at", "-created_at", "email", "-email", "full_name", "-full_name"];
/// A description and the query parameter of each search.
const SEARCHES: [(&str, &str); 9] = [
    ("nothing is searched", ""),
    ("finds one user", "search=person777777%40"),
    ("finds 0.1 %", "search=person777"),
    ("finds 1 %", "search=person77"),
    ("finds 10 %, at one end of each order", "search=imported"),
    ("finds 25 %, evenly", "search=globex"),
    ("finds all", "search=example"),
    ("finds no user", "search=xqzzy"),
    ("two characters that find no user", "search=zq"),
];

/// Measures the list of users with many users. Requests are sent one at a time.
#[derive(Parser)]
#[command(name = "./scripts/bench search", no_binary_name = true)]
struct Args {
    /// Number of users.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(20_000..=10_000_000))]
    users: u32,
    /// Requests of each measurement.
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Write the results into docs/performance.md.
    #[arg(long)]
    write: bool,
}

pub fn main(args: impl Iterator<Item = String>) -> Result<()> {
    let args = Args::parse_from(args);
    if args.write {
        document::check(document::PERFORMANCE, "search")?;
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
    eprintln!("making {} users, in a minute or two", args.users);
    fixture.add_crowd(args.users).await?;
    let (server, _) = fixture.serve().await?;
    let bench = Bench { fixture, admin: fixture.sign_in_admin().await?, rounds: args.rounds };
    let mut searches = Table::new(["first page", "median of all orders", "slowest order", "target"]);
    for (about, search) in SEARCHES {
        eprintln!("{about}");
        let (mut all, mut slowest) = (Rounds::default(), (0.0, ""));
        for sort in SORTS {
            let median = bench.time(&format!("sort={sort}&{search}")).await?.median();
            all.push(median);
            if median > slowest.0 {
                slowest = (median, sort);
            }
        }
        let goal = target(format!("< {MAX_MS} ms"), slowest.0 < MAX_MS);
        let slowest = format!("{}, {}", LATENCY.format(slowest.0), slowest.1);
        searches.push([about.into(), all.show(LATENCY), slowest, goal]);
    }
    let mut depths = Table::new(["page", "by cursor, median of all orders", "by offset", "ratio"]);
    for depth in [0, args.users / 100, args.users / 2, args.users - 100] {
        eprintln!("after {depth} users");
        let [mut by_cursor, mut by_offset] = [Rounds::default(), Rounds::default()];
        for sort in SORTS {
            let offset = format!("sort={sort}&offset={}", depth.min(1_000_000));
            by_offset.push(bench.time(&offset).await?.median());
            let cursor = match depth {
                0 => String::new(),
                _ => format!("&cursor={}", bench.cursor_after(&offset).await?),
            };
            by_cursor.push(bench.time(&format!("sort={sort}{cursor}")).await?.median());
        }
        let ratio = number(by_cursor.ratio_to(&by_offset), 2);
        let page = format!("after {} users", number(depth.into(), 0));
        depths.push([page, by_cursor.show(LATENCY), by_offset.show(LATENCY), ratio]);
    }
    server.stop().await?;
    let rounds = format!("{} users, {} requests each", number(args.users.into(), 0), args.rounds);
    println!("\n{environment}\n{rounds}\n\n{searches}\n{depths}");
    if args.write {
        let how = format!("{rounds}; `./scripts/bench search --write`");
        let tables = format!("{}\n{}", searches.markdown(), depths.markdown());
        document::write(document::PERFORMANCE, "search", &format!("{environment}; {how}.\n\n{tables}"))?;
    }
    Ok(())
}

struct Bench<'a> {
    fixture: &'a Fixture,
    /// The access token of an admin.
    admin: String,
    rounds: u16,
}

impl Bench<'_> {
    fn list(&self, query: &str) -> Request {
        Request::get(format!("{API}/users?limit=50&{query}")).with_token(&self.admin)
    }

    /// Measures the milliseconds of each of `rounds` requests for a page, after a request that is not measured.
    async fn time(&self, query: &str) -> Result<Rounds> {
        let request = self.list(query);
        self.fixture.send(&request).await?;
        let mut rounds = Rounds::default();
        for _ in 0..self.rounds {
            let begun = Instant::now();
            self.fixture.send(&request).await?;
            rounds.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(rounds)
    }

    /// Returns the cursor of the page that follows the page of `query`.
    async fn cursor_after(&self, query: &str) -> Result<String> {
        let page = self.fixture.send(&self.list(query)).await?;
        Ok(page["next_cursor"].as_str().context("this is the last page")?.to_owned())
    }
}
