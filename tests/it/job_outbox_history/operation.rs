//! The operations of a history: transactions that enqueue a job, and runs of the relay.

use std::{future::poll_fn, pin::pin, task::Poll};

use clap::Parser;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join;
use saas::{
    app::App,
    config::Config,
    context::RequestContext,
    db::{Effects, Tx},
    error::{Error, Result},
    models::job_outbox::JobOutboxRow,
    queue::{EnqueueOptions, Origin, PreparedJob},
    services::{job_outbox::EnqueueInTx, job_relay::sweep, transaction::change_without_actor},
};

use crate::support::queue::{Behavior, Task};

/// The table to which each transaction adds a row with the id and the name of its job.
pub const LEDGER: &str = "CREATE TABLE ledger (id UUID PRIMARY KEY, name TEXT NOT NULL UNIQUE)";

/// A wrong order of steps, which the check must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    DeletesRowsFirst,
    EnqueuesBeforeCommit,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

pub fn start_app(database: &str, redis: &str) -> App {
    let urls = [format!("--database-url={database}"), format!("--redis-url={redis}")];
    let flags = [
        "test",
        "--debug=true",
        "--database-timeout-ms=1000",
        "--redis-timeout-ms=1000",
        "--redis-key-prefix=rq",
    ];
    let flags = flags.into_iter().chain(urls.iter().map(String::as_str));
    App::new(Settings::parse_from(flags).config).unwrap()
}

/// One operation of an API process or of a worker.
pub struct Operation {
    pub app: App,
    pub bug: Option<Bug>,
    pub name: String,
    /// Whether the operation is a run of the relay. Otherwise, it is a transaction.
    pub is_relay: bool,
    /// For a relay: whether the claims of crashed relays on rows have expired.
    pub claims_are_over: bool,
    /// For a transaction: whether it commits.
    pub commits: bool,
    /// For a transaction: whether the process enqueues the job right after the commit. Otherwise, the job stays in the outbox,
    /// as after a crash.
    pub relays_soon: bool,
}

impl Operation {
    /// Runs the operation. Ignores errors, because the servers may be unavailable.
    pub async fn run(&self) {
        let _ = match self.is_relay {
            true => self.relay().await,
            false => self.transact().await,
        };
    }

    async fn relay(&self) -> Result<()> {
        let app = &self.app;
        if self.claims_are_over {
            let end = diesel::sql_query("UPDATE job_outbox SET claimed_until = NULL");
            app.db.run(async |conn| Ok(end.clone().execute(conn).await?)).await?;
        }
        if self.bug == Some(Bug::DeletesRowsFirst) {
            return delete_then_enqueue(app).await;
        }
        let (one, other) = join(sweep(app), sweep(app)).await;
        one.and(other).map(drop)
    }

    async fn transact(&self) -> Result<()> {
        let Self { app, name, bug, commits, .. } = self;
        let (context, effects) = (RequestContext::default(), Effects::default());
        let work = async |tx: &Tx<'_>| -> Result<()> {
            let job = Task { name: name.clone(), behavior: Behavior::Succeed };
            let (origin, options) = (Origin::default(), EnqueueOptions::default());
            let id = match bug {
                Some(Bug::EnqueuesBeforeCommit) => {
                    app.queue.enqueue_prepared(&app.queue.prepare(&job, origin, options)?).await?
                }
                _ => app.queue.enqueue_in_tx(tx, &job, origin, options).await?,
            };
            let row = format!("INSERT INTO ledger VALUES ('{id}', '{name}')");
            diesel::sql_query(row).execute(&mut tx.conn()).await?;
            if *commits { Ok(()) } else { Err(Error::Conflict("rolled back")) }
        };
        if self.relays_soon {
            return change_without_actor(app, &context, work).await;
        }
        let transaction = async |conn: &mut AsyncPgConnection| work(&Tx::on(conn, &context, &effects)).await;
        app.db.transaction(transaction).await
    }
}

/// A relay with a bug: it deletes the rows before it enqueues the jobs, so a crash loses jobs.
async fn delete_then_enqueue(app: &App) -> Result<()> {
    let claimed = app.db.run(async |conn| Ok(JobOutboxRow::claim(conn, None).await?)).await?;
    let ids: Vec<_> = claimed.iter().map(|claimed| claimed.job.id).collect();
    app.db.run(async |conn| Ok(JobOutboxRow::delete(conn, &ids).await?)).await?;
    for row in claimed.into_iter().map(|claimed| claimed.job) {
        let JobOutboxRow { queue, task, owner, envelope, .. } = row;
        let (id, options) = (row.id.simple().to_string(), EnqueueOptions::default());
        app.queue.enqueue_prepared(&PreparedJob { id, queue, task, owner, envelope, options }).await?;
    }
    Ok(())
}

/// Polls a future at most `polls` times. Returns whether the future has completed. If not, a future that was passed by value is
/// dropped, like the work of a process that crashes.
pub async fn poll_at_most<F: Future>(future: F, mut polls: usize) -> bool {
    let mut future = pin!(future);
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(false);
        }
        polls -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}
