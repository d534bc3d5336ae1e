#!/usr/bin/env python3
"""Builds the same Dockerfiles with rbuild and with another builder and compares what came out: config, history, file tree.

    tests/conformance.py [--case NAME] [--keep] [--write]      (as root; needs busybox-static, buildah and skopeo)

The other builder is BuildKit (`buildctl`, when it is installed and BUILDKIT_HOST is set), else buildah. The Dockerfiles are those in
testdata/conformance and testdata/build; all stand on `busybox`, an image made by examples/busybox-rootfs.sh and given to both.
With BuildKit the findings of `--check` are compared, too, for all Dockerfiles in testdata that need no image.
`--write` writes the table to docs/conformance.md. Exit status 1 when there is a difference that EXPLAINED does not know, or one that
it promises and that is gone.
Environment: RBUILD (default target/debug/rbuild), BUILDER_VERSION (what the page says it was compared with; else what the tool says).
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

import conformance_sources

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RBUILD = os.environ.get("RBUILD", os.path.join(TOP, "target/debug/rbuild"))

# Differences that are meant: a pattern for `case: difference`, whose they are, why. The first that matches counts.
EXPLAINED = [
    (r"file /(run|etc/(hosts|hostname|resolv\.conf)): only there",
     "buildah", "leaves the files it mounts over a RUN (and /run) in the layer. rbuild, like BuildKit, leaves nothing of the "
     "sandbox behind (observed 50)."),
    (r"^(run-heredoc|run-heredoc-forms|run-heredoc-with-shell|onbuild-heredocs|copy-heredoc|copy-heredocs-in-stages): status: buildah failed",
     "buildah", "this version knows no heredocs (features D110, D142)."),
    (r"^expansion: status: buildah failed",
     "buildah", "this version knows `${x:-y}` but not `${x-y}` (D031)."),
    (r"^arg-after-env: file /x: content",
     "buildah", "lets ENV win over ARG wherever they stand; in BuildKit the later instruction wins (D052, observed 11)."),
    (r"^(config-shell-form|shell-is-inherited): config (Cmd|Entrypoint)",
     "buildah", "takes SHELL for RUN only and wraps CMD and ENTRYPOINT in /bin/sh (D170)."),
    (r"^(continuations: config Env|labels-and-quotes: config Labels)",
     "buildah", "takes a backslash in a value for an escape although `# escape=` chose the backtick (D023)."),
    (r"history: ",
     "buildah", "writes entries of its own: one for `--label`, one for each ONBUILD, and none with a layer for a WORKDIR (D161, D172, "
     "D167)."),
    (r"^workdir: file /owned",
     "buildah", "makes a WORKDIR only when a RUN needs it; BuildKit makes each one, with the current USER as owner (observed 40)."),
    (r"^run-metadata-changes: file /(f|hard): (mode|owner)",
     "storage", "buildah runs here on plain copies, where both names of a hard link change together. On overlayfs, which BuildKit and "
     "rbuild use, changing one name in a later step copies that name up and leaves the other."),
    (r"^run-mounts: file /mnt: only there",
     "buildah", "leaves the parent directory of a mount target in the layer. rbuild removes what it made itself."),
    (r"^(add-archives|copy-exclude|copy-link|copy-parents): status: buildah failed",
     "buildah", "this version knows neither `ADD --unpack` nor `COPY --exclude`, `--link` and `--parents` (D139, D140, D141)."),
    (r"^user-owns-workdir: status: buildah failed",
     "buildah", "makes the WORKDIR for root, so the user cannot write there; BuildKit makes it for the current USER (observed 40)."),
    (r"^arg-scopes: file /values: content",
     "buildah", "does not hand the ARGs of a stage on to the stage that stands on it (observed 13)."),
    (r"^volume-expose-signal: (config ExposedPorts|file /(data|more|rel|v ?[12]))",
     "buildah", "keeps ranges and the case of protocols as written, makes the directories of volumes and drops what is written to them "
     "later (D164, D165, observed 44)."),
    (r"config ArgsEscaped: true",
     "buildah", "does not write the field that BuildKit sets with every CMD (D162)."),
    (r"config WorkingDir: / \| null",
     "buildah", "leaves the working directory of an image from scratch empty; BuildKit writes `/` (D072)."),
    (r"^(network-host|security-insecure)-is-refused: status",
     "buildah", "knows no entitlements: what a RUN asks for it gets (D107, D108)."),
    (r"^secrets: status: buildah failed",
     "buildah", "knows no `env=` of secrets (D103)."),
    (r"^cache-mounts: status: buildah failed",
     "buildah", "takes no relative target of a mount (D101)."),
    (r"^named-context: file /(all/x.md|seen)",
     "buildah", "does not look for an ignore file in named contexts (D185)."),
    (r"^platform-of-scratch: config Labels",
     "buildah", "does not know TARGETSTAGE (D055)."),
    (r"^node_style: file /app/node_modules/when",
     "the case", "the file has the time of the build in it; the end-to-end tests tell a cached step from a repeated one by it."),
]


# Kept by hand; it stands in docs/conformance.md as it is.
MEANT = r"""
## Meant to differ from BuildKit

Found by building some 9,000 small Dockerfiles with both, some 1,250 of public repositories (on a base whose programs do nothing), and
450 of buildah's and kaniko's tests with their contexts, and comparing status, message, config field by field, history and files. Among
them are images by digest and from indexes of all kinds, bases with every field there is, contexts and ADD from git and http, named
contexts, heredocs and `--call`. In all that is not listed here they agreed, but for the wording of some errors (of networks, of paths
missing in another stage, of remote contexts, of malformed images).

- `# syntax=` (or `BUILDKIT_SYNTAX`) with anything but `docker/dockerfile*` is an error: rbuild runs no front end but its own.
  `--build-arg BUILDKIT_SYNTAX=dockerfile.v0` builds the file as a plain Dockerfile, as it does with BuildKit (D021).
- `${name` at the end of a word is `missing '}'`, as `${name:-` is; BuildKit says `unsupported modifier` and a replacement
  character. So is a lone backslash at the end of a pattern (D030, D034).
- Flags keep what is not ASCII: BuildKit reads them byte by byte, and `--chown=é` becomes `Ã©` (D011).
- `\d`, `\w` and the like in an ignore file or a source are the letters: in BuildKit they reach a regular expression (D182).
  `a[*]b` is `a*b` there, which BuildKit never matches.
- `COPY ["<<A", "/x"]` copies a file of that name; BuildKit makes an empty one (D190).
- A body line that is too long is told as such; BuildKit says `unterminated heredoc` (D002).
- All faults of a file are told in one run, in the order of the lines: what cannot be read, what the rest gets wrong, images that
  cannot be had, paths that are missing in a context that is here. What may be the consequence of another fault is left out. The last
  line is BuildKit's, which stops at the first.
- What is missing in a context is found before anything runs, and only where the target needs it. `--check` tells it as a note:
  BuildKit's looks into no context, and passes.
- Faults of ignore files name file and line; faults of references and heredoc names say more behind BuildKit's words.
- A stage that stands on a directory (`--build-context name=dir`) has a history entry for it before its own; BuildKit writes one
  behind them, with the text of another step.
- A COPY of what is already there, byte for byte and with the same time, is in its layer again; BuildKit's differ leaves it out
  (`COPY package.json ./`, later `COPY . .`). The files of the image are the same.
- A hard link that a RUN makes to a file of an earlier layer stays one: the file is in the new layer, too. BuildKit leaves out the
  file, and the link becomes a copy.
- With SOURCE_DATE_EPOCH, files of heredocs have that time; BuildKit gives them the time of the build.
- `COPY --parents x/./ /p/` copies what is in `x`, as buildah does; BuildKit looks for `x` in vain.
- An image without layers says `"layers":[]` and `"diff_ids":[]`, where BuildKit writes `null`.
- The working directory of an image for Windows is written with slashes (D167).

Of images:

- An entry of an index that names no platform is judged by its config. BuildKit looks at the first such entry only.
- The index of an OCI archive names the platform that is in the image's config; BuildKit names the one that was built for, which is another
  with `FROM --platform`.
- A base with fewer entries in its history than layers gets entries behind its own, where the layers are; BuildKit puts them behind
  those of the Dockerfile, with the texts of other steps. If there are more entries than layers, those of the base are too many, not
  those of the Dockerfile. An entry without a time takes the next one that is known, never the time of the pull.
- A relative working directory of a base is joined to `/`, not to itself.
- Fields of a base's config count when they are written as Docker writes them; Go also takes `env` for `Env`.
- Nothing of a base's config is checked that is only passed on: a time may be any text.
- A stage that a named context replaces is the target as any other; of a directory BuildKit makes no image.

Of git and http:

- `.git` of `--keep-git-dir` has no samples of hooks, no `description` and no paths of this machine. Submodules have no `.git` file; those
  of BuildKit lead to a directory that is not in the image.
- `ADD` with `?mtime=commit` gives files the time of the commit, as a context with it does; BuildKit leaves it out.
- `#HEAD` is the default branch. `?` with nothing behind it is nothing.
- `..` in an address is resolved before the server is asked. Ten redirects are followed, not nine; one without an address is an error.
- `--checksum` is `sha256:`; BuildKit takes `sha512:` and then compares it with a SHA-256.
- A context over http may be packed with Zstandard.
"""

# Rules that BuildKit does not know.
OWN_RULES = ("ArgInvalidatesCache", "HeredocWithoutErrexit", "AptUpdateAlone", "AptCacheSharing", "ContextMissingIgnore",
             "MissingSource")


def call(argv, check=True):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = p.stdout.decode("utf-8", "replace")
    if check and p.returncode:
        sys.exit(f"{' '.join(argv)}\n{text[-3000:]}")
    return p.returncode, text


def is_address(text):
    return text.startswith("http://")


class Rbuild:
    """rbuild with a store of its own."""
    name = "rbuild"

    def __init__(self, tmp, rootfs):
        self.root = os.path.join(tmp, "rbuild")
        call([RBUILD, "--root", self.root, "import", rootfs, "plain:latest"])
        context = os.path.join(tmp, "base-context")
        os.makedirs(context)
        with open(os.path.join(context, "Dockerfile"), "w") as f:
            f.write('FROM plain\nCMD ["/bin/sh"]\n')
        call([RBUILD, "--root", self.root, "--progress=plain", "-t", "busybox:latest", context])

    def build(self, case, out):
        code, log = call([RBUILD, "--root", self.root, "--progress=plain", "--no-cache", *case.args,
                          "-o", f"type=docker,dest={out}.tar", "-t", "case", case.context], check=False)
        if code:
            return None, log
        call(["skopeo", "copy", "-q", f"docker-archive:{out}.tar", f"dir:{out}"])
        return Image(out), log

    def export(self, tar):
        call([RBUILD, "--root", self.root, "save", "-o", tar, "busybox:latest"])


class Buildah:
    """buildah with a store of its own, and with layers, as BuildKit makes them."""
    name = "buildah"

    def __init__(self, tmp, base):
        self.dir = os.path.join(tmp, "buildah")
        call([*self.command(), "pull", "-q", f"docker-archive:{base}"])

    def command(self):
        return ["buildah", "--root", self.dir + "/root", "--runroot", self.dir + "/run", "--storage-driver", "vfs"]

    def build(self, case, out):
        code, log = call([*self.command(), "build", "--isolation", "chroot", "--layers", "--no-cache", "--pull-never",
                          "--format", "docker", "--identity-label=false", *case.args, "-t", "case", case.context], check=False)
        if code:
            return None, log
        call([*self.command(), "push", "-q", "case", f"dir:{out}"])
        return Image(out), log


class BuildKit:
    """A BuildKit that runs already."""
    name = "BuildKit"

    def __init__(self, tmp, base):
        self.layout = os.path.join(tmp, "base-layout")
        call(["skopeo", "copy", "-q", f"docker-archive:{base}", f"oci:{self.layout}:latest"])

    def build(self, case, out):
        names = {"--build-arg": "build-arg:", "--label": "label:", "--target": "target=", "--platform": "platform="}
        options = []
        for flag, value in zip(case.args[::2], case.args[1::2]):
            if flag == "--build-context":
                name, path = value.split("=", 1)
                if not is_address(path):
                    options.append(f"--local={name}={path}")
                    path = f"local:{name}"
                options.append(f"--opt=context:{name}={path}")
            elif flag == "--secret":
                options += [flag, value]
            else:
                options += ["--opt", names[flag] + value]
        context = [f"--opt=context={case.context}"] if is_address(case.context) else [
            f"--local=context={case.context}", f"--local=dockerfile={case.context}"]
        with open(os.path.join(self.layout, "index.json")) as f:
            digest = json.load(f)["manifests"][0]["digest"]
        code, log = call(["buildctl", "build", "--progress=plain", "--no-cache", "--frontend=dockerfile.v0",
                          *context,
                          f"--oci-layout=base={self.layout}", f"--opt=context:busybox=oci-layout://base@{digest}",
                          *options, f"--output=type=docker,name=case,dest={out}.tar"], check=False)
        if code:
            return None, log
        call(["skopeo", "copy", "-q", f"docker-archive:{out}.tar", f"dir:{out}"])
        return Image(out), log


class Image:
    """An image in skopeo's `dir:` form, its layers applied."""
    def __init__(self, path):
        def blob(descriptor):
            with open(os.path.join(path, descriptor["digest"].split(":")[1]), "rb") as f:
                return f.read()
        with open(os.path.join(path, "manifest.json")) as f:
            manifest = json.load(f)
        self.config = json.loads(blob(manifest["config"]))
        self.files = {}
        for layer in manifest["layers"]:
            data = blob(layer)
            apply(self.files, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)


def apply(files, data):
    """Applies a layer to files (path -> entry)."""
    new = set()
    for member in tarfile.open(fileobj=io.BytesIO(data)):
        path = os.path.normpath("/" + member.name.lstrip("/"))
        folder, name = os.path.split(path)
        if name == ".wh..wh..opq":
            gone = [p for p in files if p.startswith(folder.rstrip("/") + "/") and p not in new]
        elif name.startswith(".wh."):
            hidden = os.path.join(folder, name[4:])
            gone = [p for p in files if p == hidden or p.startswith(hidden + "/")]
        else:
            gone = []
        for p in gone:
            del files[p]
        if name.startswith(".wh."):
            continue
        new.add(path)
        if member.islnk():
            files[path] = files[os.path.normpath("/" + member.linkname.lstrip("/"))]
            continue
        kind = ("directory" if member.isdir() else "symlink" if member.issym() else "fifo" if member.isfifo()
                else "file" if member.isreg() else "device")
        if kind != "directory":
            for p in [p for p in files if p.startswith(path + "/")]:
                del files[p]
        entry = {"type": kind, "owner": f"{member.uid}:{member.gid}"}
        if kind == "symlink":
            entry["target"] = member.linkname
        else:
            entry["mode"] = f"{member.mode & 0o7777:04o}"
        if kind == "file":
            content = data[member.offset_data:member.offset_data + member.size]
            entry["content"] = hashlib.sha256(content).hexdigest()[:12]
            entry["text"] = content[:60].decode("utf-8", "replace")
        files[path] = entry


class Case:
    """A context with a Dockerfile."""
    def __init__(self, path):
        self.name, self.context, self.args, self.skip = os.path.basename(path), path, [], False
        # What both say when they refuse it.
        self.fails = None
        if os.path.exists(path + "/fails"):
            with open(path + "/fails") as f:
                self.fails = f.read().strip()
        if os.path.exists(path + "/args"):
            with open(path + "/args") as f:
                # What is written with `./` is in the case.
                self.args = [word.replace("=./", f"={path}/") for word in f.read().split()]
        if os.path.exists(path + "/case.json"):
            with open(path + "/case.json") as f:
                case = json.load(f)
            self.args = case.get("args", [])
            # What the end-to-end tests make at run time is not in the folder.
            self.skip = "make_tar_gz" in case


class SourceCase:
    """A Dockerfile in a context of its own, or a context at an address."""
    skip = False

    def __init__(self, directory, name, dockerfile, address, args):
        self.name, self.context, self.args, self.fails = name, address or directory, args, None
        if dockerfile is not None:
            os.makedirs(directory)
            with open(f"{directory}/Dockerfile", "w") as f:
                f.write(dockerfile)


def config_of(image):
    config = image.config.get("config") or {}
    # Hostname: buildah writes the random name of its working container there, BuildKit and rbuild nothing.
    out = {k: v for k, v in config.items() if v not in (None, "", [], {}, False) and k != "Hostname"}
    for key in ("author", "os", "architecture", "variant", "os.version", "os.features"):
        if image.config.get(key):
            out[key] = image.config[key]
    return out


def history_of(image, skip):
    return "".join("-" if e.get("empty_layer") else "L" for e in image.config.get("history", [])[skip:])


def differences(ours, theirs, base):
    a, b = config_of(ours), config_of(theirs)
    for key in sorted(a.keys() | b.keys()):
        ours_has, theirs_has = a.get(key), b.get(key)
        if isinstance(ours_has, list) and isinstance(theirs_has, list):
            ours_has, theirs_has = ([v for v in one if v not in other]
                                    for one, other in ((ours_has, theirs_has), (theirs_has, ours_has)))
            if a[key] != b[key] and not ours_has and not theirs_has:
                ours_has, theirs_has = a[key], b[key]
        if ours_has != theirs_has:
            yield f"config {key}: {short(ours_has)} | {short(theirs_has)}"
    skip = 0 if len(ours.files) < 20 else len(base.config.get("history", []))
    a, b = history_of(ours, skip), history_of(theirs, skip)
    if a != b:
        yield f"history: {a} | {b}"
    for path in sorted(ours.files.keys() | theirs.files.keys()):
        a, b = ours.files.get(path), theirs.files.get(path)
        if a is None or b is None:
            there = a or b
            yield f"file {path}: {'only here' if a else 'only there'} ({there['type']} {there.get('mode', '')})"
            continue
        for key in ("type", "mode", "owner", "target", "content"):
            if a.get(key) != b.get(key):
                shown = "text" if key == "content" else key
                yield f"file {path}: {key} {short(a.get(shown))} | {short(b.get(shown))}"


def short(value):
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\n", "\\n").replace("|", "/")
    return text if len(text) <= 60 else text[:57] + "…"


def compare(case, builders, base, tmp):
    results = [builder.build(case, os.path.join(tmp, f"{case.name}-{builder.name}")) for builder in builders]
    if case.fails:
        return [f"status: {builder.name} does not say {case.fails!r}" for builder, (image, log) in zip(builders, results)
                if image is not None or case.fails not in log]
    failed = [builder.name for builder, (image, _) in zip(builders, results) if image is None]
    if failed:
        for image, log in results:
            if image is None:
                print("  " + (log.strip().splitlines() or ["?"])[-1])
        return [f"status: {', '.join(failed)} failed"]
    return list(differences(results[0][0], results[1][0], base))


def essence(log):
    """The last fault without what each builder says around it."""
    lines = [line for line in log.splitlines() if re.match("(ERROR|error): ", line)] or [""]
    text = re.sub("^(ERROR|error): |failed to (build|solve|compute cache key|load cache key|read (downloaded context|dockerfile)): ", "", lines[-1])
    return re.sub(r"ref \S+:|(invalid response status \d+).*|digest mismatch.*|(invalid subdir \S+):.*|: sha256:0$|: md5:0$"
                  "|(?<=in manifest) sha256:[0-9a-f]+", r"\1\2", text)


def compare_sources(builders, base, tmp):
    """Compares what comes from registries, git and http. Returns how many, and how many differ."""
    os.makedirs(f"{tmp}/sources")
    number, unexplained = 0, 0
    for number, (name, *rest) in enumerate(conformance_sources.cases(conformance_sources.Servers(f"{tmp}/sources")), 1):
        case = SourceCase(f"{tmp}/sources/{number}", name, *rest)
        results = [builder.build(case, os.path.join(tmp, f"sources/{number}-{builder.name}")) for builder in builders]
        images = [image for image, _ in results]
        if None not in images:
            found = list(differences(*images, base))
        elif images == [None, None]:
            messages = [essence(log) for _, log in results]
            found = [] if messages[0] == messages[1] else [" | ".join(messages)]
        else:
            found = ["status: only one builds it: " + "".join(essence(log) for image, log in results if image is None)]
        unexplained += bool(found)
        for difference in found:
            print(f"{name}: {difference}   [NOT EXPLAINED]")
    print(f"sources: {number} compared, {unexplained} with differences")
    return number, unexplained


def findings(text):
    """The warnings in a report, each with its excerpt."""
    return sorted(block.strip() for block in re.split(r"(?m)^WARNING: ", text.split("\nNOTE: ")[0])[1:])


def compare_findings(tmp):
    """Compares what --check finds; where there is a fault BuildKit stops, and rbuild may know more. Returns how many, and how many differ."""
    number, unexplained = 0, 0
    for folder in ("lint", "parse", "plan", "conformance"):
        for name in sorted(os.listdir(os.path.join(TOP, "testdata", folder))):
            context = os.path.join(TOP, "testdata", folder, name)
            if not os.path.isfile(f"{context}/Dockerfile"):
                continue
            with open(f"{context}/Dockerfile", errors="replace") as f:
                text = f.read()
            bases = re.findall(r"(?im)^\s*from\s+(?:--\S+\s+)*(\S+)(?:\s+as\s+(\S+))?", text)
            known = {"scratch"} | {name.lower() for _, name in bases}
            # A front end chosen by the file, and images, would have to be fetched.
            if "syntax" in text or "onbuild" in text.lower() or any(base not in known for base, _ in bases):
                continue
            number += 1
            ours = subprocess.run([RBUILD, "--root", os.path.join(tmp, "lint"), "--check", "--offline", context], capture_output=True)
            theirs = subprocess.run(["buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}",
                                     f"--local=dockerfile={context}", "--opt=requestid=frontend.lint"], capture_output=True)
            a, b = (findings(p.stdout.decode("utf-8", "replace").replace("\r", "")) for p in (ours, theirs))
            a = [one for one in a if not one.startswith(OWN_RULES)]
            stopped = b"ERROR: " in ours.stderr
            missing = [one for one in b if b.count(one) > a.count(one)]
            more = [] if stopped else [one for one in a if a.count(one) > b.count(one)]
            unexplained += bool(missing or more)
            for whose, ones in (("BuildKit", missing), ("rbuild", more)):
                for one in ones:
                    rule, detail = one.splitlines()[:2]
                    print(f"{folder}/{name}: only {whose}: {rule.split()[0]}: {detail}   [NOT EXPLAINED]")
    print(f"--check: {number} Dockerfiles compared, {unexplained} with differences")
    return number, unexplained


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    tmp = tempfile.mkdtemp(prefix="conformance-")
    call([os.path.join(TOP, "examples/busybox-rootfs.sh"), f"{tmp}/rootfs.tar"])
    ours = Rbuild(tmp, f"{tmp}/rootfs.tar")
    ours.export(f"{tmp}/base.tar")
    call(["skopeo", "copy", "-q", f"docker-archive:{tmp}/base.tar", f"dir:{tmp}/base"])
    base = Image(f"{tmp}/base")
    theirs = (BuildKit if shutil.which("buildctl") and os.environ.get("BUILDKIT_HOST") else Buildah)(tmp, f"{tmp}/base.tar")
    cases = []
    for folder in ("conformance", "build"):
        top = os.path.join(TOP, "testdata", folder)
        cases += [Case(os.path.join(top, name)) for name in sorted(os.listdir(top))]
    rows, used, unknown = [], set(), 0
    for case in cases:
        if case.skip or (options.case and options.case not in case.name):
            continue
        notes = []
        for difference in compare(case, (ours, theirs), base, tmp):
            number = next((n for n, (pattern, whose, _) in enumerate(EXPLAINED, 1)
                           if (theirs.name == "buildah" or whose == "the case")
                           and re.search(pattern, f"{case.name}: {difference}")), None)
            used.add(number)
            unknown += number is None
            print(f"{case.name}: {difference}   [{number or 'NOT EXPLAINED'}]")
            notes.append((number, difference))
        if not notes:
            print(f"{case.name}: same")
        rows.append((case.name, notes))
    # Of BuildKit nothing differs, and what lies in a case may show or not.
    promised = [n for n, (_, whose, _) in enumerate(EXPLAINED, 1) if theirs.name == "buildah" and whose != "the case"]
    stale = [] if options.case else [n for n in promised if n not in used]
    for number in stale:
        print(f"explanation {number} is not needed any more: {EXPLAINED[number - 1][0]}")
    same = sum(not notes for _, notes in rows)
    print(f"{same} of {len(rows)} the same as with {theirs.name}, {unknown} differences not explained")
    linted = sourced = None
    if theirs.name == "BuildKit" and not options.case:
        linted, sourced = compare_findings(tmp), compare_sources((ours, theirs), base, tmp)
        unknown += linted[1] + sourced[1]
    if options.write:
        write(rows, theirs, same, linted, sourced)
    if not options.keep:
        subprocess.run(["rm", "-rf", tmp])
    sys.exit(1 if unknown or stale else 0)


def write(rows, theirs, same, linted, sourced):
    tool = "buildctl" if theirs.name == "BuildKit" else "buildah"
    version = os.environ.get("BUILDER_VERSION") or call([tool, "--version"])[1].strip()
    out = f"""# Conformance

What `tests/conformance.py` found when it built the Dockerfiles in [testdata/conformance](../testdata/conformance) and
[testdata/build](../testdata/build) with rbuild and with another builder, and compared image config, history (which entries have a
layer) and the whole file tree: types, modes, owners, link targets, contents. Not compared: times, and the random host name that
buildah writes into the config. `tests/conformance.py --write` writes this page; without a BuildKit it takes buildah, and what
differs there is explained in the script.

Compared with: {version}. `tests/oracle.sh` checks 116 more cases against recorded results of BuildKit.

{same} of {len(rows)} are the same. Left of the bar is rbuild, right the other builder.

| Dockerfile | differences |
|---|---|
"""
    for name, notes in rows:
        cell = [f"`{text.replace('|', chr(92) + '|')}` [{number or '**not explained**'}]" for number, text in notes[:6]]
        if len(notes) > 6:
            cell.append(f"and {len(notes) - 6} more like these")
        out += f"| {name} | {'<br>'.join(cell) or 'none'} |\n"
    out += MEANT
    numbers = sorted({number for _, notes in rows for number, _ in notes if number})
    if numbers:
        out += "\n## Why\n\n" + "".join(f"[{n}] **{EXPLAINED[n - 1][1]}**: {EXPLAINED[n - 1][2]}\n\n" for n in numbers).rstrip("\n") + "\n"
    if sourced:
        out += f"""
## Images, git and http

{sourced[0]} Dockerfiles and contexts of [conformance_sources.py](../tests/conformance_sources.py) come from a registry, from git and from
http: what is taken from indexes, what of a base's config goes on, which commits and files are meant, and what is said of those that are not
there. {sourced[1]} differ.
"""
    if linted:
        out += f"""
## Findings of --check

{linted[0]} Dockerfiles of testdata need no image; rule, message, lines and excerpt of each finding were compared, {linted[1]} differ.
What is not taken for a difference:

- A fault stops BuildKit, which reports what it had found so far. rbuild reports all faults, and all findings that do not depend on
  what is faulty; of a value that cannot be expanded, or a FROM that cannot be read, the fault only.
- Of several variables of one word, and of several candidates that are equally near, BuildKit takes a random one first; rbuild's
  order does not change.
- BuildKit checks for its own platform whatever `--platform` says; rbuild checks for the one that is asked for.
"""
    with open(os.path.join(TOP, "docs/conformance.md"), "w") as f:
        f.write(out)


if __name__ == "__main__":
    main()
