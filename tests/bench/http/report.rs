//! The figures of the API, with baselines and targets.

use super::{
    stop::{self, Outcome},
    wrk::Sample,
};
use crate::table::{PER_SECOND, Rounds, Table, Unit, number, target};

pub const LATENCY: Unit = Unit { suffix: " ms", digits: 2 };
pub const MEGABYTES: Unit = Unit { suffix: " MB", digits: 1 };
const MILLISECONDS: Unit = Unit { suffix: " ms", digits: 0 };
const PER_SECOND_EXACT: Unit = Unit { suffix: "/s", digits: 1 };

/// The rounds of one measurement.
#[derive(Default)]
pub struct Series {
    /// The name in the table.
    pub name: &'static str,
    /// The name of this series in the rows of the series that have it as a baseline. Empty if this series is no baseline.
    short: &'static str,
    pub rate: Rounds,
    p50: Rounds,
    p99: Rounds,
    errors: u64,
    refused: u64,
}

impl Series {
    fn new(name: &'static str, short: &'static str) -> Self {
        Self { name, short, ..Self::default() }
    }

    pub fn add(&mut self, sample: Sample) {
        self.rate.push(sample.rate);
        self.p50.push(sample.p50);
        self.p99.push(sample.p99);
        self.errors += sample.errors;
        self.refused += sample.refused;
    }
}

/// All results of the benchmark.
pub struct Figures {
    pub health: Series,
    pub me: Series,
    /// `/users/me` with so many users that each request reads PostgreSQL.
    pub uncached: Series,
    /// As `uncached`, but the last use of each session is so old that the first request of the session updates it.
    pub touched: Series,
    /// `/users/me` with the access log.
    pub logged: Series,
    /// `/health` of a server with rate limits, which do not apply to `/health`.
    pub limited_health: Series,
    /// `/users/me` with rate limits.
    pub limited_me: Series,
    pub list: Series,
    /// Reads of a product of an organization, by so few users that the server has recent copies of their sessions.
    pub product: Series,
    /// Reads of the product with API keys instead of access tokens.
    pub product_by_key: Series,
    pub enqueue: Series,
    /// Enqueues by many users, each request with an idempotency key of its own.
    pub keyed: Series,
    pub status: Series,
    pub login: Series,
    /// `/users/me` from 16 connections, without the flood of logins.
    pub alone: Series,
    /// `/users/me` from 16 connections, during the flood of logins.
    pub during_flood: Series,
    pub flood: Series,
    pub bare: Series,
    pub postgres: Series,
    /// The query that reads a product, in the role `saas_tenant`.
    pub tenant: Series,
    /// The same query without the role and without a transaction.
    pub no_tenant: Series,
    pub redis: Series,
    pub hashes: Series,
    /// Milliseconds from the start of `saas serve` to its first response.
    pub cold: Rounds,
    /// Milliseconds from the response to a logout until another server refuses the token.
    pub logouts: Rounds,
    /// The shutdown under load.
    pub stop: Outcome,
    /// Megabytes of the idle server before and after the load; empty if the system does not report them.
    pub memory: [Rounds; 2],
    /// Wake-ups per second of the idle server before and after the load; empty if the system does not report them.
    pub wake_ups: [Rounds; 2],
}

impl Figures {
    pub fn new() -> Self {
        Self {
            health: Series::new("GET /health", "/health"),
            me: Series::new("GET /users/me", "/users/me"),
            uncached: Series::new("GET /users/me of 20,000 users", "/users/me of 20,000 users"),
            touched: Series::new("GET /users/me of 20,000 users, last used an hour ago", ""),
            logged: Series::new("GET /users/me with the access log", ""),
            limited_health: Series::new("GET /health with RATE_LIMITS", ""),
            limited_me: Series::new("GET /users/me with RATE_LIMITS", ""),
            list: Series::new("GET /users?limit=20", ""),
            product: Series::new("GET /orgs/{org}/products/{id}", "that with a token"),
            product_by_key: Series::new("GET /orgs/{org}/products/{id} with an API key", ""),
            enqueue: Series::new("POST /jobs/example", "that without keys"),
            keyed: Series::new("POST /jobs/example with Idempotency-Key, 200 users", ""),
            status: Series::new("GET /jobs/{id}/status", ""),
            login: Series::new("POST /auth/login, 8 connections", ""),
            alone: Series::new("GET /users/me, 16 connections", "that without the flood"),
            during_flood: Series::new("GET /users/me during the flood", ""),
            flood: Series::new("the flood: 64 connections that log in", ""),
            bare: Series::new("baseline: a bare handler", "the bare handler"),
            postgres: Series::new("baseline: pgbench, the query of /users/me", "pgbench"),
            tenant: Series::new(
                "pgbench, the query of a product in the role saas_tenant",
                "pgbench in the role",
            ),
            no_tenant: Series::new("baseline: pgbench, the same without the role", "that without the role"),
            redis: Series::new("baseline: redis-benchmark, GET", "redis-benchmark"),
            hashes: Series::new("baseline: bcrypt on all cores", "bcrypt"),
            cold: Rounds::default(),
            logouts: Rounds::default(),
            stop: Outcome::default(),
            memory: Default::default(),
            wake_ups: Default::default(),
        }
    }

    pub fn table(&self) -> Table<7> {
        let mut table =
            Table::new(["what", "figure", "p50", "p99", "errors", "ratio to baselines", "target"]);
        let Self { health, me, uncached, touched, logged, list, product, product_by_key, .. } = self;
        let Self {
            enqueue,
            keyed,
            status,
            login,
            alone,
            during_flood,
            flood,
            limited_health,
            limited_me,
            ..
        } = self;
        let flooded = during_flood.rate.ratio_to(&alone.rate) >= 0.3
            && during_flood.p99.max() < 100.0
            && during_flood.errors == 0;
        let refused = format!("{} refused with 503", number(flood.refused as f64, 0));
        for (series, baselines, goal) in [
            (health, vec![&self.bare], String::new()),
            (me, vec![health, &self.postgres], goal(me, 0.6, health)),
            (uncached, vec![health, &self.postgres], String::new()),
            (touched, vec![uncached], String::new()),
            (logged, vec![me], String::new()),
            (limited_health, vec![health], String::new()),
            (limited_me, vec![me], String::new()),
            (list, vec![health, &self.postgres], String::new()),
            (product, vec![uncached, &self.tenant], goal(product, 0.6, uncached)),
            (product_by_key, vec![product], goal(product_by_key, 0.95, product)),
            (enqueue, vec![health, &self.redis], goal(enqueue, 0.35, health)),
            (keyed, vec![enqueue, &self.postgres], String::new()),
            (status, vec![health, &self.redis], String::new()),
            (login, vec![&self.hashes], String::new()),
            (alone, vec![], String::new()),
            (during_flood, vec![alone], target(">= 0.3 of that without the flood, p99 < 100 ms", flooded)),
            (flood, vec![&self.hashes], refused),
            (&self.bare, vec![], String::new()),
            (&self.postgres, vec![], String::new()),
            (&self.tenant, vec![&self.no_tenant], String::new()),
            (&self.no_tenant, vec![], String::new()),
            (&self.redis, vec![], String::new()),
            (&self.hashes, vec![], String::new()),
        ] {
            table.push(row(series, &baselines, goal));
        }
        for row in self.process_rows() {
            table.push(row);
        }
        table
    }

    /// Returns the rows about the process of `saas serve`.
    fn process_rows(&self) -> [[String; 7]; 7] {
        let [rest, loaded] = &self.memory;
        let [idle, still] = &self.wake_ups;
        let row = |what: &str, figure: String, of: String, goal: String| {
            [what.to_owned(), figure, String::new(), String::new(), String::new(), of, goal]
        };
        let unless_empty =
            |rounds: &Rounds, text: String| if rounds.is_empty() { String::new() } else { text };
        let none = String::new;
        let cold = target("< 100 ms", self.cold.median() < 100.0);
        let small = unless_empty(rest, target("< 30 MB", rest.median() < 30.0));
        let grown = unless_empty(loaded, format!("{} of that at rest", number(loaded.ratio_to(rest), 2)));
        let calm = |rounds: &Rounds| unless_empty(rounds, target("<= 5/s", rounds.median() <= 5.0));
        let worst = self.logouts.max();
        let logouts = format!("{}, {} at most", self.logouts.show_median(LATENCY), LATENCY.format(worst));
        let stop = &self.stop;
        let end = format!(
            "{} answered, {} lost, {} turned away, {}",
            number(stop.answered as f64, 0),
            stop.lost,
            stop.turned_away,
            MILLISECONDS.format(stop.took)
        );
        [
            row(
                "logout, until refused by another replica",
                logouts,
                none(),
                target("< 100 ms", worst < 100.0),
            ),
            row(
                "SIGTERM at 5,000 requests/s",
                end,
                none(),
                target(
                    "none lost, none turned away, exit 0",
                    stop.lost + stop.turned_away == 0 && stop.answered >= u64::from(stop::RATE),
                ),
            ),
            row("start until the first response of /health", self.cold.show(MILLISECONDS), none(), cold),
            row("memory (RSS) at rest", rest.show(MEGABYTES), none(), small),
            row("memory (RSS) after the load", loaded.show(MEGABYTES), grown, none()),
            row("idle wake-ups before the load", idle.show(PER_SECOND_EXACT), none(), calm(idle)),
            row("idle wake-ups after the load", still.show(PER_SECOND_EXACT), none(), calm(still)),
        ]
    }

    /// Returns the bars of the plot: name, rate per second, and whether it is a baseline.
    pub fn bars(&self) -> Vec<(&'static str, f64, bool)> {
        let measured = [
            &self.health,
            &self.me,
            &self.uncached,
            &self.list,
            &self.product,
            &self.enqueue,
            &self.status,
            &self.login,
        ];
        let baselines = [&self.bare, &self.postgres, &self.redis, &self.hashes];
        let bar = |baseline: bool| move |series: &&Series| (series.name, series.rate.median(), baseline);
        measured.iter().map(bar(false)).chain(baselines.iter().map(bar(true))).collect()
    }
}

fn goal(series: &Series, least: f64, baseline: &Series) -> String {
    let met = series.rate.ratio_to(&baseline.rate) >= least && series.errors == 0;
    target(format!(">= {least} of {}", baseline.short), met)
}

fn row(series: &Series, baselines: &[&Series], goal: String) -> [String; 7] {
    let share = |baseline: &&Series| {
        format!("{} of {}", number(series.rate.ratio_to(&baseline.rate), 2), baseline.short)
    };
    let errors = match (series.errors, series.p50.is_empty()) {
        (_, true) => String::new(),
        (0, _) => "0".into(),
        (errors, _) => format!("{} ERRORS", number(errors as f64, 0)),
    };
    [
        series.name.into(),
        series.rate.show(PER_SECOND),
        series.p50.show_median(LATENCY),
        series.p99.show_median(LATENCY),
        errors,
        baselines.iter().map(share).collect::<Vec<_>>().join(", "),
        goal,
    ]
}
