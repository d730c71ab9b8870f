# shellcheck shell=bash disable=SC2034
# Debian with packaging/systemd and `startup_grace_seconds`: without a verifier the payload starts late, with a warning.
# shellcheck source=scripts/vm/scenarios/systemd.sh
source "$VM/scenarios/systemd.sh"
EXPECTED=affirmed

scenario() {
  start_debian 'startup_grace_seconds = 20'
  sign_debian 1.0
  stop_verifier
  boot_told
  refused
  let_on
  guest 'journalctl --no-pager --unit countersign-attested.service' | grep 'warning: .*startup_grace_seconds'
  # Whoever comes later judges as ever.
  start_verifier
  admit
  expect affirmed
}
