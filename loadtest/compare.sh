#!/usr/bin/env bash
# Compares Pregón with a bare loop and with the same job on other queues, in alternation on this machine. What is
# compared, and how to read the table: peers/README.md.
#
#   loadtest/compare.sh [MESSAGES [ROUNDS [CONTENDER…]]]
#   loadtest/compare.sh 50000 1 bullmq:1x50 bullmq:1x100    # which concurrency is the best?
#
# Contenders: bare:STREAMS, pregon:LINES, and the other queues with their settings. The settings are listed at the
# top of peers/bullmq/work.js and of peers/rust/src/bin/*.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

messages=${1:-100000} rounds=${2:-3}
contenders=("${@:3}")
if ((${#contenders[@]} == 0)); then
  contenders=(
    bare:64 pregon:8
    'bullmq:1x100,pipeline,remove' 'bullmq:2x100,pipeline,remove' bullmq:2x100 'bullmq:1x100,fetch'
    'bullmq-rust:1x100,remove'
    apalis:1x100 'apalis:1x100,no-locks,no-results,no-events,batch=100'
  )
fi

fail() {
  echo "compare.sh: $*" >&2
  exit 1
}

missing=()
for program in cargo npm node redis-server redis-cli curl; do
  command -v "$program" >/dev/null || missing+=("$program")
done
((${#missing[@]} == 0)) || fail "needs ${missing[*]}: install what is missing, and run it again"
[[ -r /proc/self/stat ]] || fail "reads processor times from /proc, which this system does not have: run it on Linux"
node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' ||
  fail "needs Node.js 20.19 or newer, and $(command -v node) is $(node --version): install a newer one"

cargo build --release --locked --workspace
cargo build --release --locked --manifest-path loadtest/peers/rust/Cargo.toml
npm ci --prefix loadtest/peers/bullmq --ignore-scripts --no-audit --no-fund --silent

pregon=$PWD/target/release/pregon load=$PWD/target/release/pregon-load
peers=$PWD/loadtest/peers
folder=$(mktemp -d)
# Pids of the processes that this script started: it kills no others.
running=()

end() {
  for pid in "${running[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' INT TERM

stop() {
  kill "$1"
  wait "$1" || true
  for i in "${!running[@]}"; do [[ ${running[i]} != "$1" ]] || unset "running[i]"; done
}

# Repeats a command until it succeeds, for up to a minute.
until_ok() {
  local deadline=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "gave up after a minute: $*"
    sleep 0.05
  done
}

# Processor time of a process so far, in microseconds. Includes ended children, such as those in which Redis
# rewrites its file.
cpu() {
  awk '{ sub(/.*\) /, ""); print ($12 + $13 + $14 + $15) * 10000 }' "/proc/$1/stat"
}

# Starts a new Redis for each contender, with the settings of Pregón's `spawn:`: append-only file on, synced every
# second, and rewritten only from 512 MB on.
start_redis() {
  mkdir "$folder/redis"
  socket=$folder/redis/redis.sock
  redis-server --dir "$folder/redis" --appendonly yes --auto-aof-rewrite-min-size 512mb --save '' --port 0 \
    --unixsocket "$socket" --logfile "$folder/redis/log" &
  redis=$!
  running+=("$redis")
  until_ok redis-cli -s "$socket" ping
}

stop_redis() {
  stop "$redis"
  rm -r "$folder/redis"
}

used_memory() {
  redis-cli -s "$socket" info memory | sed -n 's/^used_memory:\([0-9]*\).*/\1/p'
}

# The same recipients for every contender: each number once, with three short values.
recipients() {
  awk -v n="$messages" 'BEGIN {
    split("María José Lucía Juan Sofía Martín Camila Diego", names, " ")
    print "to,1,2,3"
    for (i = 0; i < n; i++)
      printf "+54911%08d,%s,A-%d,%d de mayo\n", i, names[i % 8 + 1], i * 7919 % 1000000, i % 31 + 1
  }'
}

ask_meta() {
  echo "$1" >&"${meta[1]}"
  read -r <&"${meta[0]}"
}

# Pregón receives recipients through its API, so it has to run first. It sends nothing before the launch.
pregon_enqueue() {
  local lines=() arguments=()
  for ((line = 3001; line < 3001 + $1; line++)); do
    lines+=("{ id = \"$line\", waba = \"2001\", messages_per_second = 1_000_000 }")
    arguments+=(--line "$line")
  done
  cat >"$folder/pregon.toml" <<TOML
redis.url = "redis+unix://$socket"
graph.base_url = "$url"
http.listen = "127.0.0.1:0"
http.api_keys = [{ name = "compare", secret = { env = "PREGON_API_KEY" } }]
ops.listen = "127.0.0.1:0"
dispatch.headroom = 0.0
log.format = "json"
business = [{ id = "1001" }]
waba = [{ id = "2001", business = "1001", access_token = { env = "PREGON_API_KEY" } }]
line = [$(IFS=, && echo "${lines[*]}")]
TOML
  "$pregon" serve --roles api,dispatch --config "$folder/pregon.toml" 2>"$folder/pregon.log" &
  worker=$!
  running+=("$worker")
  until_ok grep -q '"serving"' "$folder/pregon.log"
  PREGON_SERVER=http://$(sed -n 's/.*"http":"Some(\([^)]*\))".*/\1/p' "$folder/pregon.log")
  export PREGON_SERVER
  # Pregón reads the templates from Meta just after its start, and refuses campaigns until it has them.
  until_ok "$pregon" campaign submit "$folder/recipients.csv" --template order_update/es_AR "${arguments[@]}" --no-launch
  campaign=$("$pregon" campaign list --json | node -p 'JSON.parse(require("fs").readFileSync(0)).campaigns[0].id')
}

# Prints elapsed seconds and microseconds of CPU. The seconds come from the timestamps of the campaign.
pregon_work() {
  local before
  before=$(cpu "$worker")
  curl -sSf -X POST -H "Authorization: Bearer $PREGON_API_KEY" "$PREGON_SERVER/v1/campaigns/$campaign/launch" >/dev/null
  "$pregon" campaign watch "$campaign" --json >/dev/null
  "$pregon" campaign show "$campaign" --json | node -p '
    const { started_at, ended_at } = JSON.parse(require("fs").readFileSync(0));
    (new Date(ended_at) - new Date(started_at)) / 1000 + " " + process.argv[1]' "$(($(cpu "$worker") - before))"
}

# The same for the bare loop, which reports both as JSON.
bare_work() {
  "$load" bare "$url" --messages "$messages" --warm-up 0 --streams "$1" --lines 8 | node -p '
    const { took, cpu } = JSON.parse(require("fs").readFileSync(0));
    const seconds = ({ secs, nanos }) => secs + nanos / 1e9;
    seconds(took) + " " + Math.round(seconds(cpu) * 1e6)'
}

# Runs one contender once, and prints a line of results.
run() {
  local round=$1 contender=$2 bytes=- redis_us=- twice=- lost=- settings=${2#*:} kind=${2%%:*} enqueue=() work=()
  case $kind in
    bare) work=(bare_work "$settings") ;;
    pregon) enqueue=(pregon_enqueue "$settings") work=(pregon_work) ;;
    bullmq)
      enqueue=(node "$peers/bullmq/enqueue.js" "$folder/redis/redis.sock")
      work=(node "$peers/bullmq/work.js" "$folder/redis/redis.sock" "$messages" "$url" "$settings")
      ;;
    bullmq-rust | apalis)
      enqueue=("$peers/rust/target/release/$kind" enqueue "$folder/redis/redis.sock")
      work=("$peers/rust/target/release/$kind" work "$folder/redis/redis.sock" "$messages" "$url" "$settings")
      ;;
    *) fail "there is no contender $kind: bare, pregon, bullmq, bullmq-rust or apalis" ;;
  esac
  start_redis
  local empty before result seconds worker_us
  if ((${#enqueue[@]})); then
    empty=$(used_memory)
    "${enqueue[@]}" <"$folder/recipients.csv"
    bytes=$((($(used_memory) - empty) / messages))
  fi
  before=$(cpu "$redis")
  result=$("${work[@]}") || fail "$contender stopped before it was done; its error is above"
  read -r seconds worker_us <<<"$result"
  if ((${#enqueue[@]})); then
    redis_us=$(($(cpu "$redis") - before))
  fi
  if [[ $kind == pregon ]]; then stop "$worker"; fi
  stop_redis
  ask_meta "{\"messages\":\"$folder/seen\"}"
  ask_meta '"forget"'
  if [[ $kind != bare ]]; then
    # The second word of each line is the phone number of the message.
    read -r lost twice < <(awk -v n="$messages" '!known[$2]++ { unique++ } END { print n - unique, NR - unique }' "$folder/seen")
  fi
  echo "$round $contender $seconds $worker_us $redis_us $bytes $lost $twice" | tee -a "$folder/results" >&2
}

locked() {
  awk -v name="name = \"$1\"" '$0 == name { getline; gsub(/"/, ""); print $3; exit }' "$2"
}

versions() {
  local lock=loadtest/peers/rust/Cargo.lock
  echo "Pregón $(git describe --always --dirty), bare loop: reqwest $(locked reqwest Cargo.lock)"
  npm ls --prefix loadtest/peers/bullmq --depth 0 --parseable --long | sed '1d; s/.*://' | paste -sd ' ' | sed "s/\$/ on Node.js $(node --version)/"
  echo "bullmq-official $(locked bullmq-official $lock), apalis-redis $(locked apalis-redis $lock), reqwest $(locked reqwest $lock)"
  echo "$(redis-server --version | cut -d ' ' -f 1-3), $(rustc --version), $(uname -sr), $(nproc) cores: $(sed -n 's/^model name.*: //p; T; q' /proc/cpuinfo)"
}

# Prints the medians of the rounds. Ratios are taken within each round first.
table() {
  awk -v n="$messages" '
    function median(of, name,   i, j, sorted, t) {
      for (i = 1; i <= rounds; i++) {
        for (j = i; j > 1 && sorted[j - 1] > of[i, name]; j--) sorted[j] = sorted[j - 1]
        sorted[j] = of[i, name]
      }
      return rounds % 2 ? sorted[(rounds + 1) / 2] : (sorted[rounds / 2] + sorted[rounds / 2 + 1]) / 2
    }
    function shown(form, value) { return value == "-" ? "" : sprintf(form, value) }
    {
      if (!($2 in seen)) { order[++many] = $2; seen[$2] = 1 }
      rounds = $1
      rate[$1, $2] = n / $3; worker[$1, $2] = $4 / n; redis[$1, $2] = $5 == "-" ? "-" : $5 / n; bytes[$1, $2] = $6
      lost[$2] = $7 == "-" ? "-" : lost[$2] + $7; twice[$2] = $8 == "-" ? "-" : twice[$2] + $8
      if ($2 ~ /^bare:/) bare[$1] = n / $3
      if ($2 ~ /^bullmq:/ && n / $3 > bullmq[$1]) bullmq[$1] = n / $3
    }
    END {
      print "| contender | messages/s | × BullMQ | × bare loop | CPU, µs a message: worker | Redis | Redis, bytes a job | lost | twice |"
      print "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
      for (i = 1; i <= many; i++) {
        name = order[i]
        for (round = 1; round <= rounds; round++) {
          by_bullmq[round, name] = bullmq[round] ? rate[round, name] / bullmq[round] : "-"
          by_bare[round, name] = bare[round] ? rate[round, name] / bare[round] : "-"
        }
        printf "| `%s` | %.0f | %s | %s | %.1f | %s | %s | %s | %s |\n", name, median(rate, name),
          shown("%.2f", median(by_bullmq, name)), shown("%.2f", median(by_bare, name)), median(worker, name),
          shown("%.1f", median(redis, name)), shown("%d", median(bytes, name)), shown("%d", lost[name]), shown("%d", twice[name])
      }
    }' "$folder/results"
}

PREGON_API_KEY=a-key-for-comparisons
export PREGON_API_KEY
recipients >"$folder/recipients.csv"
coproc meta { exec "$load" meta --keep; }
running+=("$meta_PID")
read -r url <&"${meta[0]}"

for ((round = 1; round <= rounds; round++)); do
  for contender in "${contenders[@]}"; do
    run "$round" "$contender"
  done
done
echo
versions
echo
echo "$messages messages, medians of $rounds rounds"
echo
table
