# shellcheck shell=bash disable=SC2034
# Suspend to memory and resume: the boot goes on, and so do its logs.
EXPECTED=affirmed

scenario() {
  start_good
  printf 'echo mem >/sys/power/state\n' >&"$SHELL_IN"
  await_event SUSPEND 60 || { echo 'the machine does not suspend' >&2; return 1; }
  say suspended
  mark
  qmp system_wakeup
  await_answer 90 || { echo 'the machine does not resume' >&2; return 1; }
  say resumed
  check
  expect affirmed
  expect_information boot.resumed
}
