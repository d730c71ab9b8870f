# shellcheck shell=bash disable=SC2034
# The root file system is on dm-verity, its root hash on the measured command line: that vouches for the attester, without IMA.
EXPECTED=affirmed

scenario() {
  start_without_ima attester=root verity=yes
  expect affirmed
  guest 'grep " / " /proc/mounts' | grep '^/dev/mapper/root '
}

# start_without_ima [OPTION…]: a machine with such an image, whose programs only the runtime log names.
start_without_ima() {
  make_image "$@" ima=no \
    cmdline="$IMAGE_CONSOLE lockdown=integrity module.sig_enforce=1 sysctl.kernel.kexec_load_disabled=1"
  start_image "$IMAGE"
}
