# shellcheck shell=bash disable=SC2034
# The attester lies in a root file system that anybody can write, and IMA is off: nothing vouches for it.
# shellcheck source=scripts/vm/scenarios/verity.sh
source "$VM/scenarios/verity.sh"
EXPECTED='warning runtime.unanchored'

scenario() {
  start_without_ima attester=root
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
