# shellcheck shell=bash disable=SC2034
# A boot that sends no evidence lies between two that do.
EXPECTED='warning boot.unseen'

scenario() {
  start_good
  power_off
  set_link false
  boot_told
  power_off
  set_link true
  boot_told
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
