#!/bin/sh
# Checks that a lean build, without the demo and the embedded broker, leaves
# their dependencies out.
set -eu

tree=$("${CARGO:-cargo}" tree --locked -p sluicegate --no-default-features -e normal --prefix none)
for name in rcgen rumqttd crossterm; do
    if printf '%s\n' "$tree" | grep -q "^$name "; then
        echo "A lean build contains $name; see: cargo tree -p sluicegate --no-default-features -e normal -i $name" >&2
        exit 1
    fi
done
