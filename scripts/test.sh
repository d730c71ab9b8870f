#!/usr/bin/env bash
# Every check and test, on a Debian 12 as root with nothing prepared. Stops at the first step that fails and names it;
# ends with the count of the test runner.
#
#   scripts/test.sh [STEP…]      no STEP: all, in the order of `scripts/test.sh --list`
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/machine.sh
source scripts/lib/machine.sh

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
readonly DENY_VERSION=0.20.2
readonly STEPS=(packages format scripts lint docs build tests doc-tests debian-root dependencies interop fuzz)

packages() {
  need_build_tools
  need_rust_checks
  need_test_services
  need_packages ima-evm-utils python3-venv shellcheck systemd squashfs-tools e2fsprogs xz-utils zstd softhsm2 opensc openssl
}

format() {
  cargo fmt --all --check
  cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
}

scripts() {
  local files
  mapfile -t files < <(find . \( -name target -o -name .git \) -prune -o -type f -exec \
    grep -lE -m 1 '^#!.*\b(ba|da)?sh$|^# shellcheck shell=' {} +)
  shellcheck --severity=warning --external-sources "${files[@]}"
}

lint() { cargo clippy --locked --workspace --all-targets -- -D warnings; }

docs() { RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps --lib; }

build() { cargo build --locked --workspace --all-targets; }

# With every binary built before: tests start those of other packages too.
tests() {
  local log=$CARGO_TARGET_DIR/tests.log
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --no-fail-fast 2>&1 | tee "$log"
  else
    cargo test --locked --workspace --lib --bins --tests --no-fail-fast 2>&1 | tee "$log"
  fi
}

doc-tests() { cargo test --locked --workspace --doc --quiet; }

debian-root() { scripts/debian-root.sh; }

dependencies() {
  local deny
  deny=$(command -v cargo-deny || echo "$CARGO_TARGET_DIR/tools/bin/cargo-deny")
  # Used once a run: a quick build serves better than a quick program.
  [[ -x $deny ]] ||
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
      cargo install --quiet --locked --version "$DENY_VERSION" --root "$CARGO_TARGET_DIR/tools" \
      --target-dir "$CARGO_TARGET_DIR/tools/build" cargo-deny
  "$deny" --locked check bans licenses sources
  if timeout 120 "$deny" --locked fetch db >/dev/null 2>&1; then
    "$deny" --locked check advisories
  else
    echo 'advisories: skipped, the database cannot be fetched here; deny.toml has the review by hand'
  fi
}

interop() { tests/interop/run.sh; }

fuzz() { scripts/fuzz.sh 5; }

# The runner's own last word, and the same in plain words.
count() {
  local log=$CARGO_TARGET_DIR/tests.log
  [[ -e $log ]] || return 0
  grep -E '^ *Summary \[' "$log" || true
  awk '
    function number(word,    text) { text = $0; return match(text, "[0-9]+ " word) ? substr(text, RSTART, RLENGTH) + 0 : 0 }
    /^ *Summary \[|^test result: / {
      passed += number("passed"); failed += number("failed") + number("timed out"); skipped += number("skipped") + number("ignored")
    }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
}

report() {
  local status=$?
  echo
  printf '%s' "$times"
  ((status == 0)) || echo "scripts/test.sh: step '$step' failed after $((SECONDS - started)) s" >&2
  count
}

case ${1-} in
  --list) printf '%s\n' "${STEPS[@]}"; exit ;;
  -*) sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
(($#)) || set -- "${STEPS[@]}"
for step; do
  [[ " ${STEPS[*]} " == *" $step "* ]] || { echo "scripts/test.sh: no step '$step'; there are: ${STEPS[*]}" >&2; exit 2; }
done

exec </dev/null
rm -f "$CARGO_TARGET_DIR/tests.log"
times=
trap report EXIT
for step; do
  started=$SECONDS
  printf '\n== %s\n' "$step"
  "$step"
  times+=$(printf '%-14s %5d s' "$step" $((SECONDS - started)))$'\n'
done
