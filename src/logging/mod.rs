//! Logging to standard error: by default text in development, and one JSON object per line in production.

mod human;
mod json;
mod span_fields;

use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt::format::JsonFields, layer::SubscriberExt, util::SubscriberInitExt};

use self::{human::HumanLines, json::JsonLines};
use crate::config::{Core, LogFormat, Logs};

/// Size of the buffer of the log, in bytes.
const LOG_BUFFER_BYTES: usize = 64 * 1024;
/// Maximum number of lines that wait for the logging thread. Their queue is allocated at the start, with 40 bytes per line.
const MAX_WAITING_LINES: usize = 8_192;

/// Starts logging. Call it once, and keep the guard until the command ends: dropping it writes the remaining lines.
///
/// A thread writes the lines. So lines that are logged at the same time share a system call, and requests and jobs do not wait
/// for system calls. The queue drops no line: while `MAX_WAITING_LINES` lines wait for the thread, logging waits.
///
/// # Errors
/// If `LOG_LEVEL` is invalid or logging has already been started.
pub fn init(core: &Core, settings: &Logs) -> anyhow::Result<WorkerGuard> {
    // Hides the messages of these libraries below `warn`, which repeat those of this program or only help their developers. A
    // filter in LOG_LEVEL that names the library, such as `info,hyper=debug`, overrides this.
    let quiet = "poem=warn,tokio_postgres=warn,hyper=warn,rustls=warn";
    let level = settings.log_level.get()?.map_or("info", String::as_str);
    let filter = EnvFilter::try_new(format!("{quiet},{level}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = BufWriter::with_capacity(LOG_BUFFER_BYTES, std::io::stderr());
    let builder =
        NonBlockingBuilder::default().lossy(false).buffered_lines_limit(MAX_WAITING_LINES).thread_name("log");
    let (writer, guard) = builder.finish(stderr);
    match settings.format(core.debug) {
        LogFormat::Human => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(writer)
                .with_ansi(std::io::stderr().is_terminal())
                .fmt_fields(JsonFields::new())
                .event_format(HumanLines { with_date: !core.debug });
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(writer)
                .fmt_fields(JsonFields::new())
                .event_format(JsonLines { service: core.project_name.clone() });
            registry.with(layer).try_init()?;
        }
    }
    Ok(guard)
}
