#!/bin/sh
# Runs one test program and ends it after a time limit, so that a test that
# hangs is named and the programs after it still run. Cargo calls it as the
# runner of every test program; the Makefile says so.
#
#   tests/limit.sh PROGRAM [ARGUMENT...]
#
#   TEST_LIMIT   seconds for one program (default 900)
set -u

limit=${TEST_LIMIT:-900}
command -v timeout >/dev/null || exec "$@"

output=$(mktemp)
trap 'rm -f "$output"' EXIT
# The status of the program, past the pipe.
{
    timeout --kill-after=10 "$limit" "$@" 2>&1
    echo $? >"$output.status"
} | tee "$output"
status=$(cat "$output.status")
rm -f "$output.status"

# 124: timed out; 137: it also ignored SIGTERM.
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
    echo "TIME LIMIT: $1 did not end within $limit s. Tests that had not finished:"
    # The harness names a test that has been running for a minute.
    sed -n 's/^test \(.*\) has been running for over.*/\1/p' "$output" | while read -r test; do
        grep -q "^test $test \.\.\. " "$output" || echo "    $test"
    done
fi
exit "$status"
