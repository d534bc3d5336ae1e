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
