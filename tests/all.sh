#!/usr/bin/env bash
# Everything that must be green: format, lints, docs, all tests. `.ci/run` calls exactly this. Ends within 40 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh

step() { printf '\n=== %s\n' "$*"; }
step format;  cargo fmt --all --check
step clippy;  cargo clippy --workspace --all-targets --quiet -- -D warnings
step docs;    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
step tests;   INSTA_UPDATE=no cargo test --workspace
step build;   cargo build --release --quiet
if [ -d ../shared/oracle ] && [ "$(id -u)" = 0 ]; then
    step oracle; tests/oracle.sh
else
    echo "oracle: not run: it needs root and ../shared/oracle"
fi
