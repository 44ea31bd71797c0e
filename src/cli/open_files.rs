//! The limit of open files. Each connection is an open file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of open files reserved for everything but connections of clients and of PostgreSQL: Redis, listeners, logs, SMTP.
const RESERVED_FILES: u64 = 64;

/// Raises the limit of open files as far as needed and as far as the system permits. Returns how many of the `wanted`
/// client connections fit into the limit, beside `database` connections to PostgreSQL.
pub(super) fn reserve_connections(wanted: u32, database: u32) -> usize {
    let before = getrlimit(Resource::Nofile);
    let reserved = RESERVED_FILES + u64::from(database);
    let needed = u64::from(wanted) + reserved;
    let target = before.maximum.map_or(needed, |maximum| maximum.min(needed));
    if before.current.is_some_and(|current| current < target) {
        // If the system refuses, fewer connections fit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum: before.maximum });
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit >= needed {
        return wanted as usize;
    }
    // Always allow at least half of a very low limit.
    let available = limit.saturating_sub(reserved).max(limit / 2);
    tracing::warn!(
        "the system limits this process to {limit} open files, so it accepts {available} connections at a time instead \
         of MAX_CONNECTIONS={wanted}: raise the limit (`ulimit -Hn`, or LimitNOFILE of systemd)"
    );
    usize::try_from(available).unwrap_or(usize::MAX)
}
