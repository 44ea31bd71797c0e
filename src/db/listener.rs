//! The connection on which changes are heard, and the task that keeps it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context;
use diesel_async::SimpleAsyncConnection;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use super::{
    Snapshot,
    changes::{CHANNEL, Hearing, Shared},
    connection::{Listening, Manager},
};
use crate::{config::Database, error::BoxError, telemetry::chain};

/// Setting up takes no longer.
const SET_UP: Duration = Duration::from_secs(10);
/// A server that gives no sign of life for so long is given up.
const SILENCE: Duration = Duration::from_secs(1);
const BACK_OFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// With what we greet ourselves.
const GREETING: &str = "hello ";

/// Whether changes can be heard.
///
/// # Errors
/// Why they cannot.
pub async fn check(settings: &Database) -> anyhow::Result<()> {
    let heard = timeout(SET_UP, set_up(&Arc::default(), &Manager::new(settings)?)).await;
    heard.context("PostgreSQL does not answer")?.map(drop).map_err(|error| anyhow::anyhow!(error))
}

/// Listens, and again whenever that ends.
pub(super) async fn listen(shared: Arc<Shared>, manager: Arc<Manager>) {
    let mut pause = BACK_OFF[0];
    loop {
        let error = match listen_once(&shared, &manager).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if shared.hearing.send_replace(None).is_some() {
            pause = BACK_OFF[0];
        }
        if pause == BACK_OFF[0] {
            let error = chain(&*error);
            tracing::warn!(
                error,
                "changes in the database cannot be heard: nothing is cached until they can"
            );
        }
        sleep(pause).await;
        pause = (2 * pause).min(BACK_OFF[1]);
    }
}

async fn listen_once(shared: &Arc<Shared>, manager: &Manager) -> Result<Infallible, BoxError> {
    shared.known_mut().forget();
    let set_up = timeout(SET_UP, set_up(shared, manager)).await;
    let listener = set_up.map_err(|_| "PostgreSQL does not answer")??;
    tracing::debug!("changes in the database are heard");
    loop {
        let asked = Instant::now();
        shared.hearing.send_modify(|hearing| {
            if let Some(hearing) = hearing {
                hearing.waiting = Some(asked);
            }
        });
        timeout(SILENCE, shared.sign_of_life(&listener))
            .await
            .map_err(|_| "PostgreSQL does not answer")??;
        shared.hearing.send_replace(Some(Hearing { until: asked, waiting: None }));
        tokio::select! {
            () = shared.asked.notified() => {}
            () = shared.astray.notified() => return Err("requests are answered by another server".into()),
        }
    }
}

async fn set_up(shared: &Arc<Shared>, manager: &Manager) -> Result<Listening, BoxError> {
    let (tell, greetings) = mpsc::unbounded_channel();
    let ear = shared.clone();
    let listener = manager.listen(CHANNEL, move |payload| match payload.strip_prefix(GREETING) {
        // Nobody waits for it once we have heard our own.
        Some(name) => drop(tell.send(name.to_owned())),
        None => ear.note(payload),
    });
    let listener = listener.await?;
    greet(manager, greetings).await?;
    Ok(listener)
}

impl Shared {
    /// Whatever is told before the answer has been heard when that comes.
    async fn sign_of_life(&self, listener: &Listening) -> Result<(), BoxError> {
        let mut conn = &listener.conn;
        let forgotten = {
            let known = self.known();
            known.since.is_none().then_some(known.forgotten)
        };
        let Some(forgotten) = forgotten else { return Ok(conn.batch_execute("").await?) };
        let snapshot = Snapshot::take(conn).await?;
        let mut known = self.known_mut();
        // What was forgotten since may be later than the snapshot.
        if known.forgotten == forgotten {
            known.since = Some(snapshot);
        }
        Ok(())
    }
}

/// Makes sure that we hear what others say. Through a pooler that lends a connection for a transaction we would not.
async fn greet(manager: &Manager, mut greetings: mpsc::UnboundedReceiver<String>) -> Result<(), BoxError> {
    let name = Uuid::new_v4().simple().to_string();
    let mut other = manager.establish().await?;
    other.batch_execute(&format!("NOTIFY {CHANNEL}, '{GREETING}{name}'")).await?;
    let own = async {
        while let Some(heard) = greetings.recv().await {
            if heard == name {
                return true;
            }
        }
        false
    };
    match timeout(SILENCE, own).await {
        Ok(true) => Ok(()),
        _ => {
            Err("what is told on one connection is not heard on another (LISTEN needs a direct connection, \
                  or a pooler in session mode)"
                .into())
        }
    }
}
