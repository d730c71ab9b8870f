#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each (default 5), from its committed corpus; stops with an error at a crash.
#
#   scripts/fuzz.sh [SECONDS] [TARGET…]
#
# Works with the stable compiler: libFuzzer gets its coverage from LLVM's own pass, no sanitizer is used. What is found
# on the way is kept in $CARGO_TARGET_DIR/fuzz/corpus, an input that crashes in $CARGO_TARGET_DIR/fuzz/artifacts.
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${1:-5}
shift || true
case $seconds in '' | *[!0-9]*) echo "fuzz.sh: SECONDS must be a whole number, not '$seconds'" >&2; exit 2 ;; esac

host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
# With --target, the flags reach neither build scripts nor procedural macros, which have no libFuzzer to link with.
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table'
flags+=' -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
CARGO_TARGET_DIR=$target_dir RUSTFLAGS=$flags \
    cargo build --quiet --release --target "$host" --manifest-path tests/fuzz/Cargo.toml

mapfile -t targets < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else ls tests/fuzz/corpus; fi)
failed=0
printf '%-12s %12s %10s\n' target executions coverage
for name in "${targets[@]}"; do
    found=$target_dir/corpus/$name artifacts=$target_dir/artifacts/$name
    mkdir -p "$found" "$artifacts"
    log=$target_dir/$name.log
    # Larger inputs than the corpus has are worth trying; 4 KiB keeps the executions many.
    if "$target_dir/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$artifacts/" -print_final_stats=1 "$found" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2)
        printf '%-12s %12s %10s\n' "$name" "$executions" "$coverage"
    else
        printf '%-12s CRASH: input in %s, output in %s\n' "$name" "$artifacts" "$log" >&2
        grep -m 1 -A 1 'panicked at\|ERROR: libFuzzer' "$log" >&2 || true
        failed=1
    fi
done
exit $failed
