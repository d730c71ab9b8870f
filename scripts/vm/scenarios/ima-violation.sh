# shellcheck shell=bash disable=SC2034
# A library is open for writing while a program maps it: tolerated by a policy that says so, a warning otherwise.
EXPECTED='warning ima.violation'

scenario() {
  start_good
  tolerate ima.violation 'updates write in place'
  mark
  guest 'cp /lib/libtss2-mu.so.0 /opt/library.so; exec 9>>/opt/library.so; LD_PRELOAD=/opt/library.so kexec --version; exec 9>&-'
  check
  tolerated() { device_json | jq -e '.tolerated | index("ima.violation")'; }
  await "$VERDICT_LIMIT" 'tolerated violation' tolerated
  expect affirmed
  cp "$VM/policy.toml" "$HOST/verifier/policy.toml"
  kill -HUP "$VERIFIER_PID"
  check
  # shellcheck disable=SC2086 # words
  expect $EXPECTED
}
