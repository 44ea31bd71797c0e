//! Errors of opening and testing connections, for the pools of PostgreSQL and Redis.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{BoxError, chain};

/// Age after which an error of opening or testing a connection no longer explains why the pool has no connection.
const ERROR_MAX_AGE: Duration = Duration::from_secs(5);

/// The last error of opening a connection, or of testing an open one. The error of a checkout only says that no connection was
/// available in time.
#[derive(Debug, Clone, Default)]
pub struct LastError(Arc<Mutex<Option<(Instant, String)>>>);

impl LastError {
    /// Returns the reason why the pool has no connection: the last error if it is less than 5 seconds old, or else that no
    /// connection was free in time.
    pub fn explain(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, error)) if at.elapsed() < ERROR_MAX_AGE => error.clone(),
            _ => "no connection was free in time".into(),
        }
    }
}

impl<E: Into<BoxError> + Send + 'static> bb8::ErrorSink<E> for LastError {
    fn sink(&self, error: E) {
        let text = chain(&*error.into());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text));
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<E>> {
        Box::new(self.clone())
    }
}
