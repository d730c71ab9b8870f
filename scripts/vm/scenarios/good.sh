# shellcheck shell=bash disable=SC2034
# A good boot: secure boot, signed kernel with the attester in its initramfs, IMA.
EXPECTED=affirmed

scenario() { start_good; }
