//! How many connections the system lets this process have: each is an open file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For Redis, the listeners, the logs, mails.
const OTHERS: u64 = 64;

/// Raises the limit of open files as far as the system permits, and says how many of so many connections there is room
/// for beside those to the database.
pub(super) fn connections(wanted: u32, database: u32) -> usize {
    let before = getrlimit(Resource::Nofile);
    let others = OTHERS + u64::from(database);
    let enough = u64::from(wanted) + others;
    let target = before.maximum.map_or(enough, |most| most.min(enough));
    if before.current.is_some_and(|current| current < target) {
        // Where this is not permitted there is less room.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum: before.maximum });
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now >= enough {
        return wanted as usize;
    }
    // Half of what is hardly anything.
    let room = now.saturating_sub(others).max(now / 2);
    tracing::warn!(
        "the system lets this process have {now} open files, so that it takes {room} connections at once rather than \
         MAX_CONNECTIONS={wanted}: raise it (`ulimit -Hn`, LimitNOFILE of systemd)"
    );
    usize::try_from(room).unwrap_or(usize::MAX)
}
