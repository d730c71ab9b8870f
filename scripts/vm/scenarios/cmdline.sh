# shellcheck shell=bash disable=SC2034
# A kernel command line without lockdown and module signatures, in a signed image.
EXPECTED='contraindicated boot.command-line boot.missing-event boot.unlisted-event'

scenario() {
  start_good
  power_off
  make_image cmdline="${IMAGE_COMMAND_LINE/ lockdown*/}"
  load_esp "$IMAGE"
  boot_told
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
