# shellcheck shell=bash disable=SC2034
# From release 1.0 to 2.0 while both may be used.
EXPECTED=affirmed

scenario() { update; }

# update: signs 2.0, and boots it in the place of 1.0.
update() {
  start_good
  power_off
  make_image release=2
  reference_boot "$IMAGE"
  sign_release 2.0 "$IMAGE" "$BOOT_LOG"
  load_image "$IMAGE"
  boot_told
  expect affirmed
  [[ $(device_json | jq -r .release) == 2.0 ]] || { echo "the release is not 2.0" >&2; return 1; }
}
