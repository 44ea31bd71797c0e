//! The baseline of the job engine: loops that only call the Lua scripts of the engine. This module also reads
//! statistics of Redis.

use std::{sync::LazyLock, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::{OptionFuture, join};
use redis::{AsyncConnectionConfig, RedisResult, Script, aio::MultiplexedConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

pub const QUEUE: &str = "default";
/// The number of concurrent callers that enqueue one job at a time.
pub const CALLERS: usize = 50;
/// Time limit of a Redis command. The longest command deletes a million jobs, and takes less.
const REDIS_TIMEOUT: Duration = Duration::from_secs(120);

// Builds the same script text as `src/queue/scripts.rs`. The scripts then have the same hashes as in the engine, by which
// `script_name` recognizes them in the slow log.
macro_rules! script {
    ($header:literal, $file:literal) => {
        LazyLock::new(|| {
            Script::new(
                &[
                    $header,
                    include_str!("../../src/queue/scripts/lib.lua"),
                    include_str!(concat!("../../src/queue/scripts/", $file, ".lua")),
                ]
                .concat(),
            )
        })
    };
}

static PUSH: LazyLock<Script> = script!("#!lua\n", "push");
static FETCH: LazyLock<Script> = script!("#!lua flags=allow-oom\n", "fetch");
static SETTLE: LazyLock<Script> = script!("#!lua flags=allow-oom\n", "settle");

/// Opens a multiplexed connection with the time limit [`REDIS_TIMEOUT`].
pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(REDIS_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT));
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Creates job ids in the format of the engine.
pub fn new_ids(n: usize) -> Vec<String> {
    (0..n).map(|_| Uuid::now_v7().simple().to_string()).collect()
}

/// Runs [`CALLERS`] callers concurrently until all have ended or one fails.
pub async fn run_callers<F>(caller: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        callers.spawn(caller(n));
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}

/// A client that calls the scripts of the engine directly over one Redis connection.
#[derive(Clone)]
pub struct BareClient {
    conn: MultiplexedConnection,
    prefix: &'static str,
    /// How long outcomes are kept, in milliseconds.
    ttl: u64,
}

/// The jobs that one fetch has leased from one queue, and their fencing token.
struct FetchedBatch {
    token: String,
    ids: Vec<String>,
}

impl BareClient {
    pub fn new(conn: MultiplexedConnection, prefix: &'static str, ttl: Duration) -> Self {
        Self { conn, prefix, ttl: ttl.as_millis() as u64 }
    }

    /// Enqueues jobs with the same envelope, `call` jobs per call of the script.
    pub async fn push_all(&self, ids: &[String], call: usize, envelope: &str) -> Result<()> {
        for ids in ids.chunks(call) {
            self.push(ids, envelope).await?;
        }
        Ok(())
    }

    async fn push(&self, ids: &[String], envelope: &str) -> Result<()> {
        let mut call = PUSH.key(self.prefix);
        call.arg(QUEUE).arg(ids.len()).arg("0").arg(0).arg("");
        call.arg("").arg(0).arg("").arg(0).arg("good").arg("").arg("").arg("").arg("");
        for id in ids {
            call.arg(id);
        }
        for _ in ids {
            call.arg(envelope);
        }
        let known: Vec<String> = call.invoke_async(&mut self.conn.clone()).await?;
        ensure!(known.is_empty(), "{} ids exist already", known.len());
        Ok(())
    }

    /// Fetches and settles up to `batch` jobs at a time until the queue is empty. As in the worker, a settle
    /// runs concurrently with the next fetch. Returns the number of jobs.
    pub async fn drain(&self, batch: usize, outcome: &str) -> Result<usize> {
        let (mut held, mut ended): (Vec<FetchedBatch>, usize) = (Vec::new(), 0);
        loop {
            let settling = OptionFuture::from((!held.is_empty()).then(|| self.settle(&held, outcome)));
            let (rejected, fetched) = join(settling, self.fetch(batch)).await;
            let rejected = rejected.transpose()?.unwrap_or_default();
            ensure!(rejected.is_empty(), "{} outcomes were rejected", rejected.len());
            ended += held.iter().map(|held| held.ids.len()).sum::<usize>();
            held = fetched?;
            if held.is_empty() {
                return Ok(ended);
            }
        }
    }

    async fn fetch(&self, want: usize) -> RedisResult<Vec<FetchedBatch>> {
        // The engine parses this type, too, so that the cost of parsing is the same.
        type Taken = (String, Vec<String>, Vec<Vec<u8>>, Vec<Option<u32>>, Vec<Option<u32>>, String);
        let token = Uuid::new_v4().simple().to_string();
        let mut call = FETCH.key(self.prefix);
        call.arg("bare").arg(&token).arg(30_000).arg(want).arg(want).arg(0).arg(0).arg("").arg(QUEUE);
        let (_, taken, _): (i64, Vec<Taken>, u64) = call.invoke_async(&mut self.conn.clone()).await?;
        let held =
            |(index, (_, ids, ..)): (usize, Taken)| FetchedBatch { token: format!("{token}.{index}"), ids };
        Ok(taken.into_iter().enumerate().map(held).collect())
    }

    async fn settle(&self, held: &[FetchedBatch], outcome: &str) -> RedisResult<Vec<usize>> {
        let mut call = SETTLE.key(self.prefix);
        call.arg(QUEUE).arg(held.len());
        for held in held {
            call.arg(format!("{}|{}", held.token, held.ids.join(",")));
        }
        for held in held {
            for id in &held.ids {
                call.arg("ok").arg(id).arg(&held.token).arg(0).arg(self.ttl).arg(outcome);
            }
        }
        call.invoke_async(&mut self.conn.clone()).await
    }
}

async fn read_info(conn: &mut MultiplexedConnection, section: &str) -> Result<String> {
    Ok(redis::cmd("INFO").arg(section).query_async(conn).await?)
}

/// Returns the value of a field in the answer to INFO.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
}

/// Returns the CPU seconds that the server has used.
pub async fn cpu_seconds(conn: &mut MultiplexedConnection) -> Result<f64> {
    let info = read_info(conn, "cpu").await?;
    let used = ["used_cpu_sys", "used_cpu_user"]
        .map(|name| info_field(&info, name).and_then(|text| text.parse().ok()));
    let [Some(system), Some(user)]: [Option<f64>; 2] = used else { anyhow::bail!("INFO has no CPU time") };
    Ok(system + user)
}

/// Returns the CPU seconds that this process has used; 0 where there is no `/proc`.
pub fn own_cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Describes the server: its version, persistence and I/O threads.
pub async fn describe(conn: &mut MultiplexedConnection) -> Result<String> {
    let info = read_info(conn, "server").await?;
    let mut text = match info_field(&info, "valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", info_field(&info, "redis_version").unwrap_or("of unknown version")),
    };
    for setting in ["save", "appendonly", "io-threads"] {
        let answer: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(setting).query_async(conn).await?;
        text += &format!(", {setting} {:?}", answer.get(1).map_or("?", String::as_str));
    }
    Ok(text)
}

/// Returns the microseconds that Redis has spent in scripts and in BZPOPMIN, by which idle workers wait, since its statistics
/// were reset.
pub async fn script_time(conn: &mut MultiplexedConnection) -> Result<f64> {
    let info = read_info(conn, "commandstats").await?;
    let mut total = 0.0;
    for command in ["evalsha", "eval", "bzpopmin"] {
        let Some(stats) = info_field(&info, &format!("cmdstat_{command}")) else { continue };
        let time = stats.split(',').find_map(|stat| stat.strip_prefix("usec="));
        total += time.context("Redis reports no time for its commands")?.parse::<f64>()?;
    }
    Ok(total)
}

/// Returns the bytes of memory that Redis uses, without the buffers of clients.
pub async fn used_memory(conn: &mut MultiplexedConnection) -> Result<f64> {
    let info = read_info(conn, "memory").await?;
    let mut bytes = [0.0; 2];
    for (bytes, name) in bytes.iter_mut().zip(["used_memory", "mem_clients_normal"]) {
        *bytes = info_field(&info, name).context("Redis does not report its memory")?.parse::<f64>()?;
    }
    Ok(bytes[0] - bytes[1])
}

/// Makes Redis log calls that take longer than 10 ms, at most the last 1,000.
pub async fn watch_slow_calls(conn: &mut MultiplexedConnection) -> Result<()> {
    for (setting, value) in [("slowlog-log-slower-than", 10_000), ("slowlog-max-len", 1_000)] {
        redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).query_async::<()>(conn).await?;
    }
    redis::cmd("SLOWLOG").arg("RESET").query_async::<()>(conn).await?;
    Ok(())
}

/// Returns the number of logged script calls, and a description of the slowest call. `None` if no call was logged.
pub async fn slow_calls(conn: &mut MultiplexedConnection) -> Result<(usize, Option<String>)> {
    // Id, start time, duration in microseconds, the command with its arguments, and the address and the name of
    // the client.
    type Entry = (i64, i64, u64, Vec<Vec<u8>>, String, String);
    let entries: Vec<Entry> = redis::cmd("SLOWLOG").arg("GET").arg(1_000).query_async(conn).await?;
    let (mut count, mut worst): (usize, Option<(u64, String)>) = (0, None);
    for (_, _, micros, words, ..) in entries {
        let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        if !matches!(&words[..], [command, ..] if command.eq_ignore_ascii_case("evalsha")) {
            continue;
        }
        count += 1;
        if worst.as_ref().is_none_or(|(most, _)| *most < micros) {
            // Skips EVALSHA, the hash and the number of keys. Takes the key prefix and the first arguments.
            let call: Vec<_> = words.iter().skip(3).take(6).map(|word| shorten(word)).collect();
            let script = words.get(1).map_or("a script", |hash| script_name(hash));
            worst = Some((micros, format!("{:.1} ms: {script} {}", micros as f64 / 1e3, call.join(" "))));
        }
    }
    Ok((count, worst.map(|(_, text)| text)))
}

fn script_name(hash: &str) -> &str {
    let known = [("push", &PUSH), ("fetch", &FETCH), ("settle", &SETTLE)];
    known.into_iter().find(|(_, script)| script.get_hash() == hash).map_or(hash, |(name, _)| name)
}

fn shorten(word: &str) -> String {
    if word.is_empty() { "''".into() } else { word.chars().take(40).collect() }
}
