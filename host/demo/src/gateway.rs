//! The gateway under the demo: the program itself, as a child process.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use admin_api::answer::{ScriptLine, StreamLine};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::row::Row;
use super::site::{Error, Site};

/// From start to `/readyz`: five scripts are compiled in it.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// For one answer of the admin listener.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// From SIGTERM to the end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of the log that a failure shows.
const LOG_TAIL: usize = 15;

/// The gateway's process; it may have been killed.
pub struct Gateway {
    child: Option<Child>,
    started: Instant,
    is_ready: bool,
    admin: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// The state of the gateway's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Killed, and not started again.
    Killed,
    /// Started, and not ready to take messages.
    Starting,
    /// It has just become ready, so long after its start.
    Back(Duration),
    /// It runs.
    Up,
}

/// A stream's line of the screen, without the counters of its receiver.
pub fn row(line: &StreamLine) -> Row {
    let script = |script: &ScriptLine| format!("{} {}", script.name, script.version);
    Row {
        stream: line.name.clone(),
        script: line.script.as_ref().map(script).unwrap_or_default(),
        state: line.state.clone(),
        reason: line.reason.clone(),
        last_error: line.last_error.clone(),
        refused: line.refused.clone(),
        read: line.read,
        delivered: line.delivered,
        filtered: line.filtered,
        dead: line.dead_lettered,
        queued: line.queued,
        lag: line.lag,
        missing: 0,
        wrong: 0,
        repeats: 0,
    }
}

/// Whether every message that was read is accounted for. Summed here, and not
/// taken from the gateway's own verdict.
pub fn balances(line: &StreamLine) -> bool {
    let ended = line.delivered + line.filtered + line.expired + line.superseded + line.dead_lettered;
    line.read == ended + line.queued
}

impl Gateway {
    /// Starts the program for this configuration and waits until it takes
    /// messages; its output goes to the log.
    pub async fn start(site: &Site) -> Result<Self, Error> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let admin = format!("http://{}", site.admin);
        let mut gateway = Self { child: None, started: Instant::now(), is_ready: false, admin, client };
        gateway.launch(site)?;
        while gateway.presence().await? == Presence::Starting {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(gateway)
    }

    /// Starts the program, also after it was killed.
    pub fn launch(&mut self, site: &Site) -> Result<(), Error> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&site.log)?;
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
        (self.child, self.started, self.is_ready) = (Some(child), Instant::now(), false);
        Ok(())
    }

    /// Kills it with SIGKILL, which no process can catch.
    pub async fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// The state of the process. An error when it has exited, or takes too long
    /// to start.
    pub async fn presence(&mut self) -> Result<Presence, Error> {
        let Some(child) = &mut self.child else { return Ok(Presence::Killed) };
        if let Some(status) = child.try_wait()? {
            return Err(format!("the gateway exited unexpectedly with {status}").into());
        }
        if self.is_ready {
            return Ok(Presence::Up);
        }
        let last = match self.get("/readyz").await {
            Ok((200, _)) => {
                self.is_ready = true;
                return Ok(Presence::Back(self.started.elapsed()));
            }
            Ok((_, body)) => String::from_utf8_lossy(&body).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if self.started.elapsed() > START_PATIENCE {
            let seconds = START_PATIENCE.as_secs();
            return Err(format!("the gateway was not ready within {seconds} s: {last}").into());
        }
        Ok(Presence::Starting)
    }

    /// `GET /streams`.
    pub async fn streams(&self) -> Result<Vec<StreamLine>, Error> {
        let (status, body) = self.get("/streams").await?;
        if status != 200 {
            return Err(format!("/streams answered {status}").into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks it to stop and waits for the end.
    pub async fn stop(&mut self) -> Result<ExitStatus, Error> {
        let Some(child) = &mut self.child else {
            return Err("the gateway was killed and not started again".into());
        };
        if let Some(id) = child.id() {
            // By the shell's own command: std has no call for it.
            Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()]).status().await?;
        }
        match timeout(STOP_PATIENCE, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                child.kill().await?;
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

/// By the log: how many messages were compared before a stream's script was last
/// replaced, and for how many of them the output differs.
pub fn comparison(log: &Path, stream: &str) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(log).ok()?;
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut of_stream = lines.filter(|line| line["stream"] == stream);
    of_stream.find_map(|line| Some((line["compared"].as_u64()?, line["differing"].as_u64()?)))
}

/// The end of the gateway's log.
pub fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
