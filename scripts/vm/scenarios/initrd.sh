# shellcheck shell=bash disable=SC2034
# One file more in the initramfs of a signed image.
EXPECTED='contraindicated boot.missing-event boot.unlisted-event'

scenario() {
  start_good
  power_off
  echo 'not in the release' >"$WORK/more"
  make_image initramfs="$WORK/more"
  load_esp "$IMAGE"
  boot_told
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
