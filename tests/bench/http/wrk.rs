//! Runs wrk: writes its Lua scripts and parses its results.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;

use super::process;

const FORM: &str = "application/x-www-form-urlencoded";

/// A request that a benchmark sends, alone or as a part of a load.
#[derive(Clone)]
pub struct Request {
    method: Method,
    /// Path with the query.
    path: String,
    token: Option<String>,
    form: Option<String>,
}

impl Request {
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), token: None, form: None }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    pub fn with_form(self, fields: &[(&str, &str)]) -> Self {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        Self { form: Some(form), ..self }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let token = self.token.as_ref().map(|token| ("Authorization", format!("Bearer {token}")));
        let form = self.form.as_ref().map(|_| ("Content-Type", FORM.to_owned()));
        token.into_iter().chain(form).collect()
    }

    /// Builds the request for a client. `url` is the address of the server, without a path.
    pub fn build(&self, client: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
        let mut request = client.request(self.method.clone(), format!("{url}{}", self.path));
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        if let Some(form) = &self.form {
            request = request.body(form.clone());
        }
        request
    }

    /// Sends the request once and returns the response body.
    ///
    /// # Errors
    /// If the status is not a success, because measuring such a request would be meaningless.
    pub async fn send(&self, client: &reqwest::Client, url: &str) -> Result<serde_json::Value> {
        let answer = self.build(client, url).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{} {} answers {status}: {text}", self.method, self.path);
        if text.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{} answers no JSON: {text}", self.path))
    }

    /// Formats the head of the request as HTTP/1.1 for a keep-alive connection.
    pub fn text(&self) -> String {
        let headers: String =
            self.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nHost: x\r\n{headers}\r\n", self.method, self.path)
    }
}

/// The load that one run of wrk generates.
pub struct Load {
    /// The name of the script file.
    pub name: &'static str,
    /// The requests that each thread sends in rotation.
    pub requests: Vec<Request>,
    pub connections: usize,
    /// The pause of each connection before a request, in milliseconds.
    pub pause_ms: u64,
    /// Whether a 503 with `Retry-After` is not an error.
    pub allow_503: bool,
    /// Whether each request has an idempotency key of its own. Has no effect if there is only one request.
    pub with_keys: bool,
}

/// The result of one round.
pub struct Sample {
    /// Successful responses per second.
    pub rate: f64,
    /// Median of the response time in milliseconds.
    pub p50: f64,
    /// 99th percentile of the response time in milliseconds.
    pub p99: f64,
    /// Requests that got no response or an error status, without those in `refused`.
    pub errors: u64,
    /// Responses of 503 with `Retry-After`, if [`Load::allow_503`] is set.
    pub refused: u64,
}

impl Load {
    /// Creates a load that repeats one request.
    pub fn single(name: &'static str, connections: usize, request: Request) -> Self {
        Self { name, requests: vec![request], connections, pause_ms: 0, allow_503: false, with_keys: false }
    }

    /// Runs the load. `dir` gets the script file.
    pub async fn run(&self, url: &str, dir: &Path, seconds: u64) -> Result<Sample> {
        let script = dir.join(format!("{}.lua", self.name));
        fs::write(&script, self.script())?;
        let mut wrk = process::command("wrk");
        wrk.args(["-t", &self.connections.min(2).to_string()])
            .args(["-c", &self.connections.to_string()])
            .args(["-d", &format!("{seconds}s"), "--timeout", "10s", "-s"])
            .arg(&script)
            .arg(url);
        let output = process::run_for(wrk, seconds).await?;
        parse_output(&output)
            .with_context(|| format!("{}: cannot parse the output of wrk:\n{output}", self.name))
    }

    fn script(&self) -> String {
        let mut lua = String::new();
        // A single request needs no function in Lua, which wrk would call for each request.
        match &self.requests[..] {
            [request] => {
                lua += &format!("wrk.method, wrk.path = {:?}, {:?}\n", request.method.as_str(), request.path);
                for (name, value) in request.headers() {
                    lua += &format!("wrk.headers[{name:?}] = {value:?}\n");
                }
                if let Some(form) = &request.form {
                    lua += &format!("wrk.body = {form:?}\n");
                }
            }
            requests => {
                lua += "local requests, turn = {}, 0\nfunction init()\n";
                requests.iter().for_each(|request| lua += &format_list_entry(request, self.with_keys));
                lua += SEND_IN_ROTATION;
                if self.with_keys {
                    lua += ADD_KEYS;
                }
            }
        }
        if self.pause_ms > 0 {
            lua += &format!("function delay() return {} end\n", self.pause_ms);
        }
        if self.allow_503 {
            lua += COUNT_REFUSALS;
        }
        lua + PRINT_RESULTS
    }
}

/// Formats a request for the list in the script. `{:?}` quotes ASCII text as Lua requires, and all texts are
/// ASCII.
fn format_list_entry(request: &Request, with_key: bool) -> String {
    let mut headers = String::new();
    let key = with_key.then(|| ("Idempotency-Key", "@KEY@".to_owned()));
    for (name, value) in request.headers().into_iter().chain(key) {
        headers += &format!("[{name:?}] = {value:?}, ");
    }
    let form = request.form.as_ref().map_or("nil".to_owned(), |form| format!("{form:?}"));
    let (method, path) = (request.method.as_str(), &request.path);
    format!("  requests[#requests + 1] = wrk.format({method:?}, {path:?}, {{ {headers}}}, {form})\n")
}

/// Script that sends the requests in rotation. The second thread starts in the middle of the list, so that
/// the two threads seldom send the same request at the same time.
const SEND_IN_ROTATION: &str = r#"  turn = math.floor(#requests / 2) * (number - 1)
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
"#;

/// Script that gives each request an idempotency key. No other thread and no other round uses the same key.
const ADD_KEYS: &str = r#"local without_keys, run, sent = request, os.time(), 0
function request()
  sent = sent + 1
  return (without_keys():gsub("@KEY@", run .. "-" .. number .. "-" .. sent, 1))
end
"#;

/// Script that counts the responses with status 503 and `Retry-After`.
const COUNT_REFUSALS: &str = r#"refused = 0
function response(status, headers)
  if status == 503 and (headers["retry-after"] or headers["Retry-After"]) then refused = refused + 1 end
end
"#;

/// Script that prints the results in one line. `setup` and `done` run in a separate Lua environment, which
/// can read the variables of the threads.
const PRINT_RESULTS: &str = r#"local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
  thread:set("number", #threads)
end
function done(summary, latency)
  local errors, refusals = summary.errors, 0
  for _, thread in ipairs(threads) do refusals = refusals + (thread:get("refused") or 0) end
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("\nbench %d %d %d %d %d %d %d\n", summary.duration, summary.requests,
    latency:percentile(50), latency:percentile(99), errors.status, lost, refusals))
end
"#;

/// Parses the line that the script has printed.
fn parse_output(output: &str) -> Result<Sample> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("bench "))
        .context("the line of the script is missing")?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse::<f64>).collect::<Result<_, _>>()?;
    let [micros, requests, p50, p99, bad, lost, refused] = numbers[..] else {
        bail!("the line has an unexpected number of fields")
    };
    Ok(Sample {
        rate: (requests - bad) / (micros / 1e6),
        p50: p50 / 1e3,
        p99: p99 / 1e3,
        errors: ((bad - refused).max(0.0) + lost) as u64,
        refused: refused as u64,
    })
}
