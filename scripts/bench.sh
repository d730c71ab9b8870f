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
    --json)
      [[ ${2-} == /* ]] || set -- "$1" "$invoked_from/${2:?--json FILE}" "${@:3}"
      arguments+=(--json "$2")
      shift 2
      ;;
    *) arguments+=("$1"); shift ;;
  esac
done
cargo build --release --quiet --workspace --bins
programs=$(readlink -f "${CARGO_TARGET_DIR:-target}/release")
figures=$(cargo bench --quiet --no-run --message-format json -p countersign-tests --bench figures |
  jq -r 'select(.target.kind == ["bench"]) | .executable')
ATTESTER=$programs/attester REFERENCE_VALUES=$programs/reference-values exec "$figures" --bench "${arguments[@]}"
