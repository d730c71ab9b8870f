# shellcheck shell=bash disable=SC2034
# The same again after a reboot: a new boot log, a new runtime log, no enrolment.
EXPECTED=affirmed

scenario() {
  start_good
  mark
  reboot
  expect affirmed
  say "$(attester_cpu)"
}
