# shellcheck shell=bash
# The host's side: verifier and brokers that the guest reaches at 10.0.2.2, a maker who signs releases, and the verdict.
#
#   source scripts/vm/host.sh; make_host DIR; sign_release 1.0 IMAGE; start_verifier; …; stop_verifier

# Where QEMU's user-mode network shows the guest this host's loopback interface.
readonly GATEWAY=10.0.2.2
readonly VM_PRODUCT=acme/gateway
# A verdict under emulation, while other things run on the machine.
readonly VERDICT_LIMIT=${VM_VERDICT_LIMIT:-120}

VERIFIER_PID='' MARK=''

verifier() { "$BIN/verifier" "$@" --config "$HOST/verifier/verifier.toml"; }

# make_host DIR: a verifier and a maker, before either has done anything.
make_host() {
  HOST=$1
  local port enrolment service
  mkdir -p "$HOST"
  port=$(free_port) enrolment=$(free_port) service=$(free_port) HTTP=127.0.0.1:$(free_port)
  "$BIN/verifier" init "$HOST/verifier" --name vm --http "$HTTP" --broker "$GATEWAY:$port" --enrolment-port "$enrolment" \
    --service-port "$service" >"$HOST/init.log"
  # For the guest alone, and not for the network that this host is in.
  sed -i -E 's/^(listener [0-9]+)$/\1 127.0.0.1/' "$HOST"/verifier/broker/{mosquitto,enrolment}.conf
  install -m 644 "$VM/policy.toml" "$HOST/verifier/policy.toml"
  "$BIN/reference-values" keygen --out "$HOST/maker.pem" >/dev/null
  {
    printf '[[signer]]\nname = "Acme"\nrole = "manufacturer"\nproducts = ["acme/*"]\nkey = """\n'
    cat "$HOST/maker.pub.pem"
    printf '"""\n'
  } >"$HOST/verifier/trust/maker.toml"
}

# trust_tpm: the CA of the machine's TPM.
trust_tpm() {
  local certificate
  for certificate in issuercert swtpm-localca-rootca-cert; do
    verifier roots add "$MACHINE/tpm/ca/$certificate.pem" --software >/dev/null
  done
}

# tolerate CODE WHY: one more cause that the policy tolerates by name.
tolerate() {
  printf '\n[[tolerate]]\ncause = "%s"\nwhy = "%s"\nuntil = 2030-01-01\n' "$1" "$2" >>"$HOST/verifier/policy.toml"
  [[ -z $VERIFIER_PID ]] || kill -HUP "$VERIFIER_PID"
}

# configure_attester [LINE…]: onto the machine's third disk, with these lines of configuration besides.
# shellcheck disable=SC2120 # by scenarios
configure_attester() {
  local dir=$HOST/device
  mkdir -p "$dir"
  cp "$HOST"/verifier/{verifier.pub.pem,broker/{ca,enrol}.pem,broker/enrol.key} "$dir"
  {
    printf '%s\n' 'sweep_seconds = 5' "$@"
    cat "$HOST/verifier/attester.toml.example"
  } >"$dir/attester.toml"
  tar cf "$MACHINE/configuration.img" -C "$dir" .
  truncate -s 1M "$MACHINE/configuration.img"
}

# reference_boot IMAGE [off]: its boot log, from a boot of it that nobody attests; kept beside the image.
reference_boot() {
  local MACHINE image=$1 secure=${2:-on}
  BOOT_LOG=$image/boot-$secure.log
  [[ ! -e $BOOT_LOG ]] || return 0
  say "a reference boot of image ${image##*/}"
  make_machine "$HOST/reference" "$image" "$secure"
  boot
  guest 'base64 /sys/kernel/security/tpm0/binary_bios_measurements' | base64 -d >"$BOOT_LOG.new"
  power_off
  mv "$BOOT_LOG.new" "$BOOT_LOG"
}

# sign_release NAME IMAGE BOOT_LOG [OPTION…]: what is in the image, as the maker measures it. Options go to `build`.
sign_release() {
  local name=$1 image=$2 log=$3 out=$HOST/$1.corim measured
  shift 3
  mapfile -t measured <"$image/measured"
  {
    "$BIN/reference-values" build --product "$VM_PRODUCT" --release "$name" -o "$out" \
      --rootfs "$image/root.d" --rootfs "$image/initramfs.d" "${measured[@]}" \
      --boot-log "$log" --uki "$image/uki.efi" --kernel-config "$KERNEL_DIR/boot/config-$KERNEL_RELEASE" "$@"
    "$BIN/reference-values" sign "$out" --key "$HOST/maker.pem" --role manufacturer \
      -o "$HOST/verifier/reference_values/$name.corim"
  } >>"$HOST/maker.log" 2>&1
  [[ -z $VERIFIER_PID ]] || kill -HUP "$VERIFIER_PID"
}

start_verifier() {
  RUST_LOG="${VM_LOG:-info}" "$BIN/verifier" serve --config "$HOST/verifier/verifier.toml" >>"$HOST/verifier.log" 2>&1 &
  VERIFIER_PID=$!
  await 20 'verifier' curl --silent --fail "http://$HTTP/readyz"
}

# set_epoch SECONDS: before the verifier starts; with the shortest validity that allows.
set_epoch() {
  sed -i "s/^# epoch_seconds = .*/epoch_seconds = $1/" "$HOST/verifier/verifier.toml"
  sed -i "1i validity_seconds = $((2 * $1 + 300))" "$HOST/verifier/policy.toml"
}

# hurry_verifier: starts it again with a clock that runs ten times as fast.
hurry_verifier() {
  stop_verifier
  LD_PRELOAD=$(faketime_library) FAKETIME='+0 x10' start_verifier
}

stop_verifier() {
  [[ $VERIFIER_PID ]] || return 0
  kill "$VERIFIER_PID" 2>/dev/null || true
  wait "$VERIFIER_PID" 2>/dev/null || true
  VERIFIER_PID=''
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "no $what in time" >&2; return 1; }
    sleep 0.2
  done
}

device_json() { verifier device "$DEVICE" --json; }

# mark: from now on only evidence counts that is younger than this instant.
mark() {
  # Times are whole seconds.
  sleep 1.1
  MARK=$(date -u +%Y-%m-%dT%H:%M:%SZ)
}

# verdict_line: the verdict, with the release where affirmed and with causes where not.
verdict_line() {
  device_json | jq -r '
    [.verdict] + (if .verdict == "affirmed" then ["release \(.release)"] else [] end)
    + [(.causes // [])[] | .code + (if .detail == "" then "" else " (\(.detail))" end)]
    + [(.information // [])[] | "information \(.code)"] | join(" ")'
}

# The verdict and the codes of its causes in alphabetical order, each once.
verdict_and_codes() { device_json | jq -r '[.verdict] + ([(.causes // [])[].code] | unique) | join(" ")'; }

is_recent() { device_json | jq -e --arg mark "$MARK" '.verdict == "unknown" or (.last_evidence // "") >= $mark'; }

# expect VERDICT [CODE…]: waits until it is this verdict with these causes and no other.
expect() {
  local wanted deadline=$((SECONDS + VERDICT_LIMIT)) codes=("${@:2}")
  wanted=$(printf '%s\n' "$1" "$(printf '%s\n' "${codes[@]}" | sort -u)" | paste -s -d ' ')
  wanted=${wanted% }
  until [[ $(verdict_and_codes) == "$wanted" ]] && is_recent >/dev/null; do
    ((SECONDS < deadline)) || { echo "expected: $wanted; it is: $(verdict_line)" >&2; return 1; }
    sleep 0.3
  done
  say "$(verdict_line)"
}

# check: asks the device for evidence now, and waits for the judgement.
check() { verifier check "$DEVICE" --wait "$VERDICT_LIMIT" >/dev/null 2>&1 || true; }

# information CODE…: waits until the verdict carries these facts.
expect_information() {
  carries() { device_json | jq -e --arg code "$1" '[(.information // [])[].code] | index($code)'; }
  await "$VERDICT_LIMIT" "information $1" carries "$1"
}

metric() { # NAME [LABEL]
  curl --silent --fail --header "Authorization: Bearer $(cat "$HOST/verifier/api-token")" "http://$HTTP/metrics" |
    awk -v name="$1" -v label="${2:-}" 'index($0, name) == 1 && index($0, label) { n += $NF } END { print n + 0 }'
}

# start_good: what most scenarios begin with: release 1.0 booted, enrolled, approved and affirmed.
start_good() {
  make_image
  start_image "$IMAGE"
  expect affirmed
}

# start_image IMAGE [off]: signs release 1.0 of it, boots it, without secure boot or with, enrols and approves it.
start_image() {
  reference_boot "$@"
  sign_release 1.0 "$1" "$BOOT_LOG"
  make_machine "$WORK/machine" "$@"
  trust_tpm
  configure_attester
  start_verifier
  boot_told
  admit
  say "$(attester_cpu)"
}

# admit: waits for a device, and approves it into the product. Sets DEVICE.
admit() {
  await "$VERDICT_LIMIT" 'evidence' first_evidence
  first_evidence
  say "enrolled, first evidence is there: device ${DEVICE:0:16}…"
  verifier approve "$DEVICE" --product "$VM_PRODUCT" >/dev/null
}

# boot_told: boot, and how long it took. Older evidence does not count any more.
boot_told() {
  mark
  boot
  say "booted in $BOOT_SECONDS s; its userland was there after $GUEST_UPTIME s"
}

# The first device that has sent evidence. Sets DEVICE.
first_evidence() {
  DEVICE=$(verifier devices --json | jq -er '[.devices[] | select(.last_evidence)][0].id')
}

attester_cpu() {
  # shellcheck disable=SC2016 # the guest's
  guest 'read -r _ _ _ _ _ _ _ _ _ _ _ _ _ user system _ </proc/$(pidof attester)/stat; echo "attester so far: $((user + system))0 ms of CPU"'
}
