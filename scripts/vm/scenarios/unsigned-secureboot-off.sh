# shellcheck shell=bash disable=SC2034
# An unsigned kernel after secure boot was switched off: it boots, and is caught.
EXPECTED='contraindicated boot.missing-event boot.secure-boot-off boot.unlisted-event'

scenario() {
  start_good
  power_off
  make_image signed=no
  load_esp "$IMAGE"
  set_secure_boot off
  boot_told
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
