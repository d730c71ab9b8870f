# shellcheck shell=bash disable=SC2034
# Back to release 1.0 after it was retired.
EXPECTED='warning release.stale'

# shellcheck source=scripts/vm/scenarios/update.sh
source "$VM/scenarios/update.sh"
EXPECTED='warning release.stale'

scenario() {
  update
  power_off
  make_image
  reference_boot "$IMAGE"
  sign_release 1.0 "$IMAGE" "$BOOT_LOG" --retire-at "$(date -u -d yesterday +%Y-%m-%d)"
  load_image "$IMAGE"
  boot_told
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
