# shellcheck shell=bash disable=SC2034,SC2119,SC2120
# packaging/initramfs: what lies in the root file system runs once the verifier has affirmed the boot.
EXPECTED=affirmed

scenario() {
  start_gated
  admit
  await_shell "$GATE_SECONDS" || { echo 'the gate did not open' >&2; return 1; }
  says 'affirmed: the boot goes on'
  mark
  expect affirmed
}

# start_gated: a machine that attests in its initramfs, switched on; release 1.0 of it is signed.
start_gated() {
  make_gated
  reference_boot "$IMAGE"
  sign_release 1.0 "$IMAGE" "$BOOT_LOG"
  make_machine "$WORK/machine" "$IMAGE"
  trust_tpm
  configure_attester
  start_verifier
  switch_on
}

# The IMA policy of an initramfs lies in memory, where `ima_policy=tcb` does not look: it is not listed, so kexec is closed else.
make_gated() { make_image attester=gate cmdline="$IMAGE_COMMAND_LINE sysctl.kernel.kexec_load_disabled=1" "$@"; }

switch_on() {
  mark
  start_tpm
  start_qemu
}

says() { grep -a "countersign: $1" "$MACHINE/console.log" || { echo "its console does not say: $1" >&2; return 1; }; }
