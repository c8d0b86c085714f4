#!/bin/sh
# Builds the official scripts from source: target/adapters/NAME.wasm.
#
#   scripts/build.sh [NAME...]      without names: all
#
# scripts/toolchain.sh says which tool chain; where we are root it is installed.
set -eu

cd "$(dirname "$0")/.."
SAY=scripts/build.sh
OUT=target/adapters
# The paths below are ours.
unset CARGO_TARGET_DIR

. scripts/toolchain.sh
choose_toolchain install

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
wasm_cargo build --profile script --lib $packages

mkdir -p $OUT
for name in "$@"; do
    module=$target_folder/$TARGET/script/$(echo "$name" | tr - _).wasm
    # An unchanged file keeps its time, so that nothing after it is rebuilt.
    if ! cmp -s "$module" "$OUT/$name.wasm"; then
        cp "$module" "$OUT/.$name.$$"
        mv "$OUT/.$name.$$" "$OUT/$name.wasm"
    fi
done
