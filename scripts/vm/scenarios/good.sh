# shellcheck shell=bash disable=SC2034
# A good boot: secure boot, signed kernel with the attester in its initramfs, IMA.
EXPECTED=affirmed

scenario() {
  start_good
  attester_cpu() { guest 'read -r _ _ _ _ _ _ _ _ _ _ _ _ _ user system _ </proc/$(pidof attester)/stat; echo "$((user + system))0 ms"'; }
  say "the attester's CPU time, from its start to the first verdict: $(attester_cpu)"
}
