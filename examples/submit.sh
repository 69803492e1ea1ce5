#!/bin/sh
# Submits a CSV file of recipients as a campaign over the HTTP API and follows the campaign until it is completed.
#
#   PREGON_API_KEY=... examples/submit.sh [FILE.csv]
#
# Run it again after any failure: with the same external id it continues where it stopped and sends nothing twice.
# A refused call or a campaign that was stopped ends the script with a message and exit code 1.
# Needs curl 7.76 or newer, and jq.
set -eu

url=${PREGON_SERVER:-http://127.0.0.1:8080}
key=${PREGON_API_KEY:?set PREGON_API_KEY to a key of http.api_keys}
external_id=${PREGON_EXTERNAL_ID:-example-sh}
template=${PREGON_TEMPLATE:-order_update/es_AR}
line=${PREGON_LINE:-3001}
file=${1:-$(dirname "$0")/customers.csv}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The key is passed to curl in a file, because the process list shows arguments.
printf 'Authorization: Bearer %s\n' "$key" >"$work/key"

# Usage: call PATH [CURL_OPTION...]. Prints the response. If the server refuses the call, prints the reason and exits.
# curl retries while the server is unavailable, which is safe: every call of this script may be repeated.
call() {
    path=$1
    shift
    rm -f "$work/body"
    curl --silent --show-error --fail-with-body --retry 3 --retry-connrefused --connect-timeout 10 \
        --header "@$work/key" --output "$work/body" "$@" "$url/v1/$path" || {
        jq -r '"error: \(.title): \(.detail)"' "$work/body" >&2 2>/dev/null || true
        exit 1
    }
    cat "$work/body"
}

new=$(jq -n --arg id "$external_id" --arg name "${template%/*}" --arg language "${template#*/}" --arg line "$line" \
    '{name: "Order update", external_id: $id, template: {$name, $language}, lines: [$line]}')
created=$(call campaigns --header 'Content-Type: application/json' --data "$new")
id=$(printf '%s' "$created" | jq -r .id)
echo "campaign $id"

# The Upload-Id lets the server recognize this upload when the script runs again.
uploaded=$(call "campaigns/$id/recipients" --header 'Content-Type: text/csv' --header 'Upload-Id: recipients' \
    --data-binary "@$file")
printf '%s' "$uploaded" | jq -r '"\(.accepted) recipients accepted, \(.rejected_count) rejected",
    (.rejected[] | "  line \(.line): \(.code): \(.reason)")'

campaign=$(call "campaigns/$id/launch" --request POST)
while :; do
    printf '%s' "$campaign" | jq -r '.statistics as $counts
        | [$counts.by_state | to_entries[] | select(.value > 0) | "\(.value) \(.key)"] as $states
        | "\(.state): \($counts.funnel.accepted) of \($counts.recipients) accepted by Meta (\($states | join(", ")))"'
    state=$(printf '%s' "$campaign" | jq -r .state)
    case $state in scheduled | running) ;; *) break ;; esac
    sleep 1
    campaign=$(call "campaigns/$id")
done

# Statuses (sent, delivered, read) keep arriving after this: ask again later for the final counts.
printf '%s' "$campaign" | jq -r '.statistics.failures[] | "  \(.count): \(.title) (code \(.code))"'
if [ "$state" != completed ]; then
    printf '%s' "$campaign" | jq -r '"error: the campaign is \(.state): \(.reason.details // "by request")"' >&2
    exit 1
fi
