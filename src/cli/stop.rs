//! Signals. The first asks to stop, the second to hurry.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub(super) struct Stop {
    pub(super) asked: CancellationToken,
    pub(super) hurry: CancellationToken,
}

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let stop = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let tokens = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                match tokens.asked.is_cancelled() {
                    false => tokens.asked.cancel(),
                    true => tokens.hurry.cancel(),
                }
            }
        });
        Ok(stop)
    }
}
