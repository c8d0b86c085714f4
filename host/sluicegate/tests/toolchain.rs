//! Which tool chain `scripts/toolchain.sh` takes, on machines of made-up
//! programs. What is at a fixed place on a real one, Debian's packages, is
//! stood in for by a function of the same name.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

const TARGET_FOLDER: &str = "sysroot/lib/rustlib/wasm32-unknown-unknown/lib";

/// A program that is being written cannot be started, and a child of another
/// thread's that has not become its program yet keeps the file open: so one
/// machine at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A machine with a few ordinary programs, `home` and nothing else.
struct Machine {
    folder: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

/// What came of looking for a tool chain.
struct Chosen {
    good: bool,
    /// `$how`, `$target_folder`, and what cargo was called with if it is ours.
    out: String,
    said: String,
}

impl Machine {
    fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Self { folder: tempfile::tempdir().unwrap(), _one: one };
        fs::create_dir_all(machine.path("bin")).unwrap();
        for program in ["dirname", "mkdir", "sleep", "touch"] {
            symlink(real(program), machine.path(&format!("bin/{program}"))).unwrap();
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Has a program that does this; `$1` and so on are its arguments. Each
    /// call is a line of `calls`.
    fn has(self, program: &str, does: &str) -> Self {
        let path = self.path(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n{does}\n", self.path("calls").display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Has rustup's programs in `folder`, where `rustup target add` does this.
    fn has_rustup(self, folder: &str, add: &str) -> Self {
        let sysroot = self.path("sysroot");
        fs::create_dir_all(&sysroot).unwrap();
        self.has(&format!("{folder}/rustc"), &format!("echo '{}'", sysroot.display()))
            .has(&format!("{folder}/rustup"), add)
            .has(&format!("{folder}/cargo"), "echo \"cargo $*\"")
    }

    fn has_target(self) -> Self {
        fs::create_dir_all(self.path(TARGET_FOLDER)).unwrap();
        self
    }

    /// Has Debian's packages.
    fn has_debian(self) -> Self {
        fs::write(self.path("debian"), "").unwrap();
        self
    }

    /// Is a machine where apt-get brings them, for this user.
    fn has_apt_get(self, user: u32) -> Self {
        let debian = self.path("debian");
        self.has("bin/id", &format!("echo {user}"))
            .has("bin/apt-get", &format!("touch '{}'", debian.display()))
    }

    fn choose(&self) -> Chosen {
        self.choose_with("", "")
    }

    /// With arguments of `choose_toolchain` and `SLUICEGATE_SCRIPT_TOOLCHAIN`.
    fn choose_with(&self, arguments: &str, toolchain: &str) -> Chosen {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/toolchain.sh");
        let script = format!(
            "set -eu\n. '{}'\ndebian_complete() {{ [ -f '{}' ]; }}\nchoose_toolchain {arguments} || exit 1\n\
             echo \"$how; $target_folder\"\ncase $how in rustup*) wasm_cargo build ;; esac\n",
            script.display(),
            self.path("debian").display()
        );
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("SLUICEGATE_SCRIPT_TOOLCHAIN", toolchain)
            .output()
            .unwrap();
        Chosen {
            good: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The calls so far that begin like this.
    fn calls(&self, of: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter(|call| call.starts_with(of)).map(str::to_owned).collect()
    }
}

impl Chosen {
    #[track_caller]
    fn is(&self, out: &str) {
        assert!(self.good, "{}", self.said);
        assert_eq!(self.out, out, "{}", self.said);
    }

    #[track_caller]
    fn is_none(&self, why: &str) {
        assert!(!self.good, "{}", self.out);
        let expected = format!(
            "{why}\n\
             sluicegate build: scripts in Rust need one of these, then run it again:\n\
             sluicegate build:   rustup target add wasm32-unknown-unknown\n\
             sluicegate build:   apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld    \
             (as root; rustc 1.95 or later)\n"
        );
        assert!(self.said.ends_with(&expected), "{}", self.said);
    }
}

/// Where this machine has a program.
fn real(program: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file()).unwrap()
}

const CARGO: &str = "cargo build --target wasm32-unknown-unknown --target-dir target\n";
const DEBIAN: &str = "Debian's packages, standard library from source; target/script-debian\n";

#[test]
fn rustup_with_the_target_is_the_first() {
    let machine = Machine::new().has_rustup("bin", "exit 1").has_target().has_debian();
    machine.choose().is(&format!("rustup, target installed; target\n{CARGO}"));
    assert!(machine.calls("rustup").is_empty(), "nothing had to be asked for");
}

#[test]
fn rustup_is_found_outside_of_the_path() {
    let machine = Machine::new().has_rustup("home/.cargo/bin", "exit 1").has_target();
    machine.choose().is(&format!("rustup, target installed; target\n{CARGO}"));
}

#[test]
fn rustup_is_asked_for_the_target() {
    let machine = Machine::new();
    let add = format!("mkdir -p '{}'", machine.path(TARGET_FOLDER).display());
    let machine = machine.has_rustup("bin", &add).has_debian();
    machine.choose().is(&format!("rustup, target added now; target\n{CARGO}"));
    assert_eq!(machine.calls("rustup"), ["rustup --quiet target add wasm32-unknown-unknown"]);
}

#[test]
fn hanging_rustup_times_out_after_20_s() {
    // The clock runs faster here: who is given 20 s gets a fifth of one.
    let hurried = format!("shift; exec '{}' 0.2 \"$@\"", real("timeout").display());
    let machine =
        Machine::new().has_rustup("bin", "exec sleep 600").has("bin/timeout", &hurried).has_debian();
    let chosen = machine.choose();
    chosen.is(DEBIAN);
    assert!(chosen.said.contains("asking rustup for the target wasm32-unknown-unknown"), "{}", chosen.said);
    let rustup = machine.path("bin/rustup");
    let expected = format!("timeout 20 {} --quiet target add wasm32-unknown-unknown", rustup.display());
    assert_eq!(machine.calls("timeout"), [expected]);
}

#[test]
fn rustup_without_network_falls_back_to_debian() {
    for add in ["exit 1", "exit 0"] {
        let machine = Machine::new().has_rustup("bin", add).has_debian();
        machine.choose().is(DEBIAN);
        assert_eq!(machine.calls("rustup").len(), 1, "{add}");
    }
}

#[test]
fn debian_is_installed_where_root_wants_it() {
    let install =
        ["apt-get install -qq -y --no-install-recommends rustc-web cargo-web rust-web-src lld".to_owned()];
    let root = Machine::new().has_apt_get(0);
    root.choose_with("install", "").is(DEBIAN);
    assert_eq!(root.calls("apt-get"), install);
    drop(root);

    let root = Machine::new().has_apt_get(0);
    root.choose().is_none("sluicegate build: no tool chain for wasm32-unknown-unknown");
    assert!(root.calls("apt-get").is_empty(), "installing was not allowed");
    drop(root);

    let user = Machine::new().has_apt_get(1000);
    user.choose_with("install", "").is_none("sluicegate build: no tool chain for wasm32-unknown-unknown");
    assert!(user.calls("apt-get").is_empty());
}

#[test]
fn nothing_there_says_what_to_install() {
    let chosen = Machine::new().choose();
    chosen.is_none("sluicegate build: no tool chain for wasm32-unknown-unknown");
}

#[test]
fn variable_chooses_the_tool_chain() {
    let both = Machine::new().has_rustup("bin", "exit 1").has_target().has_debian();
    both.choose_with("", "debian").is(DEBIAN);
    both.choose_with("", "rustup").is(&format!("rustup, target installed; target\n{CARGO}"));
    both.choose_with("", "nix")
        .is_none("sluicegate build: SLUICEGATE_SCRIPT_TOOLCHAIN is 'nix', expected rustup or debian");
    drop(both);

    let debian = Machine::new().has_debian();
    debian
        .choose_with("", "rustup")
        .is_none("sluicegate build: rustup has no target wasm32-unknown-unknown and could not add it");
    drop(debian);

    let rustup = Machine::new().has_rustup("bin", "exit 1").has_target();
    rustup
        .choose_with("", "debian")
        .is_none("sluicegate build: Debian's tool chain for wasm32-unknown-unknown is not there");
}
