#!/usr/bin/env bash
# What the attester costs a device at rest: scripts/footprint.sh [--json FILE] [--seconds N]
# Starts a software TPM, the verifier with its broker, and `attester run` with its default periods; waits for the first
# verdict, and then looks for 60 s at what an attester does between two attestations.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/lib/machine.sh
source "$here/lib/machine.sh"
# shellcheck source=scripts/lib/swtpm.sh
source "$here/lib/swtpm.sh"

json='' seconds=60
while (($#)); do
  case $1 in
    --json) json=$(realpath "$2"); shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) echo "usage: footprint.sh [--json FILE] [--seconds N]" >&2; exit 2 ;;
  esac
done

cd "$here/.."
need_build_tools
need_test_services
# Each alone: in one build Cargo unites what both ask of their libraries, and the device carries the server's share.
cargo build --release --quiet --package countersign-verifier --bins
cargo build --release --quiet --package countersign-attester --bins
programs=${CARGO_TARGET_DIR:-target}/release
attester=$(readlink -f "$programs/attester")
verifier=$(readlink -f "$programs/verifier")

work=$(mktemp -d)
children=()
end() {
  # In turn: the attester says goodbye to a broker that still runs.
  for child in "${children[@]}"; do
    kill "$child" 2>/dev/null || continue
    wait "$child" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap end EXIT

make_swtpm "$work/tpm"
start_swtpm "$work/tpm"
children=("$SWTPM_PID")
broker=127.0.0.1:$(free_port) enrolment_port=$(free_port)
"$verifier" init "$work/verifier" --name footprint --broker "$broker" --enrolment-port "$enrolment_port" \
  --service-port "$(free_port)" --http "127.0.0.1:$(free_port)" >"$work/init.log"
cp "$work"/tpm/ca/{issuercert,swtpm-localca-rootca-cert}.pem "$work/verifier/ek_roots/software/"
"$verifier" serve --config "$work/verifier/verifier.toml" >"$work/verifier.log" 2>&1 &
children=("$!" "${children[@]}")

keys=$work/verifier/broker
cat >"$work/attester.toml" <<CONFIG
tcti = "$SWTPM_TCTI"
state_dir = "$work/state"
[broker]
address = "$broker"
enrolment_address = "127.0.0.1:$enrolment_port"
ca = "$keys/ca.pem"
certificate = "$keys/enrol.pem"
key = "$keys/enrol.key"
[[verifier]]
name = "footprint"
key = "$work/verifier/verifier.pub.pem"
CONFIG
"$attester" --config "$work/attester.toml" run >"$work/attester.log" 2>&1 &
pid=$!
children=("$pid" "${children[@]}")

judged() { jq -e '.verifiers.footprint.verdict and .backlog == 0' "$work/state/status.json" >/dev/null 2>&1; }
deadline=$((SECONDS + 120))
until judged; do
  if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
    echo "no verdict came; the attester said:" >&2
    cat "$work/attester.log" >&2
    exit 1
  fi
  sleep 0.2
done
# What the verdict led to (a status file, its sync) has to be over.
sleep 2

ticks() { sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'; }
switches() { cat /proc/"$pid"/task/*/status | awk '/ctxt_switches/ { sum += $2 } END { print sum }'; }
before_ticks=$(ticks) before_switches=$(switches)
sleep "$seconds"
after_ticks=$(ticks) after_switches=$(switches)

binary=$(stat --format %s "$attester")
resident=$(awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$pid/status")
woken=$((after_switches - before_switches))
# Keep-alives (one in 240 s) and two more.
allowed=$((seconds / 240 + 2))
report=$(jq -n --argjson binary "$binary" --argjson resident "$resident" --argjson woken "$woken" \
  --argjson ticks $((after_ticks - before_ticks)) --argjson hz "$(getconf CLK_TCK)" --argjson seconds "$seconds" \
  '{binary_bytes: $binary, resident_bytes: $resident, idle_cpu_percent: (100 * $ticks / $hz / $seconds),
    wakeups_per_s: ($woken / $seconds)}')
[[ -z $json ]] || printf '%s\n' "$report" >"$json"
printf '%-18s %s\n' binary_bytes "$binary" resident_bytes "$resident (limit $((12 * 1000 * 1000)))" \
  idle_cpu_percent "$(jq .idle_cpu_percent <<<"$report")" \
  wakeups_per_s "$(jq .wakeups_per_s <<<"$report") ($woken context switches in $seconds s, limit $allowed)"
((resident <= 12 * 1000 * 1000)) || { echo "the attester takes more memory than it may" >&2; exit 1; }
((woken <= allowed)) || { echo "the attester wakes up more often than it may" >&2; exit 1; }
