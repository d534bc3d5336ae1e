"""What conformance.py builds from registries, git repositories and http addresses: small servers on loopback, and the cases.

Every image has one file, `which`, that tells which one it is. Knows neither rbuild nor BuildKit; the cases are made of Dockerfiles,
contexts and arguments as testdata/conformance has them.
"""
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


class Servers:
    """A registry, files over http, and git repositories below `/git/`, all on one port of loopback."""

    def __init__(self, tmp):
        self.tmp, self.blobs, self.manifests, self.tags, self.pages = tmp, {}, {}, {}, {}
        servers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                servers.answer(self)
            do_HEAD = do_POST = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        path = urllib.parse.urlsplit(request.path).path
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if path == "/v2/":
            self.reply(request, 200, {}, b"{}")
        elif found:
            name, kind, what = found.groups()
            digest = self.tags.get(f"{name}:{what}", what)
            media_type, body = self.manifests.get(digest, (None, None)) if kind == "manifests" else (
                "application/octet-stream", self.blobs.get(digest))
            if body is None:
                self.reply(request, 404, {"Content-Type": "application/json"}, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            else:
                self.reply(request, 200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, body)
        elif path.startswith("/git/"):
            self.git(request)
        else:
            self.reply(request, *self.pages.get(path, (404, {}, b"")))

    @staticmethod
    def reply(request, status, headers, body):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def git(self, request):
        address = urllib.parse.urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        env = dict(os.environ, GIT_PROJECT_ROOT=f"{self.tmp}/git", GIT_HTTP_EXPORT_ALL="1", PATH_INFO=address.path[len("/git"):],
                   QUERY_STRING=address.query, REQUEST_METHOD=request.command, CONTENT_LENGTH=str(len(body)),
                   CONTENT_TYPE=request.headers.get("Content-Type", ""), GIT_PROTOCOL=request.headers.get("Git-Protocol", ""))
        output = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE, check=True).stdout
        head, _, rest = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.reply(request, status, headers, rest)

    def keep(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def document(self, media_type, value, name=None):
        data = json.dumps(dict(value, schemaVersion=2, mediaType=media_type)).encode()
        digest = self.keep(data)
        self.manifests[digest] = (media_type, data)
        if name:
            self.tags[f"{name}:latest"] = digest
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(self, name, platform="linux/amd64", **config):
        """An image; its name is also what its file says."""
        layer = tarred({"which": name.split("/")[-1]})
        packed = gzip.compress(layer, mtime=0)
        config = dict({"history": [{"created": "2001-01-01T00:00:00Z", "created_by": "made"}], "config": {"Env": ["PATH=/bin"]}}, **config)
        config = json.dumps(dict(config, **parts(platform), rootfs={"type": "layers", "diff_ids": [self.keep(layer)]})).encode()
        return self.document(MANIFEST, {
            "config": {"mediaType": CONFIG, "digest": self.keep(config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": self.keep(packed), "size": len(packed)}]}, name)

    def index(self, name, entries):
        """An index of images; `None` for an entry that does not say its platform."""
        listed = [dict(image, **({"platform": parts(platform)} if platform else {})) for platform, image in entries]
        return self.document(INDEX, {"manifests": listed}, name)


def parts(platform):
    return dict(zip(("os", "architecture", "variant"), platform.split("/")))


def tarred(files, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(text), 1200000000, 0o640
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def repository(tmp):
    """`app.git` with branches, tags, a submodule and links; returns the ids of its commits."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
               GIT_AUTHOR_DATE="1400000000 +0000", GIT_COMMITTER_DATE="1400000000 +0000")

    def git(where, *words):
        command = ["git", "-C", f"{tmp}/{where}", "-c", "protocol.file.allow=always", *words]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def commit(where, files):
        for name, text in files.items():
            os.makedirs(os.path.dirname(f"{tmp}/{where}/{name}"), exist_ok=True)
            with open(f"{tmp}/{where}/{name}", "w") as f:
                f.write(text)
        git(where, "add", "-A")
        git(where, "commit", "-q", "-m", "x")
        return git(where, "rev-parse", "HEAD")

    for name in ("sub", "app"):
        os.makedirs(f"{tmp}/work/{name}")
        git(f"work/{name}", "init", "-q", "-b", "main")
    commit("work/sub", {"s": "submodule\n"})
    os.symlink("f", f"{tmp}/work/app/link")
    ids = [commit("work/app", {"Dockerfile": "FROM scratch\nCOPY . /\n", "f": "one\n", "dir/Dockerfile": "FROM scratch\nCOPY g /\n",
                               "dir/g": "g\n", ".dockerignore": "ignored\n", "ignored": "is here\n"})]
    git("work/app", "tag", "v1")
    git("work/app", "tag", "-a", "-m", "x", "annotated")
    ids.append(commit("work/app", {"f": "two\n"}))
    git("work/app", "checkout", "-q", "-b", "side/branch")
    commit("work/app", {"f": "side\n"})
    git("work/app", "checkout", "-q", "-b", "modules", "main")
    git("work/app", "submodule", "add", "-q", f"{tmp}/work/sub", "module")
    git("work/app", "config", "-f", ".gitmodules", "submodule.module.url", "../sub.git")
    commit("work/app", {})
    git("work/app", "checkout", "-q", "-f", "main")
    for name in ("sub", "app"):
        git(".", "clone", "-q", "--mirror", f"{tmp}/work/{name}", f"{tmp}/git/{name}.git")
    return ids


def cases(servers):
    """(name, Dockerfile, its context if that is an address, arguments)"""
    yield from of_images(servers)
    yield from of_git(servers)
    yield from of_http(servers)


def of_images(servers):
    host = servers.host
    images = {name: servers.image(f"one/{name}", platform) for name, platform in (
        ("amd64", "linux/amd64"), ("v2", "linux/amd64/v2"), ("v3", "linux/amd64/v3"), ("arm64", "linux/arm64/v8"), ("armv7", "linux/arm/v7"),
        ("armv6", "linux/arm/v6"), ("armv5", "linux/arm/v5"), ("386", "linux/386"), ("s390x", "linux/s390x"), ("unknown", "unknown/unknown"))}

    def entry(name, platform):
        return platform, images[name]
    indexes = {
        "many": [entry("unknown", "unknown/unknown"), entry("amd64", "linux/amd64"), entry("arm64", "linux/arm64/v8"), entry("armv7", "linux/arm/v7"),
                 entry("armv6", "linux/arm/v6"), entry("386", "linux/386"), entry("s390x", "linux/s390x")],
        "variants": [entry("amd64", "linux/amd64"), entry("v2", "linux/amd64/v2"), entry("v3", "linux/amd64/v3")],
        "older": [entry("armv5", "linux/arm/v5"), entry("armv6", "linux/arm/v6")],
        "silent": [entry("amd64", None)], "silent-and-not": [entry("amd64", None), entry("s390x", "linux/s390x")],
        "only-386": [entry("386", "linux/386")], "aliases": [entry("amd64", "linux/x86_64"), entry("arm64", "linux/aarch64")],
        "no-arm": [entry("amd64", "linux/amd64")], "attestation-only": [entry("unknown", "unknown/unknown")]}
    text = "FROM {}{}\nARG TARGETPLATFORM BUILDPLATFORM\nLABEL target=$TARGETPLATFORM build=$BUILDPLATFORM\n"
    for name, entries in indexes.items():
        digest = servers.index(f"index/{name}", entries)["digest"]
        for platform in ("amd64", "amd64/v2", "amd64/v4", "arm64", "arm64/v9", "arm/v7", "arm/v6", "386", "s390x"):
            yield f"index {name} for {platform}", text.format("", f"{host}/index/{name}"), None, ["--platform", f"linux/{platform}"]
        yield f"index {name} by FROM", text.format("--platform=linux/arm64 ", f"{host}/index/{name}"), None, []
        yield f"index {name} by digest", text.format("", f"{host}/index/{name}:any@{digest}"), None, []
        yield f"index {name} as source", f"FROM scratch\nCOPY --from={host}/index/{name} /which /\n", None, ["--platform", "linux/arm64"]
    yield "BUILDPLATFORM", text.format("--platform=$BUILDPLATFORM ", f"{host}/index/many"), None, ["--platform", "linux/arm64"]
    for name in images:
        yield f"image of {name}, unasked", text.format("", f"{host}/one/{name}"), None, []
        yield f"image of {name} for arm64", text.format("", f"{host}/one/{name}"), None, ["--platform", "linux/arm64"]

    path = {"Env": ["PATH=/bin"]}
    bases = {
        "unknown-fields": {"config": dict(path, Foo=1, StopTimeout=5, Hostname="h", Tty=True), "extra": {"z": 1}, "docker_version": "1"},
        "healthcheck": {"config": dict(path, Healthcheck={"Test": ["CMD", "x"], "Interval": 30, "StartInterval": 8, "Retries": 3})},
        "shell": {"config": dict(path, Shell=["/bin/ash", "-ec"], Cmd=["c"], Entrypoint=["e"], ArgsEscaped=True)},
        "sets": {"config": dict(path, Volumes={"/v": {}}, ExposedPorts={"80/tcp": {}}, Labels={"a": "old", "z": "1"}, User="u:g", WorkingDir="/w")},
        "nulls": {"config": dict(path, Volumes=None, ExposedPorts={"80/tcp": None}, Labels=None, OnBuild=None, Cmd=None, User=None), "author": None},
        "null-config": {"config": None}, "null-env": {"config": {"Env": None}}, "no-path": {"config": {"Env": ["A=1", "odd"]}},
        "empty-path": {"config": {"Env": ["PATH=", "A=1", "A=2"]}}, "author": {"author": "me"},
        "triggers": {"config": dict(path, OnBuild=["LABEL o=1", "COPY <<EOF /h\nhi\nEOF\n"])}, "bad-trigger": {"config": dict(path, OnBuild=["NOPE x"])},
        "system": {"os.version": "1.2", "os.features": ["f", "a"]},
        "history": {"history": [{"created": "2001-01-01T00:00:00.5Z", "author": "a", "comment": "c"}, {"created_by": "e", "empty_layer": True},
                                {"created": "2003-01-01T01:00:00+02:00", "created_by": "f", "empty_layer": True}]}}
    for name, config in bases.items():
        servers.image(f"base/{name}", **config)
        for what, rest in (("label", "LABEL a=b"), ("env", "ENV A=9 PATH=/x"), ("cmd", "CMD x"), ("entrypoint", 'ENTRYPOINT ["n"]'),
                           ("copy", "WORKDIR d\nCOPY --from=base which x\nVOLUME /n"), ("child", "FROM base\nUSER n\nHEALTHCHECK NONE")):
            yield f"base {name}, {what}", f"FROM {host}/base/{name} AS base\n{rest}\n", None, []


def of_git(servers):
    one, two = repository(servers.tmp)
    address = f"http://{servers.host}/git/app.git"
    for suffix in ("", "#main", "#v1", "#annotated", "#refs/heads/side/branch", "#side/branch", f"#{one}", "#nowhere", "#:dir", "#v1:dir", "#:nowhere",
                   "?branch=side/branch", "?tag=v1", f"?ref={one}", "?subdir=dir", f"?checksum={two}", f"?tag=v1&checksum={one[:8]}",
                   f"?checksum={one}", "?branch=modules&submodules=0", "?ref=a#b", "?unknown=1", "?keep-git-dir=x"):
        yield f"context {suffix}", None, address + suffix, []
        yield f"ADD {suffix}", f"FROM scratch\nADD {address}{suffix} /d/\n", None, []
        yield f"named context {suffix}", "FROM scratch\nCOPY --from=g . /d/\n", None, ["--build-context", f"g={address}{suffix}"]
    # Beside these files BuildKit has one that leads nowhere.
    modules = "FROM scratch\nCOPY --from=g module/s f .gitmodules /d/\n"
    yield "named context with a submodule", modules, None, ["--build-context", f"g={address}#modules"]
    for flags in ("--chown=3:4", "--chmod=750", "--exclude=dir", "--link", f"--checksum={two}", f"--checksum={one}", "--keep-git-dir=false"):
        yield f"ADD {flags}", f"FROM scratch\nADD {flags} {address} /d/\n", None, []


def of_http(servers):
    files = {"Dockerfile": "FROM scratch\nCOPY . /c/\n", "f": "f\n", ".dockerignore": "g\n", "g": "is here\n"}
    stamped = {"Last-Modified": MODIFIED}
    servers.pages.update({
        "/plain": (200, {}, b"hello\n"), "/stamped": (200, dict(stamped, ETag='"1"'), b"x\n"), "/a b": (200, {}, b"blank\n"), "/dir/": (200, {}, b"d\n"),
        "/named": (200, {"Content-Disposition": 'attachment; filename="other"'}, b"n\n"), "/packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"p\n")),
        "/moved": (302, {"Location": "/stamped"}, b""), "/x.tar": (200, stamped, tarred(files)), "/x.tar.gz": (200, {}, tarred(files, "w:gz")),
        "/x.tar.xz": (200, {}, tarred(files, "w:xz")), "/Dockerfile": (200, {}, b"FROM scratch\nCOPY . /c/\n"), "/bad": (200, {}, b"FROM scratch\nNOPE\n")})
    for page in ("plain", "stamped", "a%20b", "dir/", "named", "packed", "moved", "plain?q=1#f", "x.tar", "x.tar.gz", "nowhere"):
        address = f"http://{servers.host}/{page}"
        yield f"ADD {page} into", f"FROM scratch\nADD {address} /d/\n", None, []
        yield f"ADD {page} as", f"FROM scratch\nADD {address} /d\n", None, []
        yield f"ADD --unpack {page}", f"FROM scratch\nADD --unpack --chmod=700 --chown=3:4 {address} /d/\n", None, []
        yield f"named context {page}", "FROM scratch\nCOPY --from=h . /d/\n", None, ["--build-context", f"h={address}"]
    for page in ("x.tar", "x.tar.gz", "x.tar.xz", "Dockerfile", "bad", "nowhere"):
        yield f"context {page}", None, f"http://{servers.host}/{page}", []
    good = "sha256:" + hashlib.sha256(b"hello\n").hexdigest()
    for flag in (f"--checksum={good}", f"--checksum=sha256:{'0' * 64}", "--checksum=sha256:0", "--checksum=md5:0", "--chmod=a+x", "--link --chown=1"):
        yield f"ADD {flag}", f"FROM scratch\nADD {flag} http://{servers.host}/plain /d/\n", None, []
