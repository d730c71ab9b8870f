# shellcheck shell=bash disable=SC2034
# The attester is killed: the verdict expires. The verifier's clock runs ten times as fast meanwhile.
EXPECTED='unknown overdue'

scenario() {
  set_epoch 2
  start_good
  # shellcheck disable=SC2016 # the guest's
  guest 'kill -9 $(pidof attester)'
  hurry_verifier
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
