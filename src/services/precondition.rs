//! The condition under which a caller changes a resource (`If-Match`).

use crate::error::{Error, Result};

/// A condition on the state of a row or a queue before a change (RFC 9110 section 13.1.1). The service checks the condition on
/// the locked row, in the transaction of the change. An earlier check would miss a concurrent change. A queue cannot be locked,
/// so the change of a queue compares the settings again.
pub struct Precondition<'a, T>(Option<Box<Holds<'a, T>>>);

/// Returns whether the row or the queue is in a state that the client accepts.
type Holds<'a, T> = dyn Fn(&T) -> bool + Send + Sync + 'a;

impl<'a, T> Precondition<'a, T> {
    /// Returns a condition that every row and queue meets.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn new(is_met: impl Fn(&T) -> bool + Send + Sync + 'a) -> Self {
        Self(Some(Box::new(is_met)))
    }

    /// Returns whether there is a condition.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Checks that the locked row, or the queue, meets the condition.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if the condition is not met.
    pub fn check(&self, locked: &T) -> Result<()> {
        match self.0.as_ref().is_none_or(|is_met| is_met(locked)) {
            true => Ok(()),
            false => Err(Error::PreconditionFailed),
        }
    }
}
