# shellcheck shell=bash disable=SC2034
# A program runs that no release lists: the product's, with a byte more.
EXPECTED='contraindicated runtime.unknown-executable'

scenario() {
  start_good
  guest 'cp /opt/product /opt/sleep; echo >>/opt/sleep; /opt/sleep 600 &'
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
