#!/bin/sh
# Plays load tests one after the other, each alone on the machine, and collects their reports in a folder of this run:
#
#   loadtest/run.sh [SCENARIO…]        all of loadtest/scenarios, or those named: loadtest/run.sh dispatch upload
#
# It builds both programs first. PREGON_LOAD names another load tester, which runs the `pregon` beside it. Ends with 1 where a goal was
# missed.
set -u
cd "$(dirname "$0")/.."
[ -n "${PREGON_LOAD:-}" ] || cargo build --release --locked --workspace || exit 2
program=${PREGON_LOAD:-target/release/pregon-load}
[ $# -gt 0 ] || set -- $(basename -s .toml loadtest/scenarios/*.toml)
# Thousands of requests are open at once where Meta is slow.
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
