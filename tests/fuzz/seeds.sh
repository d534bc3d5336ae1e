#!/bin/sh
# Fills corpus/ from the golden cases, so that a run does not begin with nothing.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/parser corpus/expansion corpus/dockerignore
for file in ../../testdata/parse/*/Dockerfile ../../testdata/plan/*/Dockerfile ../../testdata/lint/*/Dockerfile; do
    cp "$file" "corpus/parser/$(basename "$(dirname "$file")")"
done
cut -d'|' -f1 ../../testdata/words/*.txt ../../testdata/mounts/*.txt | grep -v '^rows:' |
    while IFS= read -r line; do printf %s "$line" > "corpus/expansion/$(printf %s "$line" | cksum | cut -d' ' -f1)"; done
for file in ../../testdata/ignore/*.txt; do
    { printf 'a/b\0c.md\0x/y/z'; tail -n +2 "$file" | sed '/^---$/,$d'; } > "corpus/dockerignore/$(basename "$file")"
done
mkdir -p corpus/tar corpus/reference corpus/manifest
sample=$(mktemp -d)
trap 'rm -rf "$sample"' EXIT
(
    cd "$sample"
    mkdir -p in/d/"$(printf 'n%.0s' $(seq 120))"
    echo one > in/a; ln in/a in/b; ln -s ../a in/d/link; mkfifo in/p; : > in/.wh.gone; : > in/d/.wh..wh..opq
    truncate -s 100K in/holes; printf x | dd of=in/holes bs=1 seek=50000 conv=notrunc status=none
)
for format in v7 oldgnu gnu ustar posix; do
    # The long name does not fit into the older formats, and extended attributes into none but the last.
    tar -C "$sample" --format=$format --sort=name -cf "corpus/tar/$format" in 2> /dev/null || true
done
for format in oldgnu gnu posix; do
    tar -C "$sample" --format=$format --sparse -cf "corpus/tar/$format-sparse" in/holes
done
tar -C "$sample" --format=posix --sparse --sparse-version=0.1 -cf corpus/tar/sparse-0.1 in/holes
tar -C "$sample" --format=posix --sparse --sparse-version=0.0 -cf corpus/tar/sparse-0.0 in/holes
tar -C "$sample" --format=posix --pax-option='globexthdr.name=g,SCHILY.xattr.user.x:=y,comment=c' -cf corpus/tar/pax in/a
n=0
for text in alpine alpine:3.20 a/b:1 localhost/x localhost:5000/x:y example.com/a/b@sha256:$(printf '0%.0s' $(seq 64)) '[::1]:80/x' \
    linux/amd64 linux/arm/v7 arm64 'windows(10.0+win32k)/amd64' 'docker.io/library/*
debian'; do
    n=$((n + 1)); printf %s "$text" > corpus/reference/$n
done
digest="sha256:$(printf 'a%.0s' $(seq 64))"
entry="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"$digest\",\"size\":2}"
cat > corpus/manifest/manifest <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$entry,"layers":[$entry],"annotations":{"a":"b"}}
JSON
cat > corpus/manifest/index <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"$digest","size":2,
"platform":{"os":"linux","architecture":"arm","variant":"v7","os.version":"1","os.features":["x"]},"data":"e30="}]}
JSON
cat > corpus/manifest/config <<JSON
{"architecture":"amd64","os":"linux","author":"a","created":"2024-01-01T00:00:00Z","config":{"User":"u","ExposedPorts":{"80/tcp":{}},
"Env":["A=b"],"Entrypoint":["x"],"Cmd":null,"Volumes":{"/v":{}},"WorkingDir":"/","Labels":{"a":"b"},"StopSignal":"TERM",
"ArgsEscaped":true,"Healthcheck":{"Test":["NONE"],"Interval":1},"OnBuild":["RUN x"],"Shell":["/bin/sh"]},
"rootfs":{"type":"layers","diff_ids":["$digest"]},"history":[{"created_by":"x","empty_layer":true,"comment":"c"}],"variant":"v1"}
JSON
