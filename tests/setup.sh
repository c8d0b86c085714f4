#!/bin/sh
# Installs what the build (`compiler`) and the end-to-end tests (`mosquitto`)
# need, on a Debian-like system; elsewhere says what to install.
set -eu

install() { # package, what for
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        run=""
    elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        run="sudo"
    else
        echo "setup: $2 is missing. Install it (Debian: apt-get install $1) and try again." >&2
        exit 1
    fi
    echo "setup: installing $1 ($2)"
    if ! $run apt-get install -y -qq --no-install-recommends $1 >/dev/null 2>&1; then
        $run apt-get update -qq
        $run apt-get install -y -qq --no-install-recommends $1 >/dev/null
    fi
}

case "${1:-}" in
compiler)
    if ! command -v cargo >/dev/null; then
        echo "setup: cargo is missing. Install Rust with rustup (https://rustup.rs) and try again." >&2
        exit 1
    fi
    command -v cc >/dev/null || install "gcc libc6-dev" "a C compiler for the TLS library"
    ;;
mosquitto)
    command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || install mosquitto "the MQTT broker of the end-to-end tests"
    ;;
*)
    echo "usage: setup.sh compiler|mosquitto" >&2
    exit 2
    ;;
esac
