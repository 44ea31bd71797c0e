//! Idempotent requests: for 24 hours, a client may repeat a request with an `Idempotency-Key` without a second effect
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! The transaction of the change also stores the answer, so that both are committed or neither is, even if the process
//! crashes. The steps of this transaction are:
//!
//! 1. [`Once::lock`] takes an advisory lock on the caller, the operation and the key. It never waits: if another
//!    transaction holds the lock, the request is refused with 409. This step runs before the transaction waits for any
//!    row lock.
//! 2. The service checks again that the actor is allowed to make the change.
//! 3. [`Once::find`] looks for a stored answer. This is a separate statement after the lock, so it sees what the
//!    previous holder of the lock has committed.
//! 4. If no answer is stored, the service makes the change, and [`Once::store`] stores the answer. The rollback after an
//!    error also discards the answer.
//!
//! [`Once::change`] runs all steps for changes of signed-in users. In step 2, it calls `Actor::lock`. `org_change` runs the steps
//! for changes of an organization, and also checks the membership in step 2. For changes of the data of an organization, `lock`
//! and `find` run before the transaction changes the database role. `store` runs in the changed role, and needs only the
//! privilege INSERT.

use serde_json::json;

use super::{
    actor::{Actor, Affected, LockedUsers},
    transaction::{change, change_after},
};
use crate::{
    app::App,
    context::RequestContext,
    db::{KeyInUse, Tx},
    error::{Error, OnConstraint, Result},
    models::idempotency_key::{KeyId, NewStoredAnswer, StoredAnswer},
    security::hash_parts,
};

/// Maximum size of the body of a stored answer. An operation with larger answers must not accept a key.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The idempotency key of a request.
pub struct RequestKey {
    /// The id of the operation in the API document.
    pub operation: &'static str,
    pub key: String,
    /// SHA-256 hash of the content of the request. It detects a key that is reused for a different request.
    pub fingerprint: Vec<u8>,
}

/// An answer, in the form in which it is stored and sent.
pub struct Answer {
    pub status: u16,
    /// Pairs of header name and value.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// An answer to send.
pub struct Answered {
    pub answer: Answer,
    pub is_replayed: bool,
}

/// Makes the change of a request at most once per idempotency key while the answer is stored, and renders the answer to the
/// request. A request without a key is not deduplicated.
pub struct Once<'a, T> {
    key: Option<&'a RequestKey>,
    render: Box<Render<'a, T>>,
}

/// Renders the answer from the result of a change.
type Render<'a, T> = dyn Fn(&T) -> Result<Answer> + Send + Sync + 'a;

impl RequestKey {
    fn id<'a>(&'a self, caller: &'a str) -> KeyId<'a> {
        KeyId { caller, operation: self.operation, key: &self.key }
    }
}

impl<'a, T> Once<'a, T> {
    /// Creates the `Once` of a request. `render` returns the answer for the result of the change.
    pub fn new(
        key: Option<&'a RequestKey>,
        render: impl Fn(&T) -> Result<Answer> + Send + Sync + 'a,
    ) -> Self {
        Self { key, render: Box::new(render) }
    }

    /// Returns whether the request has a key, so that its answer has to be stored.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Makes a change like [`transaction::change`](change), at most once for the key of the request. Checks that the actor may
    /// still make the change before it returns a stored answer.
    ///
    /// `check_limits` runs ahead of the transaction, unless a valid answer is already stored: a repeated request must neither
    /// count against a limit nor be refused because of a limit.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyInUse`] while another request with the key is in progress; [`Error::IdempotencyKeyReused`] if
    /// the client has used the key for a different request; those of `check_limits` and of [`change`]; and those of
    /// [`Self::store`].
    pub async fn change(
        &self,
        app: &App,
        actor: &Actor,
        affected: Affected,
        check_limits: impl AsyncFnOnce() -> Result<()>,
        work: impl AsyncFnOnce(&Tx<'_>, &LockedUsers) -> Result<T> + Clone,
    ) -> Result<Answered> {
        if !self.has_key() {
            check_limits().await?;
            let done = change(app, actor, affected, work).await?;
            return self.answer(&done);
        }
        let _in_use = self.use_key(app, actor.context())?;
        if let Some(answered) = self.replay(app, actor).await? {
            return Ok(answered);
        }
        check_limits().await?;
        let lock = async |tx: &Tx<'_>| self.lock(tx).await;
        let change_unless_done = async |tx: &Tx<'_>, locked: &LockedUsers| {
            if let Some(answered) = self.find(tx).await? {
                tx.set_identities_unchanged();
                return Ok(answered);
            }
            let done = work.clone()(tx, locked).await?;
            self.store(tx, &done).await
        };
        change_after(app, actor, lock, affected, change_unless_done).await
    }

    /// Returns the stored answer, after a check that the actor may still make the change. `None` if no valid answer is stored.
    async fn replay(&self, app: &App, actor: &Actor) -> Result<Option<Answered>> {
        if !self.is_stored(app, actor.context()).await? {
            return Ok(None);
        }
        change(app, actor, Affected::Actor, async |tx, _| {
            tx.set_identities_unchanged();
            self.find(tx).await
        })
        .await
    }

    /// Reserves the key in this process until the returned value is dropped. Returns `None` for a request without a key.
    /// Without the reservation, concurrent requests with the same key would each count against the limits and hold a
    /// connection.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyInUse`] if another request has reserved the key.
    pub(super) fn use_key<'k>(
        &self,
        app: &'k App,
        context: &RequestContext,
    ) -> Result<Option<KeyInUse<'k, i64>>> {
        let Some(key) = self.key else { return Ok(None) };
        let caller = caller(context)?;
        let used = app.idempotency_keys.try_use(lock_number(key.id(&caller)));
        used.map(Some).ok_or(Error::IdempotencyKeyInUse)
    }

    /// Returns whether an answer is stored for the key. The answer may be expired. Most keys are new, so this query usually
    /// saves the transaction that checks the actor and reads the answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL does not answer.
    pub(super) async fn is_stored(&self, app: &App, context: &RequestContext) -> Result<bool> {
        let Some(key) = self.key else { return Ok(false) };
        let caller = caller(context)?;
        let id = key.id(&caller);
        app.db.run(async |conn| Ok(StoredAnswer::find(conn, id).await?.is_some())).await
    }

    /// Takes the advisory lock of the key until the transaction ends. Does nothing without a key.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyInUse`] if another transaction holds the lock; [`Error::Unavailable`] if PostgreSQL does
    /// not answer.
    pub async fn lock(&self, tx: &Tx<'_>) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let caller = caller(tx.context)?;
        match StoredAnswer::try_lock(tx, lock_number(key.id(&caller))).await? {
            true => Ok(()),
            false => Err(Error::IdempotencyKeyInUse),
        }
    }

    /// Returns the stored answer, or `None` if no valid answer is stored. Deletes an expired answer, so that its key can be
    /// used again.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`] if the client has used the key for a different request; [`Error::Unavailable`] if
    /// PostgreSQL does not answer.
    pub async fn find(&self, tx: &Tx<'_>) -> Result<Option<Answered>> {
        let Some(key) = self.key else { return Ok(None) };
        let caller = caller(tx.context)?;
        let id = key.id(&caller);
        let Some(stored) = StoredAnswer::find(tx, id).await? else { return Ok(None) };
        if stored.is_expired() {
            StoredAnswer::delete(tx, id).await?;
            return Ok(None);
        }
        if stored.fingerprint != key.fingerprint {
            return Err(Error::IdempotencyKeyReused);
        }
        Ok(Some(Answered { answer: Answer::of(stored)?, is_replayed: true }))
    }

    /// Returns the answer for the result of the change, and stores it if the request has a key.
    ///
    /// # Errors
    /// [`Error::IdempotencyNotSupported`] if the body has more than 64 KiB; [`Error::Internal`] if the answer cannot be
    /// rendered; [`Error::IdempotencyKeyInUse`] if a transaction without the lock has stored an answer for the key;
    /// [`Error::Unavailable`] if PostgreSQL does not answer.
    pub async fn store(&self, tx: &Tx<'_>, done: &T) -> Result<Answered> {
        let answered = self.answer(done)?;
        let Some(key) = self.key else { return Ok(answered) };
        let Answer { status, headers, body } = &answered.answer;
        if body.len() > MAX_BODY_BYTES {
            tracing::warn!(
                operation = key.operation,
                bytes = body.len(),
                "an answer is too large to be stored"
            );
            return Err(Error::IdempotencyNotSupported);
        }
        let caller = caller(tx.context)?;
        let stored = NewStoredAnswer {
            caller: &caller,
            operation: key.operation,
            key: &key.key,
            fingerprint: &key.fingerprint,
            status: i16::try_from(*status).map_err(Error::internal)?,
            headers: json!(headers),
            body,
        };
        // Transactions that take the lock never insert a second answer. If a transaction without the lock has inserted an
        // answer, this converts the error.
        stored.insert(tx).await.on_constraint("idempotency_keys_pkey", Error::IdempotencyKeyInUse)?;
        Ok(answered)
    }

    /// Returns the answer for the result of an operation, without storing the answer.
    ///
    /// # Errors
    /// [`Error::Internal`] if the answer cannot be rendered.
    pub fn answer(&self, done: &T) -> Result<Answered> {
        Ok(Answered { answer: (self.render)(done)?, is_replayed: false })
    }
}

impl Answer {
    fn of(stored: StoredAnswer) -> Result<Self> {
        Ok(Self {
            status: u16::try_from(stored.status).map_err(Error::internal)?,
            headers: serde_json::from_value(stored.headers).map_err(Error::internal)?,
            body: stored.body,
        })
    }
}

/// Returns the name under which the answers to the caller are stored, see [`RequestContext::caller`].
fn caller(context: &RequestContext) -> Result<String> {
    context.caller().ok_or_else(|| Error::internal("an idempotency key without a caller"))
}

/// Returns the number of the advisory lock of a key: 64 bits of a hash. If two keys had the same number, a request with
/// one key would be refused while a request with the other key is in progress.
fn lock_number(id: KeyId<'_>) -> i64 {
    let parts = ["idempotency key", id.caller, id.operation, id.key].map(str::as_bytes);
    hash_parts(&parts).iter().take(8).fold(0, |number, byte| (number << 8) | i64::from(*byte))
}
