# shellcheck shell=bash disable=SC2034
# Debian with packaging/systemd: a payload starts only once the verifier has affirmed the boot.
EXPECTED=affirmed

scenario() {
  # shellcheck disable=SC2119
  start_debian
  sign_debian 1.0
  boot_told
  await "$VERDICT_LIMIT" 'evidence' first_evidence
  refused
  admit
  expect affirmed
  let_on
}

# start_debian [CONFIGURATION…]: a machine with Debian, and a verifier that knows no release yet.
# shellcheck disable=SC2120 # scenarios that build on this one give some
start_debian() {
  make_image root=debian
  reference_boot "$IMAGE"
  make_machine "$WORK/machine" "$IMAGE"
  trust_tpm
  configure_attester "$@"
  start_verifier
}

sign_debian() { sign_release "$1" "$IMAGE" "$BOOT_LOG"; }

state() { guest "systemctl is-active $1" || true; }
payload() { grep -aq '^payload: started' "$MACHINE/console.log"; }
wait_goes_on() { [[ $(state countersign-attested.service) == activating ]]; }

# refused: the attester runs, and nothing that asks for an attested device does.
refused() {
  await "$VERDICT_LIMIT" 'attester that waits' wait_goes_on
  [[ $(state countersign-attested.target) == inactive ]] || { echo 'the target was reached without a verdict' >&2; return 1; }
  ! payload || { echo 'the payload started without a verdict' >&2; return 1; }
  say 'the payload waits'
}

# let_on: by itself, within the boot.
let_on() {
  await "$VERDICT_LIMIT" 'payload' payload
  [[ $(state countersign-attested.target) == active ]] || { echo 'the payload came before the target' >&2; return 1; }
  say "the payload runs: $(guest 'cut -d " " -f 1 /proc/uptime') s after the kernel began"
}
