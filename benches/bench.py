#!/usr/bin/env python3
"""Measures rbuild beside buildah, BuildKit and pigz in one go and prints ratios.  Run as root:

    benches/bench.py [--quick] [--large] [--only TEXT] [--runs N]

Whole processes; wall clock unless a row says CPU; each figure is the best of its runs (the machine's noise only ever adds). Stores
are temporary and empty at the start of each cold run. `rootless` columns run rbuild as the user rbuild-multi (tests/setup.sh makes
it). What fails is said in its cell and at the end, the other rows go on, and the exit status is 1.

Environment: RBUILD (default target/release/rbuild); BUILDKIT_HOST, and BUILDCTL if buildctl is not in PATH, for BuildKit's column.
Needs busybox-static and docker-registry; buildah, pigz for their columns. buildah runs with --isolation chroot: its cheapest mode,
and the only one that works where cgroups are hybrid. BuildKit has no store to leave a result in: its figures end in an OCI tar or a
push, and its cold ones are --no-cache (its daemon may serve others, so it is not emptied).
--large takes the sizes of the design: 100,000 files and 1 GiB.
"""
import argparse
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RBUILD = os.environ.get("RBUILD", os.path.join(TOP, "target/release/rbuild"))


class Failed(Exception):
    """A program did not do what it should; its last words."""


def call(argv, **kw):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)
    if p.returncode:
        raise Failed(f"{' '.join(argv)}\n{p.stdout.decode(errors='replace')[-2000:]}")
    return p.stdout


PEAK = {}                                   # builder's name -> largest resident set of its last timed call, in MiB
CPU = {}                                    # builder's name -> CPU seconds of its last timed call, children included


def timed(argv, name="", **kw):
    t = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **kw)
        _, status, usage = os.wait4(p.pid, 0)
        t = time.perf_counter() - t
        p.returncode = status
        if status:
            out.seek(0)
            raise Failed(f"{' '.join(argv)}\n{out.read().decode(errors='replace')[-2000:]}")
    PEAK[name] = usage.ru_maxrss / 1024
    CPU[name] = usage.ru_utime + usage.ru_stime
    return t


class Rbuild:
    """rbuild with a store of its own."""
    def __init__(self, tmp, user=None):
        self.name, self.user = ("rbuild rootless" if user else "rbuild"), user
        self.dir = tempfile.mkdtemp(dir=tmp)
        if user:
            shutil.chown(self.dir, user, user)
        self.tar = os.path.join(tmp, "busybox.tar")

    def argv(self, *a):
        pre = ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups", "--"] if self.user else []
        return [*pre, RBUILD, "--root", os.path.join(self.dir, "store"), *a]

    def fresh(self):
        call(["rm", "-rf", os.path.join(self.dir, "store")])
        call(self.argv("import", self.tar, "base:latest"), env=self.env())

    def env(self):
        return {**os.environ, "HOME": self.dir}

    def build(self, ctx, oci=False, *more):
        out = ["-o", f"type=oci,dest={self.dir}/out.tar"] if oci else []
        names = [] if oci or "--push" in more else ["-t", "bench:1"]
        return timed(self.argv("--progress=plain", *names, *out, *more, ctx), self.name, env=self.env())

    def push(self, ctx, name):
        return self.build(ctx, False, "-t", name, "--push")


class Buildah:
    """buildah with a store of its own; with layers, as people use it."""
    def __init__(self, tmp):
        self.name = "buildah"
        self.dir = tempfile.mkdtemp(dir=tmp)
        self.tar = os.path.join(tmp, "busybox.tar")
        self.driver = "overlay"

    def argv(self, *a):
        s = os.path.join(self.dir, "s")
        return ["buildah", "--root", s + "/root", "--runroot", s + "/run", "--storage-driver", self.driver, *a]

    def fresh(self):
        call(["rm", "-rf", os.path.join(self.dir, "s")])
        c = call(self.argv("from", "scratch")).decode().strip().splitlines()[-1]
        call(self.argv("add", "--quiet", c, self.tar, "/"))
        call(self.argv("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c))
        call(self.argv("commit", "--quiet", "--rm", c, "localhost/base:latest"))

    def build(self, ctx, oci=False, *more):
        pull = [] if more else ["--pull-never"]
        t = timed(self.argv("build", "--isolation", "chroot", "--layers", "--jobs", "0", *pull, "-t", "bench:1", *more, ctx), self.name)
        if oci:
            out = f"{self.dir}/out.tar"
            if os.path.exists(out):
                os.unlink(out)
            peak = PEAK[self.name]
            t += timed(self.argv("push", "--quiet", "bench:1", f"oci-archive:{out}"), self.name)
            PEAK[self.name] = max(PEAK[self.name], peak)
        return t

    def push(self, ctx, name):
        t = self.build(ctx)
        return t + timed(self.argv("push", "--quiet", "--tls-verify=false", "bench:1", f"docker://{name}"), self.name)


class BuildKit:
    """The daemon that BUILDKIT_HOST names; its base image comes from a registry on loopback."""
    def __init__(self, tmp, registry):
        self.name = "BuildKit"
        self.dir = tempfile.mkdtemp(dir=tmp)
        self.registry = registry
        self.cold = True

    def fresh(self):
        self.cold = True

    def build(self, ctx, oci=False, *more, output=None):
        buildctl = os.environ.get("BUILDCTL") or "buildctl"
        cold = ["--no-cache"] if self.cold else []
        output = output or f"type=oci,dest={self.dir}/out.tar"
        argv = [buildctl, "build", "--frontend", "dockerfile.v0", "--local", f"context={ctx}", "--local", f"dockerfile={ctx}",
                "--progress=plain", "--output", output, *cold, *more]
        t = timed(argv, self.name)
        self.cold = False
        return t

    def push(self, ctx, name):
        return self.build(ctx, output=f"type=image,name={name},push=true,registry.insecure=true")


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def base(b):
    if isinstance(b, BuildKit):
        return b.registry.base
    return "localhost/base:latest" if isinstance(b, Buildah) else "base:latest"


def context(tmp, name, b, dockerfile, files=()):
    ctx = os.path.join(tmp, f"{name}-{b.name.replace(' ', '-')}")
    shutil.rmtree(ctx, ignore_errors=True)
    for n, text in files:
        write(os.path.join(ctx, n), text)
    write(os.path.join(ctx, "Dockerfile"), dockerfile.replace("@BASE@", base(b)))
    if getattr(b, "user", None):
        call(["chown", "-R", b.user, ctx])
    return ctx


TWELVE = """FROM @BASE@ AS build
WORKDIR /src
COPY go.mod ./
RUN echo 1 > /one
COPY src ./src
RUN echo 2 > /two
RUN cat src/main > /out && chmod 0755 /out

FROM @BASE@
RUN echo 3 > /three
WORKDIR /app
COPY --from=build /out /app/out
RUN echo 4 > /four
COPY conf /etc/conf
RUN echo 5 > /five && ls /app > /dev/null
RUN true
CMD ["/app/out"]
"""
TWELVE_FILES = [("go.mod", "module x\n"), ("src/main", "#!/bin/sh\necho hi\n"), ("conf/a", "1\n"), ("conf/b", "2\n")]


def best(n, f):
    return min(f() for _ in range(n))


def row_noop(tmp, b, runs, oci=False):
    ctx = context(tmp, "twelve", b, TWELVE, TWELVE_FILES)
    b.fresh()
    b.build(ctx, oci)
    return best(max(runs, 5), lambda: b.build(ctx, oci))


def row_cold(tmp, b, runs):
    ctx = context(tmp, "twelve", b, TWELVE, TWELVE_FILES)

    def once():
        b.fresh()
        return b.build(ctx, True)
    return best(runs, once)


def row_runs(tmp, b, runs, oci=False):
    ctx = context(tmp, "runs", b, "FROM @BASE@\n" + "".join(f"RUN true {i}\n" for i in range(50)))

    def once():
        b.fresh()
        return b.build(ctx, oci)
    return best(runs, once)


def row_stages(tmp, b, runs):
    text = "".join(f"FROM @BASE@ AS s{i}\nRUN sleep 0.5; echo {i} > /o{i}\n" for i in range(32)) + "FROM @BASE@\n"
    ctx = context(tmp, "stages", b, text + "".join(f"COPY --from=s{i} /o{i} /\n" for i in range(32)))
    b.fresh()
    return b.build(ctx, True)


def many(tmp, n):
    src = os.path.join(tmp, f"many-{n}")
    if not os.path.isdir(src):
        for d in range(n // 100):
            os.makedirs(f"{src}/d{d}")
            for f in range(100):
                with open(f"{src}/d{d}/f{f}", "wb") as o:
                    o.write(os.urandom(2048) + bytes(2048 + (d * 100 + f) % 1500))
    return src


class Registry:
    """Debian's docker-registry on loopback, with the base image in it."""
    def __init__(self, tmp):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]
        config = os.path.join(tmp, "registry.yml")
        write(config, f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp}/registry}}}}\n"
                      f"http: {{addr: {self.address}}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(tuple(self.address.split(":"))).close()
                break
            except OSError:
                time.sleep(0.05)
        self.base = f"{self.address}/base:latest"
        self.count = 0
        pusher = Rbuild(tmp)
        pusher.fresh()
        call(pusher.argv("tag", "base:latest", self.base))
        call(pusher.argv("push", self.base))

    def name(self, what):
        """A repository that nothing was pushed to yet."""
        self.count += 1
        return f"{self.address}/{what}{self.count}:latest"

    def stop(self):
        self.process.terminate()
        self.process.wait()


REGISTRY = None


def row_pull(tmp, b, runs):
    ctx = context(tmp, "pull", b, TWELVE.replace("@BASE@", REGISTRY.base), TWELVE_FILES)
    b.fresh()
    flags = ["--pull-always", "--tls-verify=false"] if isinstance(b, Buildah) else ["--pull"]
    b.build(ctx, False, *flags)
    return best(max(runs, 5), lambda: b.build(ctx, False, *flags))


def row_ci(tmp, b, runs):
    """Everything in the registry's cache, an empty store, a push."""
    if isinstance(b, Buildah):
        return None                         # its cache in a registry is pulled layer by layer, and keyed by history
    # Both start from the registry: a fresh machine has no base image either.
    ctx = context(tmp, "ci", b, TWELVE.replace("@BASE@", REGISTRY.base), TWELVE_FILES)
    cache, name = REGISTRY.name("cache"), REGISTRY.name("ci")
    if isinstance(b, BuildKit):
        export = ["--export-cache", f"type=registry,ref={cache},mode=max,registry.insecure=true"]
        take = ["--import-cache", f"type=registry,ref={cache},registry.insecure=true"]
        out = dict(output=f"type=image,name={name},push=true,registry.insecure=true")
        b.fresh()
        b.build(ctx, False, *export, **out)

        def once():
            # The only one whose store is not empty: it is not ours to empty.
            return b.build(ctx, False, *take, **out)
    else:
        b.fresh()
        b.build(ctx, False, "-t", name, "--push", "--cache-to", f"type=registry,ref={cache},mode=max")

        def once():
            b.fresh()
            return b.build(ctx, False, "-t", name, "--push", "--cache-from", f"type=registry,ref={cache}")
    return best(max(runs, 3), once)


def row_plan(tmp, b, runs):
    if not isinstance(b, Rbuild):
        return None
    lines = ["ARG V=1", "FROM @BASE@ AS s0"]
    for i in range(1, 298):
        lines.append([f"RUN --mount=type=cache,target=/c echo {i} ${{V:-x}} && make \"$T\"", f"ENV T{i % 9}=${{T{(i + 1) % 9}}}-{i}",
                      f"COPY --from={f's{i // 60 - 1}' if i >= 60 else '@BASE@'} /a{i} /b{i}", f"LABEL a{i}=\"b ${{V}}\"", f"ARG X{i}=${{V}}",
                      f"WORKDIR /w/{i}"][i % 6] if i % 60 else f"FROM @BASE@ AS s{i // 60}")
    ctx = context(tmp, "plan", b, "\n".join(lines) + "\nCMD [\"x\"]\n")
    b.fresh()
    nothing = best(20, lambda: timed(b.argv("images"), b.name, env=b.env()))
    whole = best(20, lambda: timed(b.argv("plan", ctx), b.name, env=b.env()))
    return max(whole - nothing, 0.0)


def many_context(tmp, b, n):
    ctx = context(tmp, "many", b, "FROM @BASE@\nCOPY tree /tree\n")
    call(["cp", "-a", many(tmp, n), ctx + "/tree"])
    if getattr(b, "user", None):
        call(["chown", "-R", b.user, ctx])
    time.sleep(2.1)                     # so that the tree is older than the stat cache's racy window
    b.fresh()
    return ctx


def row_many(tmp, b, runs, oci, then=None):
    ctx = many_context(tmp, b, SIZES["files"])
    t = b.build(ctx, oci)
    if then == "again":
        t = best(3, lambda: b.build(ctx, oci))
    elif then == "one file":
        def once(n):
            write(f"{ctx}/tree/d7/f7", f"changed {n}\n")
            return b.build(ctx, oci)
        t = min(once(n) for n in range(3))
    shutil.rmtree(ctx)
    return t


def row_copy_from(tmp, b, runs, oci=False):
    n = SIZES["files"] // 2
    # The files are made by a RUN; an unrelated RUN after it in the same stage changes.
    make = f"mkdir /t; cd /t; for d in $(seq {n // 100}); do mkdir $d; for f in $(seq 100); do echo $d $f >$d/$f; done; done"
    ctx = context(tmp, "from", b, f"FROM @BASE@ AS made\nRUN {make}\nCOPY one /one\nFROM @BASE@\nCOPY --from=made /t /t\n",
                  [("one", "0\n")])
    b.fresh()
    b.build(ctx, oci)

    def once(i):
        write(ctx + "/one", f"{i}\n")
        return b.build(ctx, oci)
    return min(once(i) for i in range(1, 4))


def data_context(tmp, b):
    """Half random, half like programs, as layers are."""
    cmd = f"for i in $(seq {SIZES['MiB'] // 16}); do dd if=/dev/urandom of=/r$i bs=1M count=8 2>/dev/null; " \
          "for n in 1 2 3 4; do cat /bin/busybox; done >/t$i; done"
    return context(tmp, "data", b, f"FROM @BASE@\nRUN {cmd}\nLABEL a=0\n")


def relabelled(ctx, n):
    text = open(ctx + "/Dockerfile").read().rsplit("LABEL", 1)[0]
    write(ctx + "/Dockerfile", f"{text}LABEL a={n}\n")


def row_data(tmp, b, runs, then=None):
    ctx = data_context(tmp, b)
    b.fresh()
    t = b.build(ctx, then != "label")
    if then == "peak":
        # BuildKit's work is done by its daemon, whose memory is not this build's alone.
        return None if isinstance(b, BuildKit) else PEAK[b.name]
    if then == "again":
        t = best(2, lambda: b.build(ctx, True))
    elif then == "label":
        def once(n):
            relabelled(ctx, n)
            return b.build(ctx)
        t = min(once(n) for n in range(1, 4))
    return t


def row_push(tmp, b, runs, then=None):
    ctx = data_context(tmp, b)
    b.fresh()
    name = REGISTRY.name("data")
    t = b.push(ctx, name)
    if then == "peak":
        return None if isinstance(b, BuildKit) else PEAK[b.name]
    if then == "label":
        def once(n):
            relabelled(ctx, n)
            return b.push(ctx, name)
        t = min(once(n) for n in range(1, 4))
    return t


def row_ahead(tmp, b, runs):
    """Layers that can be compressed while a later step waits for something."""
    each = SIZES["MiB"] // 4

    def data(n):
        return f"RUN for i in $(seq {each // 16}); do dd if=/dev/urandom of=/r{n}-$i bs=1M count=8 2>/dev/null; " \
               f"for m in 1 2 3 4; do cat /bin/busybox; done >/t{n}-$i; done\n"
    ctx = context(tmp, "ahead", b, "FROM @BASE@\n" + data(1) + data(2) + data(3) + "RUN sleep 3\n")
    b.fresh()
    return b.push(ctx, REGISTRY.name("ahead"))


def row_pack(tmp, b, runs):
    """CPU seconds of going from an image in the store to a gzip OCI tar."""
    if isinstance(b, BuildKit):
        return None                         # its CPU is its daemon's
    ctx = data_context(tmp, b)
    b.fresh()
    b.build(ctx)
    if isinstance(b, Buildah):
        out = f"{b.dir}/out.tar"
        if os.path.exists(out):
            os.unlink(out)
        timed(b.argv("push", "--quiet", "bench:1", f"oci-archive:{out}"), b.name)
    else:
        timed(b.argv("save", "--format", "oci", "-o", f"{b.dir}/out.tar", "bench:1"), b.name, env=b.env())
    return CPU[b.name]


def pigz(tmp, b):
    """CPU seconds of pigz on the same layer as a tar."""
    if not shutil.which("pigz"):
        return None
    ctx = data_context(tmp, b)
    tar = f"{b.dir}/files.tar"
    timed(b.argv("--progress=plain", "-o", f"type=tar,dest={tar}", ctx), b.name, env=b.env())
    timed(["sh", "-c", f"pigz -c {tar} >{tar}.gz"], "pigz")
    os.unlink(tar + ".gz")
    os.unlink(tar)
    return CPU["pigz"]


SIZES = {"files": 20000, "MiB": 256}
LARGE = {"files": 100000, "MiB": 1024}
SLOW = (row_many, row_data, row_push, row_ahead, row_pack, row_copy_from, row_stages)
STORE, OCI = dict(oci=False), dict(oci=True)
SECONDS, MEMORY = "s", "MiB"


def rows():
    """Name, function, its options, unit; those that end in the store have no figure of BuildKit."""
    files, data = f"{SIZES['files']:,}", f"{SIZES['MiB']} MiB"
    half = f"{SIZES['files'] // 2:,}"
    return [
        ("no-op rebuild of a 12-step two-stage build, store", row_noop, STORE, SECONDS),
        ("the same, OCI tar", row_noop, OCI, SECONDS),
        ("the same with --pull, store", row_pull, {}, SECONDS),
        ("cold build of it, OCI tar", row_cold, {}, SECONDS),
        ("CI: empty store, everything in the registry cache, push", row_ci, {}, SECONDS),
        ("50 x RUN true, cold, store", row_runs, STORE, SECONDS),
        ("50 x RUN true, cold, OCI tar", row_runs, OCI, SECONDS),
        ("32 stages of sleep 0.5 joined by COPY --from, OCI tar", row_stages, {}, SECONDS),
        (f"COPY of {files} files cold, store", row_many, STORE, SECONDS),
        ("unchanged rebuild over it, store", row_many, dict(oci=False, then="again"), SECONDS),
        ("one file of it changed, store", row_many, dict(oci=False, then="one file"), SECONDS),
        (f"COPY of {files} files cold, OCI tar", row_many, OCI, SECONDS),
        ("unchanged rebuild over it, OCI tar", row_many, dict(oci=True, then="again"), SECONDS),
        ("one file of it changed, OCI tar", row_many, dict(oci=True, then="one file"), SECONDS),
        (f"RUN writing {data}, gzip OCI tar", row_data, {}, SECONDS),
        ("its largest process", row_data, dict(then="peak"), MEMORY),
        ("the same again, nothing changed", row_data, dict(then="again"), SECONDS),
        ("LABEL changed on it, store", row_data, dict(then="label"), SECONDS),
        (f"RUN writing {data}, push", row_push, {}, SECONDS),
        ("its largest process, push", row_push, dict(then="peak"), MEMORY),
        ("LABEL changed on it, push", row_push, dict(then="label"), SECONDS),
        (f"three RUNs writing {SIZES['MiB'] // 4} MiB each, one that sleeps 3 s, push", row_ahead, {}, SECONDS),
        (f"packing {data} of the store as a gzip OCI tar, CPU", row_pack, {}, SECONDS),
        (f"COPY --from of {half} files after an unrelated change in their stage, store", row_copy_from, STORE, SECONDS),
        ("the same, OCI tar", row_copy_from, OCI, SECONDS),
        ("parse and plan of a 300-line Dockerfile (\"plan\" less \"images\")", row_plan, {}, SECONDS),
    ]


def in_store(name):
    return name.endswith("store")


def shown(value, unit):
    if value is None:
        return "-"
    if isinstance(value, Failed):
        return "failed"
    if unit == MEMORY:
        return f"{value:.0f} MiB"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.{1 if value < 0.01 else 0}f} ms"


def main():
    global REGISTRY
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="one run a figure, without the large rows")
    p.add_argument("--large", action="store_true", help="100,000 files and 1 GiB instead of 20,000 and 256 MiB")
    p.add_argument("--only", help="rows whose name contains this")
    p.add_argument("--runs", type=int, default=3, help="runs a figure, where one is not enough")
    o = p.parse_args()
    if o.large:
        SIZES.update(LARGE)
    if os.geteuid():
        sys.exit("run as root: buildah's and rbuild's root modes are compared")
    if not os.access(RBUILD, os.X_OK):
        sys.exit(f"no {RBUILD}: cargo build --release, or set RBUILD")
    tmp = tempfile.mkdtemp(prefix="rbuild-bench-")
    os.chmod(tmp, 0o755)
    faults = []
    try:
        call([os.path.join(TOP, "examples/busybox-rootfs.sh"), os.path.join(tmp, "busybox.tar")])
        os.chmod(os.path.join(tmp, "busybox.tar"), 0o644)
        REGISTRY = Registry(tmp)
        builders = [Rbuild(tmp)]
        try:
            pwd.getpwnam("rbuild-multi")
            builders.append(Rbuild(tmp, "rbuild-multi"))
        except KeyError:
            print("no user rbuild-multi (tests/setup.sh): no rootless column\n")
        peers = []
        if shutil.which("buildah"):
            peers.append(Buildah(tmp))
        if os.environ.get("BUILDKIT_HOST"):
            peers.append(BuildKit(tmp, REGISTRY))
        if not peers:
            print("neither buildah nor BUILDKIT_HOST: no peer to compare with\n")
        builders += peers
        heads = [b.name for b in builders] + [f"{b.name} / rbuild" for b in peers]
        print("| work | " + " | ".join(heads) + " |")
        print("|---|" + "---|" * len(heads))
        for name, f, kw, unit in rows():
            if (o.only and o.only not in name) or (o.quick and f in SLOW):
                continue
            values = {}
            for b in builders:
                try:
                    nothing = in_store(name) and isinstance(b, BuildKit)
                    values[b.name] = None if nothing else f(tmp, b, 1 if o.quick else o.runs, **kw)
                except (Failed, OSError) as fault:
                    values[b.name] = Failed(str(fault))
                    faults.append(f"{name}, {b.name}: {fault}")
            ours = values["rbuild"]

            def ratio(value):
                numbers = isinstance(ours, float) and isinstance(value, float) and ours > 0
                return f"{value / ours:.1f}" if numbers else "-"
            cells = [shown(values[b.name], unit) for b in builders] + [ratio(values[b.name]) for b in peers]
            if f is row_pack and isinstance(ours, float):
                try:
                    beside = pigz(tmp, builders[0])
                    name += f" (pigz alone on its tar: {shown(beside, unit)}, {ratio(beside)} times rbuild's)"
                except (Failed, OSError) as fault:
                    faults.append(f"{name}, pigz: {fault}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    except Failed as fault:
        faults.append(str(fault))
    finally:
        if REGISTRY:
            REGISTRY.stop()
        subprocess.run(["chmod", "-R", "u+rwx", tmp], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", tmp], stderr=subprocess.DEVNULL)
    for fault in faults:
        print(f"\nfailed: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
