//! Measures the cost of enqueuing a job in a transaction.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use diesel_async::RunQueryDsl;
use futures_util::future::try_join_all;
use saas::{
    app::App,
    config::Config,
    context::RequestContext,
    db::{Tx, migrations},
    dev::{self, Purpose, Server},
    models::job_outbox::JobOutboxRow,
    queue::{EnqueueOptions, Origin},
    services::{job_outbox::EnqueueInTx, transaction::change_without_actor},
};
use secrecy::ExposeSecret;
use tokio::time::sleep;

use super::Bench;
use crate::{
    bare::CALLERS,
    table::{PER_SECOND, Rounds, Table, number},
};

/// Time between two reads of the table `job_outbox`.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

impl Bench {
    /// Measures callers that insert a row and enqueue a job, either after the commit or in the transaction. The time
    /// ends when the queue has all jobs.
    pub(super) async fn measure_transactions(&self) -> Result<Table<4>> {
        let postgres = Server::postgres(&dev::test_dir()?, Purpose::Test).await?;
        let table = self.compare_transactions(postgres.url.expose_secret()).await;
        postgres.stop().await;
        table
    }

    async fn compare_transactions(&self, database: &str) -> Result<Table<4>> {
        let flags = [
            "bench".to_owned(),
            "--debug=true".to_owned(),
            format!("--database-url={database}"),
            format!("--redis-url={}", self.url),
            "--redis-key-prefix=transactions".to_owned(),
            "--database-timeout-ms=60000".to_owned(),
            "--redis-timeout-ms=60000".to_owned(),
        ];
        let app = App::new(Settings::try_parse_from(flags)?.config)?;
        migrations::up(&app.config.database).await?;
        let create = diesel::sql_query("CREATE TABLE changes (n INT)");
        app.db.run(async |conn| Ok(create.clone().execute(conn).await?)).await?;
        let head = ["change and enqueue", "enqueue after the commit", "enqueue_in_tx", "ratio"];
        let mut table = Table::new(head);
        for (callers, jobs) in [(1, self.size(1_000)), (CALLERS, self.size(10_000))] {
            let mut rates = <[Rounds; 2]>::default();
            for round in 1..=self.rounds(3) {
                eprintln!("jobs of transactions, {callers} callers: round {round}");
                for (in_tx, rate) in [false, true].into_iter().zip(&mut rates) {
                    let begun = Instant::now();
                    let calls = (0..callers).map(|_| self.change_and_enqueue(&app, in_tx, jobs / callers));
                    try_join_all(calls).await?;
                    wait_until_relayed(&app).await?;
                    rate.push(jobs as f64 / begun.elapsed().as_secs_f64());
                    self.flush().await?;
                }
            }
            let [after, in_tx] = &rates;
            table.push([
                format!("{callers} callers"),
                after.show(PER_SECOND),
                in_tx.show(PER_SECOND),
                number(in_tx.ratio_to(after), 2),
            ]);
        }
        Ok(table)
    }

    async fn change_and_enqueue(&self, app: &App, in_tx: bool, times: usize) -> Result<()> {
        let (context, job) = (RequestContext::default(), &self.batch[0]);
        for _ in 0..times {
            let change = async |tx: &Tx<'_>| -> saas::error::Result<()> {
                tx.set_identities_unchanged();
                diesel::sql_query("INSERT INTO changes VALUES (1)").execute(&mut tx.conn()).await?;
                if in_tx {
                    let (origin, options) = (Origin::default(), EnqueueOptions::default());
                    app.queue.enqueue_in_tx(tx, job, origin, options).await?;
                }
                Ok(())
            };
            change_without_actor(app, &context, change).await?;
            if !in_tx {
                app.queue.enqueue(job, Origin::default()).await?;
            }
        }
        Ok(())
    }
}

/// Waits until no job is left in the table `job_outbox`: then the queue has all jobs.
async fn wait_until_relayed(app: &App) -> Result<()> {
    while app.db.run(async |conn| Ok(JobOutboxRow::count_waiting(conn, None, 1).await?)).await? > 0 {
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
