#!/usr/bin/env bash
# Installs what the tests need besides a Rust toolchain: Debian packages, and an ordinary user with subordinate ids.
# Idempotent and quick when nothing is missing. On systems without apt-get it says what to install.
set -euo pipefail

packages=(busybox-static debootstrap docker-registry skopeo umoci crun buildah uidmap git python3 zstd xz-utils bzip2
          hyperfine jq openssh-client gcc libc6-dev util-linux)
[ "${1:-}" = minimal ] && packages=(busybox-static gcc libc6-dev)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: no apt-get here; please install: ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}" >&2
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || { echo "setup: no cargo: install a Rust toolchain (https://rustup.rs)" >&2; exit 1; }
[ "${1:-}" = minimal ] && exit 0

# Rootless tests run as this user: with subordinate ids (multi-uid), and rbuild-single without (single-uid).
if [ "$(id -u)" = 0 ]; then
    for user in rbuild-multi rbuild-single; do
        id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
    done
    for file in /etc/subuid /etc/subgid; do
        touch "$file"
        grep -q '^rbuild-multi:' "$file" || echo 'rbuild-multi:2000000:65536' >>"$file"
        sed -i '/^rbuild-single:/d' "$file"
    done
fi
