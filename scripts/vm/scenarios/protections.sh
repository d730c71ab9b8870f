# shellcheck shell=bash disable=SC2034
# Without secure boot and told nothing, a kernel takes unsigned modules and lets root write into it: the warning says so.
EXPECTED='warning boot.unprotected'

scenario() {
  make_image cmdline="$IMAGE_CONSOLE ima_policy=tcb ima_hash=sha256"
  start_image "$IMAGE" off
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
  local missing
  for missing in 'module signatures' lockdown kexec; do
    verdict_line | grep -qF "$missing" || { echo "the warning does not say: $missing" >&2; return 1; }
  done
}
