# shellcheck shell=bash disable=SC2034
# A kernel that is told nothing takes unsigned modules, and root can write into it: the warning says what is missing.
EXPECTED='warning boot.unprotected'

scenario() {
  make_image cmdline="$IMAGE_CONSOLE ima_policy=tcb ima_hash=sha256"
  start_image "$IMAGE"
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
  verdict_line | grep -F module.sig_enforce
}
