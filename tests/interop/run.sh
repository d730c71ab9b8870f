#!/usr/bin/env bash
# Third parties judge what our programs make, and what they say of real logs: one line a check, an error at the first
# that fails. Needs the binaries: cargo build --workspace --all-targets.
#
#   tests/interop/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib/machine.sh
source scripts/lib/machine.sh
# shellcheck source=scripts/lib/swtpm.sh
source scripts/lib/swtpm.sh

need_test_services
need_packages ima-evm-utils python3-venv

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bin=$target/debug
mkdir -p "$target"
work=$(mktemp -d "$target/interop.XXXXXX")
SWTPM_PID=
trap '[[ -z $SWTPM_PID ]] || kill "$SWTPM_PID" 2>/dev/null || true; rm -rf "$work"' EXIT

agreed() { printf '  %-16s %s\n' "$1" "$2"; }
fail() { printf 'interop: %s\n' "$*" >&2; exit 1; }

python=$target/interop-venv/bin/python
# Made anew where it is not whole or was made for other versions.
if ! cmp -s tests/interop/requirements.txt "$target/interop-venv/made-from"; then
  python3 -m venv --clear "$target/interop-venv"
  "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt
  cp tests/interop/requirements.txt "$target/interop-venv/made-from"
fi

# check_evidence WHAT MESSAGE AK NONCE…: envelope by pycose, the quote in it by tpm2_checkquote.
check_evidence() {
  local what=$1 message=$2 ak=$3 other
  shift 3
  "$python" tests/interop/envelope.py evidence "$message" "$ak" "$work" "$@"
  agreed pycose "verifies the envelope of $what"
  check_quote "$ak" "$(<"$work/extra-data")" "${pcrs[@]}" || fail "tpm2_checkquote refuses the quote of $what"
  other=$(sha256sum "$message" | cut -d ' ' -f 1)
  if check_quote "$ak" "$other" 2>/dev/null; then fail "tpm2_checkquote does not look at extraData"; fi
  agreed tpm2_checkquote "accepts the quote of $what"
}

# check_quote AK EXTRA-DATA [ARGUMENT…]
check_quote() {
  tpm2_checkquote --public "$1" --message "$work/quote.msg" --signature "$work/quote.sig" --hash-algorithm sha256 \
    --qualification "$2" "${@:3}" >/dev/null
}

pcrs=()
"$bin/examples/interop_fixture" "$work/fixture"
read -ra nonces <"$work/fixture/nonces"
check_evidence "a software key, three nonces" "$work/fixture/evidence.cose" "$work/fixture/ak.tpm2b" "${nonces[@]}"
"$python" tests/interop/envelope.py result "$work/fixture/result.cose" "$work/fixture/verifier.point"
agreed pycose "verifies an attestation result"

# check_shape RULE FILE: a message, against the CDDL that the documentation gives.
check_shape() {
  "$target/interop-venv/bin/zcbor" validate --cddl docs/evidence.cddl --entry-type "$1" --input - --input-as cbor \
    <"$2" >"$work/zcbor.log" 2>&1 || { cat "$work/zcbor.log" >&2; fail "zcbor: $2 is no $1 by docs/evidence.cddl"; }
  agreed zcbor "finds $(basename "$2") to be as documented"
}

check_shape evidence "$work/fixture/evidence.cose"
check_shape result "$work/fixture/result.cose"
for message in "$work"/fixture/{hello,request,refusal,epoch.*,keys,ak-certificate,enrolment-*}; do
  rule=$(basename "$message")
  check_shape "${rule%%.*}" "$message"
done
if (check_shape hello "$work/fixture/request") >/dev/null 2>&1; then fail "zcbor takes a request for a hello"; fi

make_swtpm "$work/tpm"
start_swtpm "$work/tpm"
nonce=$(openssl rand -hex 32)
export COUNTERSIGN_ATTESTER__TCTI=$SWTPM_TCTI COUNTERSIGN_ATTESTER__STATE_DIR=$work/state
"$bin/attester" evidence --nonce "$nonce" --out "$work/evidence.cose" --ak-out "$work/ak.tpm2b"
TPM2TOOLS_TCTI=$SWTPM_TCTI tpm2_pcrread --quiet --pcrs_format serialized --output "$work/pcrs" \
  "sha256:$(seq -s , 0 15)"
pcrs=(--pcr "$work/pcrs")
check_shape evidence "$work/evidence.cose"
check_evidence "a TPM, with the PCRs that it has" "$work/evidence.cose" "$work/ak.tpm2b" "$nonce"

# our_pcrs FILE: `INDEX HEX` of the SHA-256 bank as `verifier inspect` computes it.
our_pcrs() { "$bin/verifier" inspect "$1" --json | jq -r '.pcrs.sha256 | to_entries[] | "\(.key) \(.value)"' | sort -n; }

for boot in tests/vectors/boot/qemu-*; do
  name=$(basename "$boot")
  our_pcrs "$boot/eventlog.bin" >"$work/ours"
  # A boot that tpm2_eventlog reads has events; an empty answer of both would agree.
  tpm2_eventlog "$boot/eventlog.bin" 2>/dev/null | sed -n '/^pcrs:/,$ s/^ *\([0-9]*\) *: 0x/\1 /p' | sort -n >"$work/theirs"
  [[ -s $work/ours ]] || fail "no PCRs in $boot/eventlog.bin"
  diff "$work/ours" "$work/theirs" >&2 || fail "tpm2_eventlog computes other PCRs of $boot/eventlog.bin (right) than we (left)"
  agreed tpm2_eventlog "computes the same PCRs of $name"

  ours=$(our_pcrs "$boot/ima.bin" | sed -n 's/^10 //p')
  [[ -n $ours ]] || fail "no PCR 10 in $boot/ima.bin"
  # evmctl wants all of them, and compares those that the list extends.
  for pcr in {0..23}; do
    printf 'PCR-%02d: %s\n' "$pcr" "$( ((pcr == 10)) && echo "$ours" || printf '%064d' 0)"
  done >"$work/ours"
  evmctl ima_measurement --ignore-violations --pcrs "sha256,$work/ours" "$boot/ima.bin" >/dev/null 2>&1 ||
    fail "evmctl computes another PCR 10 of $boot/ima.bin"
  agreed evmctl "computes the same PCR 10 of $name"
done
