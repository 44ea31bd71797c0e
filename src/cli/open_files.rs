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
    let available = connections_within(limit, reserved, wanted);
    if available < wanted {
        tracing::warn!(
            "the system limits this process to {limit} open files, so it accepts {available} connections at a time instead \
             of MAX_CONNECTIONS={wanted}: raise the limit (`ulimit -Hn`, or LimitNOFILE of systemd)"
        );
    }
    available as usize
}

/// Returns how many of the `wanted` connections fit into a limit of open files, beside the `reserved` files.
fn connections_within(limit: u64, reserved: u64, wanted: u32) -> u32 {
    // Always allow at least half of a very low limit.
    let available = limit.saturating_sub(reserved).max(limit / 2);
    u32::try_from(available).unwrap_or(u32::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_of_open_files_allows_at_most_the_wanted_connections() {
        for (limit, wanted, available) in [
            (u64::MAX, 10_000, 10_000),
            (184, 100, 100),
            (183, 100, 99),
            (100, 100, 50),
            // Half of the limit is more than is wanted.
            (100, 20, 20),
        ] {
            assert_eq!(connections_within(limit, 84, wanted), available, "{limit} files, {wanted} wanted");
        }
    }
}
