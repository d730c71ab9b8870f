# shellcheck shell=bash disable=SC2034
# An unsigned kernel with secure boot on: firmware refuses it, and the verdict expires. The verifier's clock runs ten times
# as fast meanwhile.
EXPECTED='unknown overdue'

scenario() {
  set_epoch 2
  start_good
  power_off
  make_image signed=no
  load_esp "$IMAGE"
  boot_refused 'Access Denied'
  say "firmware: $(grep -ao 'BdsDxe: failed.*' "$MACHINE/console.log" | head -n 1)"
  power_cut
  hurry_verifier
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
