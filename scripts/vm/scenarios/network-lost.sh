# shellcheck shell=bash disable=SC2034
# Five epochs without network: one message after the return, and what was attested has no gap.
EXPECTED=affirmed

scenario() {
  local before from
  set_epoch 10
  start_good
  from=$(device_json | jq -r .attested.from)
  set_link false
  # Evidence that is on its way arrives or does not.
  sleep 2
  before=$(accepted) epoch=$(metric 'countersign_epoch ')
  five_epochs_on() { (($(metric 'countersign_epoch ') >= epoch + 5)); }
  await 90 'five epochs' five_epochs_on
  [[ $(accepted) == "$before" ]] || { echo 'evidence came without a network' >&2; return 1; }
  say "five epochs without network"
  mark
  set_link true
  more() { (($(accepted) > before)); }
  await "$VERDICT_LIMIT" 'evidence after the return' more
  say "after the return: $(($(accepted) - before)) message"
  expect affirmed
  [[ $(device_json | jq -r .attested.from) == "$from" ]] || { echo 'what was attested begins anew' >&2; return 1; }
}

accepted() { metric countersign_evidence_accepted_total; }
