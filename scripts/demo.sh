#!/usr/bin/env bash
# The main job, step by step, on a TPM interface (swtpm) and a broker (mosquitto): scripts/demo.sh [--keep]
# Needs Debian 12 and root; installs what is missing. --keep leaves it running and says where.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/lib/machine.sh
source "$here/lib/machine.sh"
# shellcheck source=scripts/lib/swtpm.sh
source "$here/lib/swtpm.sh"
# shellcheck source=scripts/demo/root.sh
source "$here/demo/root.sh"

keep=false
case "${1:-}" in
  "") ;;
  --keep) keep=true ;;
  *) echo "usage: scripts/demo.sh [--keep]" >&2; exit 2 ;;
esac
((EUID == 0)) || { echo "the demo makes namespaces and installs packages: run it as root" >&2; exit 1; }
cd "$here/.."

demo=$(mktemp -d -t countersign-demo.XXXXXX)
root=$demo/device
PRODUCT=demo/device
BOOT_LOG=tests/vectors/boot/qemu-good1/eventlog.bin
# The log has only a digest of it.
BOOT_CMDLINE='console=ttyS0 panic=-1 quiet ima_policy=tcb ima_template=ima-ng ima_hash=sha256'
children=()
device_pid=

# Ends everything that was started, and waits for it, so that nothing prints after the last line.
finish() {
  local status=$? pid
  trap - EXIT
  # unshare passes no other signal on to what it started.
  [[ -z $device_pid ]] || kill -KILL "$device_pid" 2>/dev/null || true
  for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${children[@]}"; do wait "$pid" 2>/dev/null || true; done
  if ((status)); then
    echo "demo: failed; the last lines of its logs follow" >&2
    tail -n 15 "$demo"/*.log "$root"/var/log/attester.log >&2 2>/dev/null || true
  fi
  rm -rf "$demo"
  ((status)) || echo "demo: ok"
  exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM

say() { printf '%s\n' "$*"; }
now() { date +%s%N; }
started() { step_began=$(now); }
# done_with WORDS…: one line a step, with its measured time.
done_with() { printf '%8.3f s  %s\n' "$((($(now) - step_began) / 1000))e-6" "$*"; }
fail() { echo "demo: $*" >&2; exit 1; }
verifier() { "$bin/verifier" "$@" --config "$demo/verifier/verifier.toml"; }
device_json() { verifier device "$id" --json; }
verdict() { device_json | jq -r .verdict; }

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "no $what in time"
    sleep 0.05
  done
}

say "installing what is missing, and building"
need_build_tools
need_test_services
need_packages busybox-static
cargo build --release --quiet --workspace --bins
bin=$(readlink -f "${CARGO_TARGET_DIR:-target}/release")

say "making a TPM with endorsement keys, a verifier, and a device with a small root"
make_swtpm "$demo/tpm"
start_swtpm "$demo/tpm"
children+=("$SWTPM_PID")
devices_port=$(free_port) enrolment_port=$(free_port) service_port=$(free_port)
http=127.0.0.1:$(free_port)
"$bin/verifier" init "$demo/verifier" --name demo --http "$http" --broker "127.0.0.1:$devices_port" \
  --enrolment-port "$enrolment_port" --service-port "$service_port" >"$demo/init.log"
install -m 644 scripts/demo/policy.toml "$demo/verifier/policy.toml"
for certificate in issuercert swtpm-localca-rootca-cert; do
  verifier roots add "$demo/tpm/ca/$certificate.pem" --software >>"$demo/init.log"
done
make_root "$root" "$bin/attester" scripts/demo/init
cp "$BOOT_LOG" "$root/boot/eventlog.bin"
cp "$demo"/verifier/{verifier.pub.pem,broker/{ca,enrol}.pem,broker/enrol.key} "$root/etc/countersign/"
{
  printf 'tcti = "%s"\nboot_log = "/boot/eventlog.bin"\nsweep_seconds = 1\n' "$SWTPM_TCTI"
  cat "$demo/verifier/attester.toml.example"
} >"$root/etc/countersign/attester.toml"

# Firmware's part: each event of a boot that was captured on a virtual machine, into the PCR that it was measured into.
measured_boot() {
  local events=()
  mapfile -t events < <(tpm2_eventlog "$BOOT_LOG" 2>/dev/null | awk '
    $1 == "PCRIndex:" { pcr = $2 } $1 == "EventType:" { type = $2 } $1 == "-" && $2 == "AlgorithmId:" { alg = $3 }
    $1 == "Digest:" && alg == "sha256" && type != "EV_NO_ACTION" { gsub(/"/, "", $2); print pcr ":sha256=" $2; alg = "" }')
  TPM2TOOLS_TCTI=$SWTPM_TCTI tpm2_pcrextend "${events[@]}"
  say "  ${#events[@]} events of a captured boot stand for firmware, boot loader and kernel"
}

start_device() {
  in_root "$root" /init >>"$demo/device.log" 2>&1 &
  device_pid=$!
  children+=("$device_pid")
}
stop_device() {
  kill -KILL "$device_pid"
  wait "$device_pid" 2>/dev/null || true
}

say "signing release 1.0 of product $PRODUCT: what is in the device's root, and that boot"
"$bin/reference-values" keygen --out "$demo/maker.pem" >"$demo/release.log"
"$bin/reference-values" build --rootfs "$root" --boot-log "$BOOT_LOG" --cmdline "$BOOT_CMDLINE" \
  --product "$PRODUCT" --release 1.0 -o "$demo/1.0.corim" | sed 's/^/  /'
"$bin/reference-values" sign "$demo/1.0.corim" --key "$demo/maker.pem" --role manufacturer \
  -o "$demo/verifier/reference_values/1.0.corim" >>"$demo/release.log"
{
  printf '[[signer]]\nname = "Demo Maker"\nrole = "manufacturer"\nproducts = ["demo/*"]\nkey = """\n'
  cat "$demo/maker.pub.pem"
  printf '"""\n'
} >"$demo/verifier/trust/maker.toml"
"$bin/reference-values" check "$demo/verifier/reference_values/1.0.corim" --trust "$demo/verifier/trust" | sed 's/^/  /'

measured_boot
"$bin/verifier" serve --config "$demo/verifier/verifier.toml" >"$demo/verifier.log" 2>&1 &
children+=("$!")
await 20 "verifier" curl --silent --fail "http://$http/readyz"
say "policy tolerates, by name:"
sed -n 's/^cause = "\(.*\)"/  \1/p; s/^why = "\(.*\)"/    \1/p' scripts/demo/policy.toml
say

started
(in_root "$root" /bin/attester enrol) >"$demo/enrol.log" 2>&1 || fail "enrolment failed"
id=$(verifier devices --json | jq -r '.devices[0].id')
[[ ${#id} == 64 ]] || fail "the verifier does not know the device"
done_with "enrolled by credential activation: device ${id:0:16}…"

started
verifier approve "$id" --product "$PRODUCT" >/dev/null
done_with "approved into product $PRODUCT"

started
start_device
is_affirmed() { [[ $(verdict) == affirmed ]]; }
await 30 "startup verdict" is_affirmed
done_with "startup: $(device_json | jq -r '"\(.verdict), release \(.release), \(.last_check), until \(.expires)"')"

# Listens as an auditor would, for an old message to play back later.
mosquitto_sub -h 127.0.0.1 -p "$service_port" --cafile "$demo/verifier/broker/ca.pem" -V mqttv5 -i auditor \
  --cert "$demo/verifier/broker/verifier.pem" --key "$demo/verifier/broker/verifier.key" \
  -t "cs/1/$id/up/evidence" -C 1 -N -W 60 >"$demo/old-evidence" 2>"$demo/auditor.log" &
auditor=$!
children+=("$auditor")
await 10 "auditor" grep -q ' as auditor ' "$demo/verifier.log"
started
verifier check "$id" --wait 20 >/dev/null || fail "the second attestation is $(verdict)"
done_with "second attestation, on demand: $(verdict)"
is_overheard() { [[ -s $demo/old-evidence ]] || { verifier check "$id" --wait 10 && false; }; }
await 20 "evidence overheard" is_overheard

say "a program that no release lists: a copy of sleep with a byte more"
copy_program "$root" /bin/sleep /tmp/implant
printf x >>"$root/tmp/implant"
digest=$(sha256sum "$root/tmp/implant" | cut -d ' ' -f 1)
started
echo "/tmp/implant 600" >"$root/run/commands"
is_contraindicated() { [[ $(verdict) == contraindicated ]]; }
await 30 "alarm over the implant" is_contraindicated
done_with "contraindicated: $(device_json | jq -r '.causes[0] | "\(.code) \(.detail)"')"
device_json | jq -e --arg digest "$digest" '.causes[0].detail | contains("/tmp/implant") and contains($digest)' >/dev/null ||
  fail "the cause names another file"

started
[[ $(verifier devices --running "$digest" --json | jq -r '.devices[].id') == "$id" ]] || fail "nobody runs the implant"
done_with "devices --running ${digest:0:16}…: finds the device"

started
stop_device
kill "$SWTPM_PID" && wait "$SWTPM_PID" 2>/dev/null || true
rm "$root/tmp/implant"
start_swtpm "$demo/tpm"
children+=("$SWTPM_PID")
measured_boot
start_device
await 30 "verdict after the reboot" is_affirmed
done_with "restarted into a clean boot: $(verdict); history: $(verifier history "$id" --json | jq -r '[.history[].verdict] | join(" → ")')"

# As the device, with its own certificate, on its own topic: only the message is not what it should be.
stop_device
publish() {
  mosquitto_pub -h 127.0.0.1 -p "$devices_port" --cafile "$demo/verifier/broker/ca.pem" -V mqttv5 -q 1 -i "$id" \
    --cert "$root/var/lib/countersign/attester/connection.pem" --key "$root/var/lib/countersign/attester/connection.key" \
    -t "cs/1/$id/up/evidence" -f "$1"
}
metrics() { curl --silent --fail --header "Authorization: Bearer $(cat "$demo/verifier/api-token")" "http://$http/metrics"; }
refused() { metrics | awk -v code="code=\"$1\"" 'index($0, "countersign_evidence_refused_total") && index($0, code) { n = $2 } END { print n + 0 }'; }
is_refused() { (($(refused "$1") > $2)); }
state() { device_json | jq -S .; }
before=$(state)

started
count=$(refused freshness.replay)
publish "$demo/old-evidence"
await 10 "refusal of the replay" is_refused freshness.replay "$count"
done_with "old evidence played back: refused, freshness.replay counted"

make_swtpm "$demo/other-tpm"
SWTPM_PORT='' start_swtpm "$demo/other-tpm"
children+=("$SWTPM_PID")
COUNTERSIGN_ATTESTER__TCTI=$SWTPM_TCTI COUNTERSIGN_ATTESTER__STATE_DIR=$demo/other-state \
  "$bin/attester" --quiet evidence --nonce "$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')" --out "$demo/other-evidence"
started
count=$(refused evidence.other-device)
publish "$demo/other-evidence"
await 10 "refusal of another key's evidence" is_refused evidence.other-device "$count"
done_with "evidence signed by another TPM's key: refused, evidence.other-device counted"
[[ $(state) == "$before" ]] || fail "refused evidence changed the device's state"
say "           state untouched by either"

if $keep; then
  say "left running: http://$http/v1/devices, token in $demo/verifier/api-token; Ctrl-C ends it"
  start_device
  wait "$device_pid" || true
fi
