//! The gateway under the demo: the program itself, as a child process.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::screen::Row;
use super::site::{Error, Site};

/// From start to `/readyz`: five scripts are compiled in it.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// For one answer of the admin listener.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// From SIGTERM to the end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of the log that a failure shows.
const LOG_TAIL: usize = 15;

/// The running gateway.
pub struct Gateway {
    child: Child,
    admin: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// One stream of `/streams`, as far as the demo needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamLine {
    name: String,
    state: String,
    reason: Option<String>,
    script: Option<ScriptLine>,
    read: u64,
    delivered: u64,
    filtered: u64,
    expired: u64,
    superseded: u64,
    dead_lettered: u64,
    queued: u64,
    lag: f64,
    last_error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ScriptLine {
    name: String,
    version: String,
}

impl StreamLine {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages that wait or are on their way.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Dead letters.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }

    /// Whether every message that was read is accounted for.
    pub fn balances(&self) -> bool {
        let settled = self.delivered + self.filtered + self.expired + self.superseded + self.dead_lettered;
        self.read == settled + self.queued
    }

    /// Its line of the screen, without what the receivers' books say.
    pub fn row(&self) -> Row {
        let script = |script: &ScriptLine| format!("{} {}", script.name, script.version);
        Row {
            stream: self.name.clone(),
            script: self.script.as_ref().map(script).unwrap_or_default(),
            state: self.state.clone(),
            reason: self.reason.clone(),
            last_error: self.last_error.clone(),
            read: self.read,
            delivered: self.delivered,
            filtered: self.filtered,
            dead: self.dead_lettered,
            queued: self.queued,
            lag: self.lag,
            missing: 0,
            wrong: 0,
        }
    }
}

impl Gateway {
    /// Starts the program for this configuration; its output goes to the log.
    pub fn start(site: &Site) -> Result<Self, Error> {
        let log = std::fs::File::create(&site.log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(&site.config)
            .env_remove("SLUICEGATE_CONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for the demo, which then stops the gateway in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { child, admin: format!("http://{}", site.admin), client })
    }

    /// Waits until it takes messages.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the gateway ended while starting, with {status}").into());
            }
            let last = match self.get("/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => String::from_utf8_lossy(&body).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                let seconds = START_PATIENCE.as_secs();
                return Err(format!("the gateway was not ready within {seconds} s: {last}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it says of its streams.
    pub async fn streams(&mut self) -> Result<Vec<StreamLine>, Error> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("the gateway ended by itself, with {status}").into());
        }
        let (status, body) = self.get("/streams").await?;
        if status != 200 {
            return Err(format!("/streams answered {status}").into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(&mut self) -> Result<ExitStatus, Error> {
        if let Some(id) = self.child.id() {
            // By the shell's own command: std has no call for it.
            Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()]).status().await?;
        }
        match timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child.kill().await?;
                let seconds = STOP_PATIENCE.as_secs();
                Err(format!("the gateway did not stop within {seconds} s of SIGTERM and was killed").into())
            }
        }
    }

    async fn get(&self, path: &str) -> Result<(u16, Bytes), Error> {
        let answer = async {
            let response = self.client.get(format!("{}{path}", self.admin).parse()?).await?;
            let status = response.status().as_u16();
            Ok::<_, Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        timeout(ANSWER_PATIENCE, answer).await.map_err(|_| format!("{path} did not answer"))?
    }
}

/// The end of the gateway's log.
pub fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
