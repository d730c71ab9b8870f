#!/usr/bin/env bash
# Measures figures beside their limits, in release mode: scripts/bench.sh [NAME…] [--json FILE] [--seconds N]
# Without a NAME: all. The JSON's shape: {"NAME": {"value", "unit", "limit", "limit_is", "ratio", "better", "context"}}.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/lib/machine.sh
source "$here/lib/machine.sh"
invoked_from=$PWD
cd "$here/.."
need_build_tools
need_test_services
arguments=()
while (($#)); do
  case $1 in
    --json) arguments+=(--json "$(realpath -m --relative-base=/ "$invoked_from/$2" 2>/dev/null || echo "$2")"); shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
cargo build --release --quiet --workspace --bins
ATTESTER=${CARGO_TARGET_DIR:-target}/release/attester
ATTESTER=$(readlink -f "$ATTESTER") exec cargo bench --quiet -p countersign-tests --bench figures -- "${arguments[@]}"
