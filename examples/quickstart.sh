#!/usr/bin/env bash
# The first command of the README: sets up what is missing, builds rbuild, makes a base image from Debian's busybox-static,
# builds examples/quickstart twice (cold, then cached), lists it, explains it and runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh minimal
cargo build --release --quiet
rbuild=$PWD/target/release/rbuild
export RBUILD_ROOT=${RBUILD_ROOT:-$PWD/target/quickstart-store}

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
run() { say "$@"; "$@"; }
tar=$(mktemp --suffix .tar)
trap 'rm -f "$tar"' EXIT
examples/busybox-rootfs.sh "$tar"
run "$rbuild" import "$tar" busybox:latest
run "$rbuild" -t hello:1.0 --build-arg BUILD_NUMBER=7 examples/quickstart
echo; echo "# the same again: nothing runs"
run "$rbuild" -t hello:1.0 --build-arg BUILD_NUMBER=7 examples/quickstart
echo; echo "# with another argument, and why:"
run "$rbuild" -t hello:1.1 --build-arg WHO=there --explain examples/quickstart
run "$rbuild" images
run "$rbuild" history hello:1.1
run "$rbuild" run --rm hello:1.1
