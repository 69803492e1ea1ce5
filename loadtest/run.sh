#!/bin/sh
# Runs load tests one after the other, and collects their reports in a new folder under loadtest/reports:
#
#   loadtest/run.sh [SCENARIO…]        all of loadtest/scenarios, or the named ones: loadtest/run.sh dispatch upload
#
# Builds `pregon` and `pregon-load` first, unless PREGON_LOAD names a pregon-load, which runs the `pregon` in its
# own folder.
#
# Exit code: 0 if all goals are reached, 1 if one was missed or a scenario did not run to its end, 2 if the build
# failed or a scenario file is invalid.
set -u
cd "$(dirname "$0")/.."
[ -n "${PREGON_LOAD:-}" ] || cargo build --release --locked --workspace || exit 2
program=${PREGON_LOAD:-target/release/pregon-load}
[ $# -gt 0 ] || set -- $(basename -s .toml loadtest/scenarios/*.toml)
# Scenarios with a slow Meta have thousands of open requests, over HTTP/1.1 each on a connection of its own.
ulimit -n "$(ulimit -Hn)"
reports=loadtest/reports/$(date -u +%Y-%m-%dT%H-%M-%S)
missed=
for name; do
    "$program" "loadtest/scenarios/$name.toml" --out "$reports/$name"
    case $? in
    0) ;;
    1) missed="$missed $name" ;;
    *) exit 2 ;;
    esac
    echo
done
echo "reports are in $reports"
[ -z "$missed" ] || { echo "goals missed, or not played to the end:$missed" >&2; exit 1; }
