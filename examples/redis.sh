#!/bin/sh
# Submits a campaign as one job on the Redis stream `pregon:jobs`, waits for the result and prints it.
#
#   REDIS_URL=redis://127.0.0.1:6379 examples/redis.sh
#
# Run it again after any failure: with the same external id a repeated job sends nothing twice.
# A job that is rejected, or still in the stream after 60 seconds, ends the script with the reason and exit code 1.
# Needs redis-cli 7.0 or newer, and jq.
set -eu

redis_url=${REDIS_URL:-redis://127.0.0.1:6379}
jobs=${PREGON_NAMESPACE:-pregon}:jobs
external_id=${PREGON_EXTERNAL_ID:-example-redis}
template=${PREGON_TEMPLATE:-order_update/es_AR}
line=${PREGON_LINE:-3001}

# With -e, redis-cli exits with 1 when Redis replies with an error.
redis() {
    redis-cli -e -u "$redis_url" --no-auth-warning "$@"
}

job=$(jq -nc --arg id "$external_id" --arg name "${template%/*}" --arg language "${template#*/}" --arg line "$line" '{
    type: "campaign",
    external_id: $id,
    name: "Order update",
    template: {$name, $language},
    lines: [$line],
    recipients: [
        {to: "+5491155550001", params: {"1": "María", "2": "A-10"}},
        {to: "+5491155550002", params: {"1": "Juan", "2": "A-11"}},
        {to: "5491155550003", params: {"1": "Ana", "2": "A-12"}},
        {to: "+5491155550004", params: {"1": "José", "2": "A-13"}}
    ],
    launch: true
}')
entry=$(redis XADD "$jobs" '*' job "$job")
echo "job $entry"

# A worker deletes the entry from the stream once the job has taken effect or its dead letter is written.
waited_s=0
while :; do
    waiting=$(redis XRANGE "$jobs" "$entry" "$entry")
    [ -n "$waiting" ] || break
    if [ "$waited_s" -ge 60 ]; then
        echo "error: the job still waits after $waited_s s: is a worker with the role api running?" >&2
        exit 1
    fi
    sleep 1
    waited_s=$((waited_s + 1))
done

# If there is a dead letter, it has the id of the entry. Its fields and values alternate.
letters=$(redis --json XRANGE "$jobs:dead" "$entry" "$entry")
letter=$(printf '%s' "$letters" | jq '.[] | .[1] | [range(0; length; 2) as $i | {(.[$i]): .[$i + 1]}] | add')
case $(printf '%s' "$letter" | jq -r .code) in
'')
    echo "taken: all recipients were accepted"
    ;;
recipients-rejected) # the only code of a job that took effect
    printf '%s' "$letter" | jq -r '"taken: \(.reason)",
        (.rejected | fromjson[] | "  row \(.row): \(.code): \(.reason)")'
    ;;
*)
    printf '%s' "$letter" | jq -r '"error: \(.code): \(.reason)"' >&2
    exit 1
    ;;
esac
