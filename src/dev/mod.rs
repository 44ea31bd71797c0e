//! Private PostgreSQL and Redis servers for `saas dev`, `saas migrate schema`, the tests and the benchmarks. They stop when the
//! process that has started them ends.
//!
//! | file | concern |
//! |---|---|
//! | `server` | a running server, and whether its data is kept |
//! | `running` | the lock of `saas dev`, and how other commands find its servers |
//! | `postgres`, `redis` | start one server each |
//! | `guard` | a child process that ends when its parent does |
//! | `data_dir`, `wipe` | the data directories: location, removal |
//! | `private` | files and directories that other users cannot access |
//! | `program` | finds the installed server programs |

mod data_dir;
mod guard;
mod postgres;
mod private;
mod program;
mod redis;
mod running;
mod server;
mod wipe;

pub use data_dir::test_dir;
pub use private::{create_private_dir, make_files_private, open_private_file};
pub use running::{DEFAULT_STATE_DIR, LOCK_FILE, RunningServers, lock_state};
pub use server::{Purpose, Server};
pub use wipe::wipe;
