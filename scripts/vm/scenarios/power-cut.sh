# shellcheck shell=bash disable=SC2034
# Power is cut, so that the TPM cannot save its clock: affirmed, with the fact beside.
EXPECTED=affirmed

scenario() {
  start_good
  power_cut
  # A TPM's clock is safe again once it was saved. swtpm does so every 4 s, and nothing boots in that time; TPMs may take
  # 70 minutes. This one's clock goes slowly meanwhile.
  TPM_PACE='+0 x0.03'
  boot_told
  expect_information tpm.clock-not-safe
  expect affirmed
}
