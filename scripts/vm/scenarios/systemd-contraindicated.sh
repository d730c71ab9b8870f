# shellcheck shell=bash disable=SC2034
# Debian with packaging/systemd: a program that no release lists keeps the payload away, until the maker has signed it.
# shellcheck source=scripts/vm/scenarios/systemd.sh
source "$VM/scenarios/systemd.sh"
EXPECTED=affirmed

scenario() {
  start_debian
  sign_debian 1.0
  # The same boot, with another product.
  make_image root=debian release=2
  load_image "$IMAGE"
  boot_told
  admit
  expect contraindicated runtime.unknown-executable
  refused
  # What refuses has not ended, and no grace ends it.
  sleep 20
  refused
  sign_debian 2.0
  # What a device sent is judged anew with what it sends next; an operator does not wait for that.
  check
  expect affirmed
  let_on
}
