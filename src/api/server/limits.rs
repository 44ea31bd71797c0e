use std::time::Duration;

/// The maximum size of the head of a request. The response to a larger one is 431, or 414 if most of it is the target.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The maximum number of headers of a request.
pub(super) const MAX_HEADERS: usize = 100;

/// Limits of connections and time limits of the HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of open connections. Further connections wait in the backlog of the operating system.
    pub connections: usize,
    /// How long a connection may keep the server waiting for its client while others wait in the backlog. The
    /// longer the others wait, the shorter is this time.
    pub reclaim_after: Duration,
    /// How long running requests may take after the shutdown begins.
    pub grace: Duration,
    /// How long a client may take to send the head of a request. The time of the first request starts with the
    /// connection, that of a later request with its first byte.
    pub head: Duration,
    /// How long a connection may be idle between two requests.
    pub idle: Duration,
    /// How long a write of the response may block because the client does not read.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            reclaim_after: Duration::from_secs(1),
            grace: Duration::from_secs(25),
            head: Duration::from_secs(10),
            // Longer than the 60 seconds of common load balancers, so that they close idle connections first. A request
            // that arrives while the server closes the connection would be lost.
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}
