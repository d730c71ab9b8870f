# shellcheck shell=bash disable=SC2034
# The TPM is cleared from inside.
EXPECTED='unknown tpm.cleared'

scenario() {
  start_good
  guest 'tpm2_clear'
  check
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
