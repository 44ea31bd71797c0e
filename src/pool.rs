//! What the pools of PostgreSQL and Redis have in common.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error::{BoxError, chain};

/// A connection idle for longer is asked whether it still lives before it is handed out.
pub const TRUST_IDLE: Duration = Duration::from_secs(1);
/// An error that is older does not explain why there is no connection now.
const RECENT: Duration = Duration::from_secs(5);

/// Why connections could not be made lately: the pool itself only says that there was none in time.
#[derive(Debug, Clone, Default)]
pub struct LastError(Arc<Mutex<Option<(Instant, String)>>>);

impl LastError {
    pub fn explain(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, error)) if at.elapsed() < RECENT => error.clone(),
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
