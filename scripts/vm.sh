#!/usr/bin/env bash
# A virtual machine that really boots, judged by a verifier on this host.
#
#   scripts/vm.sh [SCENARIO] [--verdict] [--keep]    default: good
#   scripts/vm.sh --list                             scenarios, and what each must lead to
#   scripts/vm.sh --all [--minutes N]                all of them, one line each; none is begun after N minutes
#
# --verdict: the last line of standard output begins with the verdict. --keep: leaves the work folder, and says where.
# Exit code 0 where the verdict and its causes are the expected ones. Needs Debian 12 and root; installs what is missing.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=scripts/lib/machine.sh
source scripts/lib/machine.sh
# shellcheck source=scripts/lib/swtpm.sh
source scripts/lib/swtpm.sh
VM=$PWD/scripts/vm
# shellcheck source=scripts/vm/image.sh
source "$VM/image.sh"
# shellcheck source=scripts/vm/roots.sh
source "$VM/roots.sh"
# shellcheck source=scripts/vm/machine.sh
source "$VM/machine.sh"
# shellcheck source=scripts/vm/host.sh
source "$VM/host.sh"

usage() { sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//p }' "$0"; }
say() { printf '%7.1f s  %s\n' "$((($(date +%s%N) - BEGAN) / 1000000))e-3" "$*"; }

scenarios() {
  local file
  for file in "$VM"/scenarios/*.sh; do basename "$file" .sh; done
}

# What a scenario says of itself: its first line of comment, and EXPECTED.
list() {
  local name
  for name in $(scenarios); do
    (
      # shellcheck source=scripts/vm/scenarios/good.sh
      source "$VM/scenarios/$name.sh"
      printf '%-24s %-46s %s\n' "$name" "$EXPECTED" "$(sed -n '2s/^# //p' "$VM/scenarios/$name.sh")"
    )
  done
}

prepare() {
  need_build_tools >&2
  need_test_services >&2
  need_packages qemu-system-x86 ovmf systemd-boot-efi sbsigntool binutils mtools dosfstools e2fsprogs cpio \
    kexec-tools libtss2-tcti-device0 >&2
  CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
  export CARGO_TARGET_DIR
  # shellcheck disable=SC2034 # for what is sourced
  BIN=$CARGO_TARGET_DIR/release
  VM_CACHE=$CARGO_TARGET_DIR/vm
  mkdir -p "$VM_CACHE/images"
  [[ ${VM_BUILT:-} ]] || cargo build --release --quiet --locked --bins -p countersign-attester -p countersign-verifier -p countersign-reference-values-tool >&2
  need_kernel
}

finish() {
  local status=$?
  trap - EXIT
  if ((status)) && [[ -n ${WORK:-} ]]; then
    echo "vm: $NAME failed; the last lines of its logs follow" >&2
    tail -n 15 "$WORK"/host/*.log "${MACHINE:-$WORK}/console.log" >&2 2>/dev/null || true
    [[ -z $QEMU_PID ]] || GUEST_LIMIT=10 guest 'tail -n 15 /var/log/attester.log 2>/dev/null || journalctl --no-pager -n 60' >&2 || true
  fi
  power_cut
  stop_verifier
  if $keep; then echo "kept: $WORK" >&2; else rm -rf "$WORK"; fi
  exit "$status"
}

# Makes what a scenario starts from: an image with its boot log, a verifier with release 1.0 of it, a machine.
run() {
  NAME=$1
  BEGAN=$(date +%s%N)
  WORK=$(mktemp -d -t countersign-vm.XXXXXX)
  trap finish EXIT
  trap 'exit 1' INT TERM
  # shellcheck source=scripts/vm/scenarios/good.sh
  source "$VM/scenarios/$NAME.sh"
  make_host "$WORK/host"
  scenario
  [[ $(verdict_and_codes) == "$EXPECTED" ]] || { echo "expected: $EXPECTED; it is: $(verdict_line)" >&2; exit 1; }
  LAST_LINE=$(verdict_line)
  if $verdict; then printf '%s\n' "$LAST_LINE"; fi
}

# attempt NAME: one scenario, in a process of its own. Its output goes to $log.
attempt() { VM_BUILT=1 "$0" "$1" --verdict >"$log" 2>"$log.err"; }

# The machine is emulated, and what else the host does can make it late: what fails is tried once more, and the line says so.
run_all() {
  local name began passed=0 failed=0 skipped=0 log said end=$((SECONDS + minutes * 60))
  log=$(mktemp -t countersign-vm.XXXXXX)
  for name in $(scenarios); do
    if ((minutes && SECONDS >= end)); then
      skipped=$((skipped + 1))
      printf '%-24s skipped: no time left\n' "$name"
      continue
    fi
    began=$SECONDS
    if attempt "$name"; then
      passed=$((passed + 1)) said=passed
    else
      cat "$log.err" >&2
      if attempt "$name"; then
        passed=$((passed + 1)) said='passed at the second attempt'
      else
        failed=$((failed + 1)) said=FAILED
        cat "$log.err" >&2
      fi
    fi
    printf '%-24s %5d s  %s  %s\n' "$name" $((SECONDS - began)) "$said" "$(tail -n 1 "$log" | cut -c 1-160)"
  done
  rm -f "$log" "$log.err"
  echo "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0))
}

name=good verdict=false keep=false all=false minutes=0
while (($#)); do
  case $1 in
    --verdict) verdict=true ;;
    --keep) keep=true ;;
    --all) all=true ;;
    --minutes) minutes=${2:-} && shift ;;
    --list) list; exit ;;
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
    *) name=$1 ;;
  esac
  shift
done
[[ $minutes =~ ^[0-9]+$ ]] || { echo "scripts/vm.sh: --minutes takes a whole number" >&2; exit 2; }
[[ -e $VM/scenarios/$name.sh ]] || { echo "scripts/vm.sh: no scenario '$name'; scripts/vm.sh --list" >&2; exit 2; }
((EUID == 0)) || { echo "the virtual machine's parts are installed as root: run it as root" >&2; exit 1; }
exec </dev/null
prepare
if $all; then run_all; else run "$name"; fi
