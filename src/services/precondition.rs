//! The condition under which a caller changes a resource (`If-Match`).

use crate::error::{Error, Result};

/// A condition on the state of a row before a change (RFC 9110 section 13.1.1). The service checks the condition on the
/// locked row, in the transaction of the change. An earlier check would miss a concurrent change.
pub struct Precondition<'a, T>(Option<Box<Holds<'a, T>>>);

/// Returns whether the row is in the state that the client expects.
type Holds<'a, T> = dyn Fn(&T) -> bool + Send + Sync + 'a;

impl<'a, T> Precondition<'a, T> {
    /// Returns a condition that every row meets.
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

    /// Checks that the locked row meets the condition.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if the row does not meet the condition.
    pub fn check(&self, locked: &T) -> Result<()> {
        match self.0.as_ref().is_none_or(|is_met| is_met(locked)) {
            true => Ok(()),
            false => Err(Error::PreconditionFailed),
        }
    }
}
