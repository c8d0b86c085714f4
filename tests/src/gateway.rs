//! The built gateway as a child process.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::http::{get, post};
use crate::ports::free_port;
use crate::{LOOK, PATIENCE};

/// One stream of `/streams`. Read independently of the crate `admin-api`, which
/// the server uses: a JSON name that changes there by mistake fails here.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the admin listener")]
pub struct Stream {
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub code: Option<String>,
    pub paused: bool,
    pub script: Option<ScriptVersion>,
    pub read: u64,
    pub reread: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub expired: u64,
    pub superseded: u64,
    pub dead_lettered: u64,
    pub queued: u64,
    pub books_balance: bool,
    pub retries: u64,
    pub lag: f64,
    pub holds_bus: bool,
    pub last_error: Option<String>,
    pub note: Option<String>,
    pub refused: Option<String>,
}

/// The script of a [`Stream`].
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the admin listener")]
pub struct ScriptVersion {
    pub name: String,
    pub version: String,
}

/// `/readyz`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the admin listener")]
pub struct Readiness {
    pub ready: bool,
    pub bus: Value,
    pub waiting_for: Vec<String>,
    pub journal: Value,
}

/// The folder with `sluicegate.toml`, and what else the child gets.
pub struct Folder {
    dir: TempDir,
    bus: String,
    admin: u16,
    env: Vec<(String, String)>,
    file_size_limit: Option<u64>,
}

/// A running (or killed) gateway. It ends with this value; its log is printed
/// when the test fails.
pub struct Gateway {
    folder: Folder,
    child: Option<Child>,
}

/// One line of the gateway's log.
pub type LogLine = serde_json::Map<String, Value>;

// --- Folder ---

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// An empty one; a bus and at least one stream have to follow.
    ///
    /// # Panics
    /// Like all here, when files cannot be written.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("streams")).expect("the folder streams");
        Self { dir, bus: String::new(), admin: free_port(), env: Vec::new(), file_size_limit: None }
    }

    /// `[bus]` with this address and the client id `gateway`.
    pub fn bus(self, url: &str) -> Self {
        self.bus_lines(&format!("url = \"{url}\"\nclient_id = \"gateway\""))
    }

    /// `[bus]` with these lines.
    pub fn bus_lines(mut self, lines: &str) -> Self {
        self.bus = lines.to_owned();
        self
    }

    /// A further table of `sluicegate.toml`.
    pub fn table(mut self, text: &str) -> Self {
        self.bus = format!("{}\n{text}", self.bus);
        self
    }

    /// `streams/<name>.toml`.
    pub fn stream(self, name: &str, text: &str) -> Self {
        self.file(&format!("streams/{name}.toml"), text)
    }

    /// Any file.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.dir.path().join(name), content).expect("a file in the test's folder");
        self
    }

    /// An environment variable of the gateway.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The gateway cannot make a file longer than so many bytes: its writes fail
    /// as on a disk with a fault.
    pub fn file_size_limit(mut self, bytes: u64) -> Self {
        self.file_size_limit = Some(bytes);
        self
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the gateway and returns when `/readyz` says 200.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.start_unready().await;
        gateway.until_ready().await;
        gateway
    }

    /// Starts the gateway and returns when its admin listener answers.
    pub async fn start_unready(self) -> Gateway {
        let text = format!("[bus]\n{}\n[admin]\nlisten = \"127.0.0.1:{}\"\n", self.bus, self.admin);
        std::fs::write(self.dir.path().join("sluicegate.toml"), text).expect("sluicegate.toml");
        let mut gateway = Gateway { folder: self, child: None };
        gateway.restart().await;
        gateway
    }
}

// --- Gateway ---

impl Gateway {
    /// Starts it (again) with the same folder; returns when its admin listener
    /// answers.
    ///
    /// # Panics
    /// When it is not built or does not start.
    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
    }

    /// The same with further arguments of `run`.
    ///
    /// # Panics
    /// When it is not built or does not start.
    pub async fn restart_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "it is running");
        let log = File::options().create(true).append(true).open(self.log()).expect("the gateway's log");
        let mut command = match self.folder.file_size_limit {
            None => Command::new(program()),
            Some(bytes) => {
                // The signal that comes with such an error would end it.
                let mut shell = Command::new("sh");
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
                shell.arg("-c").arg(script).arg(program());
                shell
            }
        };
        let child = command
            .arg("run")
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("sluicegate.toml"))
            .envs(self.folder.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the gateway's log"))
            .stderr(log)
            .spawn()
            .expect("the gateway starts");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while get(self.folder.admin, "/healthz").await.is_err() {
            self.check_alive();
            assert!(Instant::now() < deadline, "the gateway's admin listener does not answer");
            sleep(LOOK).await;
        }
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let readiness = self.readiness().await;
            if readiness.ready {
                return;
            }
            self.check_alive();
            assert!(Instant::now() < deadline, "the gateway does not get ready: {readiness:?}");
            sleep(LOOK).await;
        }
    }

    /// What `/readyz` says; that its status and its body agree is checked.
    ///
    /// # Panics
    /// When the answer is not what it should be.
    pub async fn readiness(&self) -> Readiness {
        let (status, body) = self.get("/readyz").await;
        let readiness: Readiness = serde_json::from_slice(&body).expect("the JSON of /readyz");
        assert_eq!(status, if readiness.ready { 200 } else { 503 }, "{readiness:?}");
        readiness
    }

    /// What `/streams` says.
    ///
    /// # Panics
    /// When the answer is not what it should be.
    pub async fn streams(&self) -> Vec<Stream> {
        let (status, body) = self.get("/streams").await;
        assert_eq!(status, 200);
        let streams: Vec<Stream> = serde_json::from_slice(&body).expect("the JSON of /streams");
        for stream in &streams {
            assert!(stream.balanced(), "the counters do not balance: {stream:?}");
        }
        streams
    }

    /// One stream of them.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn stream(&self, name: &str) -> Stream {
        let streams = self.streams().await;
        let found = streams.iter().find(|stream| stream.name == name);
        found.unwrap_or_else(|| panic!("no stream {name:?} in {streams:?}")).clone()
    }

    /// Waits until `holds` is true of a stream, and returns it.
    ///
    /// # Panics
    /// With what the stream looked like last, when `holds` stays false.
    pub async fn until(&self, name: &str, what: &str, holds: impl Fn(&Stream) -> bool) -> Stream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stream = self.stream(name).await;
            if holds(&stream) {
                return stream;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; the stream is {stream:?}");
            sleep(LOOK).await;
        }
    }

    /// Waits until a stream has read `count` messages or more and has nothing
    /// queued, and returns it.
    pub async fn until_settled(&self, name: &str, count: u64) -> Stream {
        let what = format!("{count} messages are read and settled");
        self.until(name, &what, |stream| stream.read >= count && stream.queued == 0).await
    }

    /// Where its admin listener is.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.folder.admin))
    }

    /// A page of the admin listener: status and body.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> (u16, bytes::Bytes) {
        match get(self.folder.admin, path).await {
            Ok((status, body)) => (status.as_u16(), body),
            Err(error) => panic!("GET {path} of the gateway: {error}"),
        }
    }

    /// A call of the admin listener that has no body: status and answer.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str) -> (u16, String) {
        let token = std::fs::read_to_string(self.folder.path().join("data/admin.token")).expect("the token");
        match post(self.folder.admin, path, token.trim()).await {
            Ok((status, body)) => (status.as_u16(), String::from_utf8_lossy(&body).into_owned()),
            Err(error) => panic!("POST {path} of the gateway: {error}"),
        }
    }

    /// Waits for a line of the log.
    ///
    /// # Panics
    /// When there is none for too long.
    pub async fn until_logged(&self, what: &str, holds: impl Fn(&LogLine) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log_lines().iter().any(&holds) {
            assert!(Instant::now() < deadline, "not in the log: {what}");
            sleep(LOOK).await;
        }
    }

    /// Writes `streams/<name>.toml` anew; it takes effect when it is applied.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_stream(&self, name: &str, text: &str) {
        std::fs::write(self.stream_path(name), text).expect("a stream file");
    }

    /// Removes `streams/<name>.toml`.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove_stream(&self, name: &str) {
        std::fs::remove_file(self.stream_path(name)).expect("a stream file");
    }

    fn stream_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("streams/{name}.toml"))
    }

    /// Runs a command of the program for this gateway's configuration.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(program());
        command.args(arguments).arg("--config").arg(self.folder.path().join("sluicegate.toml"));
        // Commands read the files as the gateway does.
        command.envs(self.folder.env.iter().map(|(name, value)| (name, value)));
        command.output().await.expect("the command runs")
    }

    /// The same for a command that must succeed: what it prints.
    ///
    /// # Panics
    /// With what it prints to standard error, when it fails.
    pub async fn prints(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("the gateway is killed");
        child.wait().expect("the gateway has ended");
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        signal(child.id(), "TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("the state of the gateway") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the gateway does not end after SIGTERM");
            }
            sleep(LOOK).await;
        }
    }

    /// The folder with `sluicegate.toml`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The id of its process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// The lines of its log so far.
    ///
    /// # Panics
    /// On a line that is no JSON object: that is no log line then.
    pub fn log_lines(&self) -> Vec<LogLine> {
        let text = self.log_text();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        whole.lines().map(parse).collect()
    }

    /// The same without those that are no whole line: a killed gateway may
    /// leave half of its last one.
    pub fn log_lines_after_kills(&self) -> Vec<LogLine> {
        self.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The dead letters that a stream has logged.
    pub fn dead_letters(&self, stream: &str) -> Vec<LogLine> {
        let mut lines = self.log_lines();
        lines.retain(|line| line["message"] == "dead letter" && line["stream"] == stream);
        lines
    }

    /// The states that a stream has gone through, each with its reason, by the log.
    pub fn states(&self, stream: &str) -> Vec<(String, Option<String>)> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let of_stream = |line: &LogLine| line.get("stream").is_some_and(|name| name == stream);
        let lines = self.log_lines().into_iter().filter(of_stream);
        let state = |line: LogLine| {
            let message = text(line.get("message"))?;
            Some((message.strip_prefix("stream is ")?.to_owned(), text(line.get("reason"))))
        };
        lines.filter_map(state).collect()
    }

    fn check_alive(&mut self) {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.child = None;
            panic!("the gateway ended with {status}");
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.len().saturating_sub(60);
            eprintln!("--- the gateway's log, {} lines ---\n{}", lines.len(), lines[last..].join("\n"));
        }
    }
}

// --- Stream ---

impl Stream {
    /// Whether every message that was read is accounted for.
    pub fn balanced(&self) -> bool {
        let settled = self.delivered + self.filtered + self.expired + self.superseded + self.dead_lettered;
        self.books_balance && self.read == settled + self.queued
    }

    /// Whether it is `retrying` or `blocked` for a reason that contains `text`.
    pub fn troubled_by(&self, text: &str) -> bool {
        matches!(self.state.as_str(), "retrying" | "blocked")
            && self.reason.as_ref().is_some_and(|reason| reason.contains(text))
    }
}

/// Sends a signal by its name without `SIG`.
///
/// # Panics
/// When there is no such process.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} {process}");
}

/// The program that the tests test: `SLUICEGATE_BIN`, or `sluicegate` in the
/// folder of the same profile as this test (`target/release`).
///
/// # Panics
/// When it is not built.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("SLUICEGATE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    // target/release/deps/<test>
    let folder = test.ancestors().nth(2).unwrap_or(Path::new("."));
    let program = folder.join("sluicegate");
    assert!(program.is_file(), "{} is missing: run `make build` first", program.display());
    program
}

/// Memory of a process that is in RAM, MiB.
///
/// # Panics
/// When it does not run.
pub fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib = line.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<f64>().ok());
    kib.expect("a size in kB") / 1024.0
}

/// A generous bound on how long a healthy stream may take for a message while
/// others misbehave.
pub const UNNOTICED: Duration = Duration::from_secs(5);
