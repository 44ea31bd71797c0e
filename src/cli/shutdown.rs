use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The requests to stop this process that signals have made.
#[derive(Clone, Default)]
pub(super) struct Shutdown {
    /// Canceled by the first signal: finish what is running, then stop.
    pub(super) graceful: CancellationToken,
    /// Canceled by the second signal: stop at once.
    pub(super) immediate: CancellationToken,
}

impl Shutdown {
    /// Starts to listen for SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// If the process cannot listen for signals.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::default();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let tokens = shutdown.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                match tokens.graceful.is_cancelled() {
                    false => tokens.graceful.cancel(),
                    true => tokens.immediate.cancel(),
                }
            }
        });
        Ok(shutdown)
    }
}
