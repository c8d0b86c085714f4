# Finds a Rust tool chain for WebAssembly scripts; sourced by scripts/build.sh
# and run by `sluicegate build`, so plain sh.
#
#   choose_toolchain [install]   the first of these that works, or a message and status 1:
#       1. rustup's, with the target installed
#       2. rustup's, after `rustup target add` (20 s, then it counts as unreachable)
#       3. Debian's rustc-web, cargo-web, rust-web-src and lld, which bring the
#          sources of the standard library instead of a compiled one; with
#          `install` it takes them from apt-get where we are root
#     SLUICEGATE_SCRIPT_TOOLCHAIN=rustup|debian takes that one or fails.
#   wasm_cargo build ...         that tool chain's cargo, for the target
#
# It leaves in $how what was chosen, and in $target_folder where its work is.

TARGET=wasm32-unknown-unknown
PACKAGES="rustc-web cargo-web rust-web-src lld"

# A cargo that runs us (a build script) must not pass its own flags on.
unset RUSTC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
unset CARGO_MAKEFLAGS

say() { echo "${SAY:-sluicegate build}: $*" >&2; }

# Below $1, by the clock where there is a `timeout`.
within() {
    limit=$1
    shift
    if command -v timeout >/dev/null; then timeout "$limit" "$@"; else "$@"; fi
}

# rustup's tool chain. Its programs may be outside PATH in a fresh shell.
find_rustup() {
    for cargo in "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo"; do
        bin=$(dirname "$cargo")
        [ -x "$bin/rustup" ] && [ -x "$cargo" ] && return 0
    done
    return 1
}

rustup_has_target() {
    [ -d "$("$bin/rustc" --print sysroot)/lib/rustlib/$TARGET/lib" ]
}

use_rustup() {
    find_rustup || return 1
    if rustup_has_target; then
        how="rustup, target installed"
    else
        say "asking rustup for the target $TARGET"
        within 20 "$bin/rustup" --quiet target add $TARGET >&2 && rustup_has_target || return 1
        how="rustup, target added now"
    fi
    target_folder=${CARGO_TARGET_DIR:-target}
    wasm_cargo() { PATH="$bin:$PATH" "$bin/cargo" "$@" --target $TARGET --target-dir "$target_folder"; }
}

debian_complete() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ -x /usr/bin/wasm-ld ] &&
        [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ] &&
        [ "$(/usr/bin/rustc --version | cut -d. -f2)" -ge 95 ]
}

use_debian() { # [install]
    if ! debian_complete; then
        [ "${1:-}" = install ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
        say "installing Debian's $PACKAGES"
        # shellcheck disable=SC2086
        { apt-get install -qq -y --no-install-recommends $PACKAGES ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends $PACKAGES; }; } >&2 || return 1
        debian_complete || return 1
    fi
    how="Debian's packages, standard library from source"
    # Its own folder: two compilers would throw each other's work away.
    target_folder=${CARGO_TARGET_DIR:-target}/script-debian
    # Sources and compiler must be of the same version, so both are Debian's.
    wasm_cargo() {
        RUSTC_BOOTSTRAP=1 PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=/usr/bin/wasm-ld \
            /usr/bin/cargo "$@" -Zbuild-std=std,panic_abort --target $TARGET --target-dir "$target_folder"
    }
}

no_toolchain() {
    say "$1"
    say "scripts in Rust need one of these, then run it again:"
    say "  rustup target add $TARGET"
    say "  apt-get install --no-install-recommends $PACKAGES    (as root; rustc 1.95 or later)"
    return 1
}

choose_toolchain() { # [install]
    case ${SLUICEGATE_SCRIPT_TOOLCHAIN:-} in
    "") use_rustup || use_debian "${1:-}" || no_toolchain "no tool chain for $TARGET" ;;
    rustup) use_rustup || no_toolchain "rustup has no target $TARGET and could not add it" ;;
    debian) use_debian "${1:-}" || no_toolchain "Debian's tool chain for $TARGET is not there" ;;
    *) no_toolchain "SLUICEGATE_SCRIPT_TOOLCHAIN is '$SLUICEGATE_SCRIPT_TOOLCHAIN', expected rustup or debian" ;;
    esac
}
