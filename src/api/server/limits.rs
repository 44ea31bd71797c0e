use std::time::Duration;

/// What a server lets its clients do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// How long requests under way may take once the server is told to stop.
    pub grace: Duration,
    /// How long a request's head may take: the first one since the connection was made, others from their first byte on.
    pub head: Duration,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How long a client may take to make room for more of an answer.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            grace: Duration::from_secs(25),
            head: Duration::from_secs(10),
            // Load balancers keep theirs for a minute; it should be they who close, lest a request meets a closing door.
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}
