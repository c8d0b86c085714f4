//! The side of the gateway: starts the child, feeds it, and makes of whatever
//! comes back, or does not, an answer.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::worker::Answer;
use crate::error::LoadError;
use crate::lift;
use crate::text::one_line;

/// The program that compiles, and what it may take.
#[derive(Clone, Debug)]
pub struct Child {
    /// Run as `PROGRAM compile-script ...`.
    pub program: PathBuf,
    /// What it may take.
    pub bounds: Bounds,
}

/// What the compilation of one script may take. A script of JavaScript or
/// Python needs about 15 s on one core of 2024 and the memory of the machine
/// code some twenty times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// CPU time, in whole seconds (default 60 s).
    pub cpu: Duration,
    /// Bytes of address space (default 2 GiB).
    pub memory: u64,
    /// Time by the clock (default 5 min): on a busy machine the child gets
    /// little of it.
    pub time: Duration,
}

/// Bytes of code that are taken from it at most.
const MAX_CODE: u64 = 256 << 20;

/// Bytes of its last words that are read.
const LAST_WORDS: u64 = 16 << 10;

/// What the standard library writes when memory runs out.
const OUT_OF_MEMORY: [&str; 2] = ["memory allocation of", "Cannot allocate memory"];

/// Linux: ends whoever has used up its CPU time.
const SIGXCPU: i32 = 24;
const SIGKILL: i32 = 9;

impl Default for Bounds {
    fn default() -> Self {
        Self { cpu: Duration::from_secs(60), memory: 2 << 30, time: Duration::from_secs(300) }
    }
}

impl Child {
    /// This program itself, by its file as it was when the gateway started: an
    /// upgrade that has replaced it since may make other code.
    pub fn of_this_program() -> Self {
        let running = PathBuf::from("/proc/self/exe");
        let program = if running.exists() { running } else { std::env::current_exe().unwrap_or_default() };
        Self { program, bounds: Bounds::default() }
    }

    /// The code of a script. The child ends with the future, if not before.
    pub(super) async fn compile(&self, wasm: Bytes) -> Result<Vec<u8>, LoadError> {
        lift::look_at(&wasm)?;
        let failed = |what: &str, error: std::io::Error| LoadError::Compiler(format!("{what}: {error}"));
        let mut child = Command::new(&self.program)
            .arg0("sluicegate")
            .arg("compile-script")
            .arg(format!("--cpu-seconds={}", self.bounds.cpu.as_secs()))
            .arg(format!("--memory={}", self.bounds.memory))
            // It has no business with what the gateway knows.
            .env_clear()
            // One thread: it has all the time, the lanes have not.
            .env("RAYON_NUM_THREADS", "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("its process could not be started", error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A child that has ended says why in another way.
                let _ = stdin.write_all(&wasm).await;
            }
        };
        let whole = async {
            let ((), answer, words, status) =
                tokio::join!(feed, read(stdout, MAX_CODE), read(stderr, LAST_WORDS), child.wait());
            (answer, words, status)
        };
        let Ok((answer, words, status)) = timeout(self.bounds.time, whole).await else {
            return Err(LoadError::TooCostly(format!("{} s", self.bounds.time.as_secs())));
        };
        let status = status.map_err(|error| failed("its process was lost", error))?;
        verdict(status, answer, &String::from_utf8_lossy(&words), &self.bounds)
    }
}

/// What comes through a pipe, up to so many bytes.
async fn read(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // Half an answer is none, and the status tells of it.
        let _ = pipe.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What a child that ended has said.
fn verdict(
    status: ExitStatus,
    mut answer: Vec<u8>,
    words: &str,
    bounds: &Bounds,
) -> Result<Vec<u8>, LoadError> {
    let memory = || LoadError::TooCostly(format!("{} MiB of memory", bounds.memory >> 20));
    let last = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("");
    if !status.success() {
        return Err(match status.signal() {
            Some(SIGXCPU) => LoadError::TooCostly(format!("{} s of CPU time", bounds.cpu.as_secs())),
            _ if OUT_OF_MEMORY.iter().any(|text| words.contains(text)) => memory(),
            // Nobody else does that but the kernel: at the limit of CPU time
            // for a child that lives on, and when memory has run out.
            Some(SIGKILL) => LoadError::TooCostly("the machine has memory for".to_owned()),
            _ => LoadError::Compiler(one_line(&format!("it ended with {status}: {last}"))),
        });
    }
    let broken = || LoadError::Compiler("its answer is incomplete".to_owned());
    let line = answer.iter().position(|byte| *byte == b'\n').ok_or_else(broken)?;
    let head = serde_json::from_slice(answer.get(..line).unwrap_or_default());
    match head.map_err(|_| broken())? {
        Answer::Code(length) => {
            answer.drain(..=line);
            if answer.len() == length { Ok(answer) } else { Err(broken()) }
        }
        Answer::Refused(LoadError::Invalid(text))
            if OUT_OF_MEMORY.iter().any(|words| text.contains(words)) =>
        {
            Err(memory())
        }
        Answer::Refused(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: i32, answer: &[u8], words: &str) -> String {
        match verdict(ExitStatus::from_raw(status), answer.to_vec(), words, &Bounds::default()) {
            Ok(code) => format!("code {code:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_whole_answer_is_code_or_what_is_wrong_with_the_script() {
        assert_eq!(said(0, b"{\"code\":3}\nabc", ""), "code [97, 98, 99]");
        assert_eq!(said(0, b"{\"code\":1}\n\n", ""), "code [10]");
        let error = LoadError::Wasi { imports: "wasi:x".into() };
        let mut answer = serde_json::to_vec(&Answer::Refused(error.clone())).unwrap();
        answer.push(b'\n');
        assert_eq!(said(0, &answer, ""), error.to_string());
    }

    #[test]
    fn half_an_answer_is_none() {
        let broken = "the compiler failed: its answer is incomplete";
        for answer in [&b""[..], b"{\"code\":3}", b"{\"code\":3}\nab", b"{\"code\":3}\nabcd", b"hello\nabc"] {
            assert_eq!(said(0, answer, ""), broken);
        }
    }

    #[test]
    fn a_child_that_was_ended_says_which_bound_it_met() {
        let costly = |what: &str| format!("compiling it takes more than {what}; the compiler was stopped");
        assert_eq!(said(SIGXCPU, b"", ""), costly("60 s of CPU time"));
        assert_eq!(said(6, b"", "memory allocation of 99 bytes failed\n"), costly("2048 MiB of memory"));
        assert_eq!(said(SIGKILL, b"", ""), costly("the machine has memory for"));
        let invalid = Answer::Refused(LoadError::Invalid("Cannot allocate memory (os error 12)".into()));
        let answer = format!("{}\n", serde_json::to_string(&invalid).unwrap());
        assert_eq!(said(0, answer.as_bytes(), ""), costly("2048 MiB of memory"));
        assert_eq!(
            said(11, b"", "first\nlast\n\n"),
            "the compiler failed: it ended with signal: 11 (SIGSEGV): last"
        );
        assert_eq!(said(256, b"", "why"), "the compiler failed: it ended with exit status: 1: why");
    }
}
