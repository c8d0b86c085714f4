//! A real mosquitto.

use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::certificates::Certificates;
use crate::ports::free_port;
use crate::{LOOK, PATIENCE};

const MISSING: &str = "mosquitto is not installed: the end-to-end tests need it (Debian: apt-get install \
     mosquitto; its service need not run)";

/// How a broker is to run; the default is in memory, without TLS and login.
#[derive(Default)]
pub struct BrokerOptions {
    /// Sessions and messages survive a restart.
    pub persistence: bool,
    /// The only user, and the password.
    pub login: Option<(&'static str, &'static str)>,
    /// TLS, with a certificate required from every client.
    pub tls: bool,
}

/// A running (or stopped) mosquitto on a port of 127.0.0.1 of its own. It ends
/// with this value; its log is printed when the test fails.
pub struct Broker {
    folder: TempDir,
    port: u16,
    options: BrokerOptions,
    /// The authority that signed its certificate and that of its clients.
    pub certificates: Option<Certificates>,
    child: Option<Child>,
}

impl Broker {
    /// Starts one in memory.
    pub async fn start() -> Self {
        Self::start_with(BrokerOptions::default()).await
    }

    /// Starts one; returns when it accepts connections.
    ///
    /// # Panics
    /// When mosquitto is missing or does not start.
    pub async fn start_with(options: BrokerOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let certificates = options.tls.then(|| Certificates::create(folder.path()));
        let config = config(folder.path(), port, &options, certificates.as_ref());
        std::fs::write(folder.path().join("mosquitto.conf"), config).expect("mosquitto.conf");
        let mut broker = Self { folder, port, options, certificates, child: None };
        broker.resume().await;
        broker
    }

    /// For `[bus] url` and `[destination] url`.
    pub fn url(&self) -> String {
        // The name, not the address: TLS wants a server name.
        let scheme = if self.options.tls { "mqtts" } else { "mqtt" };
        format!("{scheme}://localhost:{}", self.port)
    }

    /// Its only user and the password, where it wants them.
    pub fn login(&self) -> Option<(&'static str, &'static str)> {
        self.options.login
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of its process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// Asks it to end, as an operator does (it writes its sessions down where
    /// it keeps them), and waits for that.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::gateway::signal(child.id(), "TERM");
            wait(&mut child).await;
        }
    }

    /// Ends it as `kill -9` does. When the file was complete that it left, if
    /// it left one.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self) -> Option<SystemTime> {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("mosquitto is killed");
        wait(&mut child).await;
        let file = std::fs::metadata(self.folder.path().join("mosquitto.db")).ok()?;
        Some(file.modified().expect("the time of a file"))
    }

    /// Has it write down everything that it holds; returns when it has done so.
    ///
    /// # Panics
    /// When it is not running, or keeps nothing.
    pub async fn save(&self) {
        let file = self.folder.path().join("mosquitto.db");
        let asked = SystemTime::now();
        let deadline = Instant::now() + PATIENCE;
        while !file.metadata().and_then(|m| m.modified()).is_ok_and(|saved| saved > asked) {
            assert!(Instant::now() < deadline, "mosquitto saves nothing:\n{}", self.log_text());
            // Again: the time of a file may be a few milliseconds behind the clock.
            crate::gateway::signal(self.process(), "USR1");
            sleep(LOOK).await;
        }
    }

    /// Starts it again on the same port with the same configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("mosquitto's log");
        let child = Command::new(program())
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("mosquitto's log"))
            .stderr(log)
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{MISSING}: {error}"));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("mosquitto ended with {status}:\n{}", self.log_text());
            }
            assert!(Instant::now() < deadline, "mosquitto accepts no connection:\n{}", self.log_text());
            sleep(LOOK).await;
        }
        self.child = Some(child);
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("mosquitto.log")
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.len().saturating_sub(30);
            eprintln!("--- mosquitto on port {} ---\n{}", self.port, lines[last..].join("\n"));
        }
    }
}

/// Debian puts it into a folder that is not in every PATH.
fn program() -> PathBuf {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from));
    let found = folders.into_iter().map(|folder| folder.join("mosquitto")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{MISSING}"))
}

fn config(folder: &Path, port: u16, options: &BrokerOptions, tls: Option<&Certificates>) -> String {
    // It drops to a user of its own when started by root, who could not read
    // the test's folder. Its default limits would discard messages that the
    // gateway has not acknowledged yet: those are the tests' to decide.
    let mut text = format!(
        "user root\nlog_type error\nlog_type warning\nlog_type notice\nmax_queued_messages 0\nmax_queued_bytes 0\n\
         persistence {}\npersistence_location {}/\nautosave_interval 1\nlistener {port} 127.0.0.1\n",
        options.persistence,
        folder.display(),
    );
    match options.login {
        None => text.push_str("allow_anonymous true\n"),
        Some((user, password)) => {
            let file = folder.join("passwords");
            std::fs::write(&file, format!("{user}:{password}\n")).expect("the password file");
            let hashed = Command::new("mosquitto_passwd").arg("-U").arg(&file).status();
            let hashed = hashed.unwrap_or_else(|error| panic!("mosquitto_passwd: {error}: {MISSING}"));
            assert!(hashed.success(), "mosquitto_passwd ended with {hashed}");
            let _ = writeln!(text, "allow_anonymous false\npassword_file {}", file.display());
        }
    }
    if let Some(tls) = tls {
        let _ = writeln!(
            text,
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
            tls.file("ca.pem").display(),
            tls.file("server.pem").display(),
            tls.file("server.key").display()
        );
    }
    text
}

async fn wait(child: &mut Child) {
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        assert!(Instant::now() < deadline, "mosquitto does not end");
        sleep(LOOK).await;
    }
}
