#!/usr/bin/env bash
# Writes a root file system made of Debian's static busybox as a tar: a base image for machines that reach no registry.
# Usage: busybox-rootfs.sh OUT.tar
set -euo pipefail
out=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
busybox=$(command -v busybox) || { echo "no busybox: install busybox-static" >&2; exit 1; }
mkdir -p "$root"/{bin,sbin,etc,dev,proc,sys,tmp,root,home,lib,usr/bin,usr/sbin,var/tmp}
cp "$busybox" "$root/bin/busybox"
chmod 0755 "$root" "$root/bin/busybox"
"$busybox" --list-full | while read -r applet; do
    [ -e "$root/$applet" ] || { mkdir -p "$root/$(dirname "$applet")"; ln "$root/bin/busybox" "$root/$applet"; }
done
printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1:daemon:/usr/sbin:/bin/false \
    www-data:x:33:33:www-data:/var/www:/bin/false nobody:x:65534:65534:nobody:/home:/bin/false >"$root/etc/passwd"
printf '%s\n' root:x:0: daemon:x:1: www-data:x:33: nogroup:x:65534: >"$root/etc/group"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 0700 "$root/root"
tar --sort=name --mtime=@1767225600 --numeric-owner --owner=0 --group=0 -C "$root" -cf "$out" .
