#!/usr/bin/env bash
# Installs what is needed besides a Rust toolchain: Debian packages, and ordinary users for the rootless tests.
# Idempotent and quick when nothing is missing. On systems without apt-get it says what to install.
# "setup.sh minimal" is what building rbuild and examples/quickstart.sh need.
set -euo pipefail

packages=(busybox-static gcc libc6-dev)
[ "$(id -u)" = 0 ] || packages+=(uidmap)
if [ "${1:-}" != minimal ]; then
    packages+=(debootstrap docker-registry skopeo umoci crun buildah podman pigz uidmap git python3 zstd xz-utils bzip2
               curl ca-certificates openssl openssh-client util-linux procps attr bsdutils qemu-user-static)
    # With containerd and runc, which with crun is in the contract suite of executors (tests/sandbox.rs). Docker's own packages bring them too, and do not go together with Debian's.
    PATH="$PATH:/usr/sbin" command -v dockerd >/dev/null || packages+=(docker.io)
fi

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: no apt-get here; please install what Debian calls: ${missing[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "setup: please install, as root: ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "setup: installing ${missing[*]}" >&2
    "${as_root[@]}" apt-get update -qq
    # No service is started by being installed: the tests start their own, on directories and sockets of their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! command -v cargo >/dev/null; then
    echo "setup: no cargo: install a Rust toolchain, at least the rust-version of Cargo.toml (https://rustup.rs)" >&2
    exit 1
fi
[ "${1:-}" = minimal ] && exit 0

# The S3 server of the cache tests: it checks signatures and knows multipart uploads. Built once, and not for speed.
if ! command -v s3s-fs >/dev/null; then
    echo "setup: building s3s-fs" >&2
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install -q --locked --features binary --version 0.13.0-alpha.3 s3s-fs
    command -v s3s-fs >/dev/null || { echo "setup: please add cargo's bin directory to PATH" >&2; exit 1; }
fi

# Rootless tests run as rbuild-multi, which has subordinate ids, and as rbuild-single, which has none.
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
