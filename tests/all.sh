#!/usr/bin/env bash
# Everything that must be green: format, lints, docs, the oracle, all tests. `.ci/run` calls exactly this. Less than 40 minutes on
# two cores from a clean clone, debootstrap and release build included. The summary of each test binary comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh

step() { printf '\n=== %s (after %ss)\n' "$*" "$SECONDS"; }
step format;  cargo fmt --all --check
step clippy;  cargo clippy --workspace --all-targets --quiet -- -D warnings
step docs;    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
step release; cargo build --release --quiet
if [ -d "${ORACLE:-../shared/oracle}" ] && [ "$(id -u)" = 0 ]; then
    step oracle; tests/oracle.sh
else
    echo "oracle: NOT RUN: it needs root and ../shared/oracle"
fi

step tests
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0
RBUILD_TEST_KILLS=200 INSTA_UPDATE=no cargo test --workspace --no-fail-fast 2>&1 | tee "$log" || failed=1
step summary
grep -E '^\*\*\* ' "$log" | sort -u || true
grep -E '^(test .* FAILED|test result: )' "$log" || failed=1
exit $failed
