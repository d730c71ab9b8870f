# shellcheck shell=bash disable=SC2034
# Five epochs without network: one message after the return, and what was attested has no gap.
EXPECTED=affirmed

scenario() {
  local before from
  set_epoch 10
  start_good
  from=$(device_json | jq -r .attested.from)
  set_link false
  # What was on its way is there or lost.
  sleep 2
  before=$(accepted)
  await_epochs 5
  [[ $(accepted) == "$before" ]] || { echo 'evidence came without a network' >&2; return 1; }
  say 'five epochs without network'
  mark
  set_link true
  more() { (($(accepted) > before)); }
  await "$VERDICT_LIMIT" 'evidence after the return' more
  await_epochs 1
  [[ $(accepted) == $((before + 1)) ]] || { echo "$(($(accepted) - before)) messages after the return" >&2; return 1; }
  say 'after the return, until the next epoch: one message'
  expect affirmed
  [[ $(device_json | jq -r .attested.from) == "$from" ]] || { echo 'what was attested begins anew' >&2; return 1; }
}

accepted() { metric countersign_evidence_accepted_total; }

# await_epochs N: until so many have begun. The number of an epoch is the second in which it did.
await_epochs() {
  local last now left=$1 deadline=$((SECONDS + $1 * 30))
  last=$(metric 'countersign_epoch ')
  while ((left > 0)); do
    ((SECONDS < deadline)) || { echo 'no epoch begins' >&2; return 1; }
    sleep 0.1
    now=$(metric 'countersign_epoch ')
    [[ $now == "$last" ]] || left=$((left - 1))
    last=$now
  done
}
