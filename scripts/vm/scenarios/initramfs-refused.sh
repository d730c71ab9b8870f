# shellcheck shell=bash disable=SC2034
# packaging/initramfs: an initramfs with one file more is told off, and the machine halts before its root file system.
# shellcheck source=scripts/vm/scenarios/initramfs.sh
source "$VM/scenarios/initramfs.sh"
EXPECTED='contraindicated boot.missing-event boot.unlisted-event'

scenario() {
  start_gated
  admit
  await_shell "$GATE_SECONDS"
  power_off
  echo 'not in the release' >"$WORK/more"
  make_gated initramfs="$WORK/more"
  load_esp "$IMAGE"
  switch_on
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
  ! await_shell $((GATE_SECONDS + 60)) || { echo 'the root file system was reached' >&2; return 1; }
  says 'the verifier does not trust this device: halting'
  await_end 20
}
