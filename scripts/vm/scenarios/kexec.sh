# shellcheck shell=bash disable=SC2034
# A guest without secure boot and lockdown starts another kernel by kexec_load: PCRs 0 to 9 stay as they are.
EXPECTED='warning boot.kexec boot.unprotected runtime.unanchored'

scenario() {
  make_image cmdline="${IMAGE_COMMAND_LINE/ lockdown*/}"
  start_image "$IMAGE" off
  expect warning boot.unprotected
  power_off
  tidy_root
  debugfs -w -R "write $KERNEL_DIR/boot/vmlinuz-$KERNEL_RELEASE /kernel" "$MACHINE/root.img" >/dev/null 2>&1
  debugfs -w -R "write $IMAGE/initramfs /initramfs" "$MACHINE/root.img" >/dev/null 2>&1
  boot_told
  expect warning boot.unprotected
  guest 'kexec -c -l /kernel --initrd=/initramfs --command-line="console=ttyS0 panic=-1 quiet ima_policy=tcb"'
  # What IMA lists after the last evidence is lost with the kernel that listed it: then no log leads to PCR 10 any more, and the
  # verdict is unknown.
  check
  expect warning boot.unprotected
  mark
  printf 'sync; kexec -e\n' >&"$SHELL_IN"
  await_shell 90 || { echo 'no other kernel came' >&2; return 1; }
  say "another kernel: $(guest 'cat /proc/cmdline')"
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
