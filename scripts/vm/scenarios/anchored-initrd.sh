# shellcheck shell=bash disable=SC2034
# The attester runs from the measured initramfs, which vouches for it: its runtime log counts without IMA.
# shellcheck source=scripts/vm/scenarios/verity.sh
source "$VM/scenarios/verity.sh"
EXPECTED=affirmed

scenario() {
  start_without_ima
  expect affirmed
}
