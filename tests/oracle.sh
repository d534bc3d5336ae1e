#!/usr/bin/env bash
# Runs ../shared/oracle (what the newest BuildKit made of small Dockerfiles) against the release binary, with a registry and
# base images of its own on loopback. Arguments go to the oracle's run.py. Fails when a case fails that is not listed with its
# reason in testdata/oracle-expected-failures.txt (as a user: …-rootless.txt), and when a listed one passes.
set -euo pipefail
cd "$(dirname "$0")/.."
oracle=$(realpath "${ORACLE:-../shared/oracle}")
work=$(mktemp -d "${TMPDIR:-/tmp}/rbuild-oracle.XXXXXX")
port=${ORACLE_PORT:-$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')}
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: 127.0.0.1:$port}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
trap 'kill $registry 2>/dev/null; chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
for _ in $(seq 50); do curl -fs "http://127.0.0.1:$port/v2/" >/dev/null && break; sleep 0.1; done

bases=${RBUILD_TEST_BASES:-${XDG_CACHE_HOME:-$HOME/.cache}/rbuild-tests}
mkdir -p "$bases"
if [ ! -d "$bases/debian" ]; then
    rm -rf "$bases/debian.new"
    debootstrap --variant=minbase bookworm "$bases/debian.new" ${RBUILD_TEST_MIRROR:-} >/dev/null
    rm -f "$bases"/debian.new/var/cache/apt/archives/*.deb
    mv "$bases/debian.new" "$bases/debian"
fi
python3 "$oracle/bases.py" "127.0.0.1:$port" --debian-root "$bases/debian"

export ORACLE_BUSYBOX=127.0.0.1:$port/busybox:latest ORACLE_DEBIAN=127.0.0.1:$port/debian:12
binary=${RBUILD:-$PWD/target/release/rbuild}

# judge WHO LIST: what failed of the run in $work/out must be what the list has.
judge() {
    grep -q ' passed, ' "$work/out" || { echo "oracle: the runner did not come to its end"; exit 1; }
    failed=$(sed -n 's/^FAIL //p' "$work/out" | sort)
    expected=$({ grep -v '^#' "$2" || true; } | cut -d' ' -f1 | sort)
    if [ "$failed" != "$expected" ]; then
        echo "oracle, as $1: the failing cases are not the listed ones (< listed, > failed):"
        diff <(echo "$expected") <(echo "$failed") || exit 1
    fi
}

status=0
RBUILD="$binary --root $work/store" python3 "$oracle/run.py" "$@" | tee "$work/out" || status=$?
[ $# -gt 0 ] && exit $status
judge root testdata/oracle-expected-failures.txt

# The same as an ordinary user with subordinate ids. The runner stays root, who can make contexts with any owner; rbuild is let in
# where the runner's directories are its own, and owns what it writes.
user=rbuild-multi
chmod 711 "$work"
install -m 755 "$binary" "$work/rbuild"
install -d -o "$user" "$work/home"
install -d -m 711 "$work/tmp"
cat >"$work/as-user" <<WRAPPER
#!/usr/bin/env bash
chmod 711 $work/tmp/*/
for argument; do
    case \$argument in *dest=*) chown $user "\$(dirname "\${argument##*dest=}")" ;; esac
done
exec setpriv --reuid=$user --regid=$user --init-groups env HOME=$work/home TMPDIR=$work/home \\
    $work/rbuild --root $work/home/store "\$@"
WRAPPER
chmod 755 "$work/as-user"
TMPDIR="$work/tmp" RBUILD="$work/as-user" python3 "$oracle/run.py" | tee "$work/out" || true
judge "$user" testdata/oracle-expected-failures-rootless.txt
