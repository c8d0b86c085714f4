#!/bin/sh
# Builds the official scripts from source: target/adapters/NAME.wasm.
#
#   scripts/build.sh [NAME...]      without names: all
#
# The tool chain for wasm32-unknown-unknown is the first of these that works;
# SLUICEGATE_SCRIPT_TOOLCHAIN=rustup|debian takes that one or fails.
#   1. rustup's, with the target installed
#   2. rustup's, after `rustup target add` (20 s, then it counts as unreachable)
#   3. Debian's rustc-web, cargo-web, rust-web-src and lld, which bring the
#      sources of the standard library instead of a compiled one; installed
#      with apt-get where we are root
set -eu

cd "$(dirname "$0")/.."
TARGET=wasm32-unknown-unknown
PACKAGES="rustc-web cargo-web rust-web-src lld"
OUT=target/adapters

# A cargo that runs us (a build script) must not pass its own flags on.
unset RUSTC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
unset CARGO_TARGET_DIR CARGO_MAKEFLAGS

say() { echo "scripts/build.sh: $*" >&2; }

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
    built=target/$TARGET/script
    build() { PATH="$bin:$PATH" "$bin/cargo" build --profile script --target $TARGET "$@"; }
}

debian_complete() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ -x /usr/bin/wasm-ld ] &&
        [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ] &&
        [ "$(/usr/bin/rustc --version | cut -d. -f2)" -ge 95 ]
}

use_debian() {
    if ! debian_complete; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
        say "installing Debian's $PACKAGES"
        # shellcheck disable=SC2086
        { apt-get install -qq -y --no-install-recommends $PACKAGES ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends $PACKAGES; }; } >&2 || return 1
        debian_complete || return 1
    fi
    how="Debian's packages, standard library from source"
    # Its own folder: two compilers would throw each other's work away.
    built=target/script-debian/$TARGET/script
    # Sources and compiler must be of the same version, so both are Debian's.
    build() {
        RUSTC_BOOTSTRAP=1 PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=/usr/bin/wasm-ld \
            /usr/bin/cargo build --profile script -Zbuild-std=std,panic_abort \
            --target $TARGET --target-dir target/script-debian "$@"
    }
}

fail() {
    say "$1"
    say "the scripts need one of these, then run it again:"
    say "  rustup target add $TARGET"
    say "  apt-get install --no-install-recommends $PACKAGES    (as root; rustc 1.95 or later)"
    exit 1
}

case ${SLUICEGATE_SCRIPT_TOOLCHAIN:-} in
"") use_rustup || use_debian || fail "no tool chain for $TARGET" ;;
rustup) use_rustup || fail "rustup has no target $TARGET and could not add it" ;;
debian) use_debian || fail "Debian's tool chain for $TARGET is not there" ;;
*) fail "SLUICEGATE_SCRIPT_TOOLCHAIN is '$SLUICEGATE_SCRIPT_TOOLCHAIN', expected rustup or debian" ;;
esac

if [ $# = 0 ]; then
    for manifest in scripts/*/Cargo.toml; do
        set -- "$@" "$(basename "$(dirname "$manifest")")"
    done
fi
packages=
for name in "$@"; do
    [ -f "scripts/$name/Cargo.toml" ] || { say "there is no script scripts/$name"; exit 1; }
    packages="$packages -p $name"
done

say "tool chain: $how"
# shellcheck disable=SC2086
build --lib $packages

mkdir -p $OUT
for name in "$@"; do
    module=$built/$(echo "$name" | tr - _).wasm
    # An unchanged file keeps its time, so that nothing after it is rebuilt.
    if ! cmp -s "$module" "$OUT/$name.wasm"; then
        cp "$module" "$OUT/.$name.$$"
        mv "$OUT/.$name.$$" "$OUT/$name.wasm"
    fi
done
