#!/usr/bin/env python3
"""Measures rbuild beside buildah in one go and prints ratios.  Run as root:  benches/bench.py [--quick] [--only NAME]

Whole processes, wall clock; each figure is the best of its runs (the machine's noise only ever adds). Stores are temporary and
empty at the start of each cold run. `rootless` columns run rbuild as the user rbuild-multi (tests/setup.sh makes it).
Environment: RBUILD (default target/release/rbuild).  Needs busybox-static; buildah and docker-registry for their columns and rows.
buildah runs with --isolation chroot: its cheapest mode, and the only one that works where cgroups are hybrid.
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


def call(argv, **kw):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)
    if p.returncode:
        sys.exit(f"{' '.join(argv)}\n{p.stdout.decode(errors='replace')[-2000:]}")
    return p.stdout


PEAK = {}                                   # builder's name -> largest resident set of its last timed call, in MiB


def timed(argv, name="", **kw):
    t = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **kw)
        _, status, usage = os.wait4(p.pid, 0)
        t = time.perf_counter() - t
        p.returncode = status
        if status:
            out.seek(0)
            sys.exit(f"{' '.join(argv)}\n{out.read().decode(errors='replace')[-2000:]}")
    PEAK[name] = usage.ru_maxrss / 1024
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
        names = [] if oci else ["-t", "bench:1"]
        return timed(self.argv("--progress=plain", *names, *out, *more, ctx), self.name, env=self.env())


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


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def base(b):
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


def row_noop(tmp, b, runs):
    ctx = context(tmp, "twelve", b, TWELVE, TWELVE_FILES)
    b.fresh()
    b.build(ctx)
    return best(max(runs, 5), lambda: b.build(ctx))


def row_noop_oci(tmp, b, runs):
    ctx = context(tmp, "twelve", b, TWELVE, TWELVE_FILES)
    b.fresh()
    b.build(ctx, True)
    return best(max(runs, 5), lambda: b.build(ctx, True))


def row_cold(tmp, b, runs):
    ctx = context(tmp, "twelve", b, TWELVE, TWELVE_FILES)

    def once():
        b.fresh()
        return b.build(ctx, True)
    return best(runs, once)


def row_runs(tmp, b, runs):
    ctx = context(tmp, "runs", b, "FROM @BASE@\n" + "".join(f"RUN true {i}\n" for i in range(50)))

    def once():
        b.fresh()
        return b.build(ctx)
    return best(runs, once)


def row_stages(tmp, b, runs):
    text = "".join(f"FROM @BASE@ AS s{i}\nRUN sleep 0.5; echo {i} > /o{i}\n" for i in range(32)) + "FROM @BASE@\n"
    ctx = context(tmp, "stages", b, text + "".join(f"COPY --from=s{i} /o{i} /\n" for i in range(32)))

    def once():
        b.fresh()
        return b.build(ctx)
    return best(1, once)


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
        pusher = Rbuild(tmp)
        pusher.fresh()
        call(pusher.argv("tag", "base:latest", self.base))
        call(pusher.argv("push", self.base))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def row_pull(tmp, b, runs):
    if not shutil.which("docker-registry"):
        return None
    registry = Registry(tmp)
    try:
        ctx = context(tmp, "pull", b, TWELVE.replace("@BASE@", registry.base), TWELVE_FILES)
        b.fresh()
        flags = ["--pull-always", "--tls-verify=false"] if isinstance(b, Buildah) else ["--pull"]
        b.build(ctx, False, *flags)
        return best(max(runs, 5), lambda: b.build(ctx, False, *flags))
    finally:
        registry.stop()


def row_plan(tmp, b, runs):
    if isinstance(b, Buildah):
        return None
    lines = ["ARG V=1", "FROM @BASE@ AS s0"]
    for i in range(1, 298):
        lines.append([f"RUN --mount=type=cache,target=/c echo {i} ${{V:-x}} && make \"$T\"", f"ENV T{i % 9}=${{T{(i + 1) % 9}}}-{i}",
                      f"COPY --from=s{(i - 1) // 60} /a{i} /b{i}", f"LABEL a{i}=\"b ${{V}}\"", f"ARG X{i}=${{V}}",
                      f"WORKDIR /w/{i}"][i % 6] if i % 60 else f"FROM @BASE@ AS s{i // 60}")
    ctx = context(tmp, "plan", b, "\n".join(lines).replace("--from=s0", "--from=@BASE@") + "\nCMD [\"x\"]\n")
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


def row_copy_from(tmp, b, runs):
    n = SIZES["files"] // 2
    # The files are made by a RUN; an unrelated RUN after it in the same stage changes.
    make = f"mkdir /t; cd /t; for d in $(seq {n // 100}); do mkdir $d; for f in $(seq 100); do echo $d $f >$d/$f; done; done"
    ctx = context(tmp, "from", b, f"FROM @BASE@ AS made\nRUN {make}\nCOPY one /one\nFROM @BASE@\nCOPY --from=made /t /t\n",
                  [("one", "0\n")])
    b.fresh()
    b.build(ctx)

    def once(i):
        write(ctx + "/one", f"{i}\n")
        return b.build(ctx)
    return min(once(i) for i in range(1, 4))


def row_data(tmp, b, runs, then=None, peak=False):
    # Half random, half like programs, as layers are.
    cmd = f"for i in $(seq {SIZES['MiB'] // 16}); do dd if=/dev/urandom of=/r$i bs=1M count=8 2>/dev/null; " \
          "for n in 1 2 3 4; do cat /bin/busybox; done >/t$i; done"
    ctx = context(tmp, "data", b, f"FROM @BASE@\nRUN {cmd}\nLABEL a=0\n")
    b.fresh()
    oci = then != "label"
    t = b.build(ctx, oci)
    if peak:
        return PEAK[b.name] / 1000      # shown in MiB
    if then == "again":
        t = best(2, lambda: b.build(ctx, True))
    elif then == "label":
        def once(n):
            text = open(ctx + "/Dockerfile").read().rsplit("LABEL", 1)[0]
            write(ctx + "/Dockerfile", f"{text}LABEL a={n}\n")
            return b.build(ctx)
        t = min(once(n) for n in range(1, 4))
    return t


SIZES = {"files": 20000, "MiB": 256}
LARGE = {"files": 100000, "MiB": 1024}
SLOW = (row_many, row_data, row_copy_from)


def rows():
    files, data = f"{SIZES['files']:,}", f"{SIZES['MiB']} MiB"
    return [
        ("no-op rebuild of a 12-step two-stage build, store", row_noop, {}),
        ("the same, OCI tar", row_noop_oci, {}),
        ("the same with --pull, store", row_pull, {}),
        ("cold build of it, OCI tar", row_cold, {}),
        ("50 x RUN true, cold, store", row_runs, {}),
        ("32 stages of sleep 0.5 joined by COPY --from", row_stages, {}),
        (f"COPY of {files} files cold, store", row_many, dict(oci=False)),
        ("unchanged rebuild over it, store", row_many, dict(oci=False, then="again")),
        ("one file of it changed, store", row_many, dict(oci=False, then="one file")),
        (f"COPY of {files} files cold, OCI tar", row_many, dict(oci=True)),
        ("unchanged rebuild over it, OCI tar", row_many, dict(oci=True, then="again")),
        ("one file of it changed, OCI tar", row_many, dict(oci=True, then="one file")),
        (f"RUN writing {data}, gzip OCI tar", row_data, {}),
        ("its largest process, MiB", row_data, dict(peak=True)),
        ("the same again, nothing changed", row_data, dict(then="again")),
        ("LABEL changed on it, store", row_data, dict(then="label")),
        (f"COPY --from of {SIZES['files'] // 2:,} files after an unrelated change in their stage", row_copy_from, {}),
        ("parse and plan of a 300-line Dockerfile (\"plan\" less \"images\")", row_plan, {}),
    ]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="one run a figure, without the large rows")
    p.add_argument("--large", action="store_true", help="100,000 files and 1 GiB instead of 20,000 and 256 MiB")
    p.add_argument("--only", help="rows whose name contains this")
    o = p.parse_args()
    if o.large:
        SIZES.update(LARGE)
    if os.geteuid():
        sys.exit("run as root: buildah's and rbuild's root modes are compared")
    tmp = tempfile.mkdtemp(prefix="rbuild-bench-")
    os.chmod(tmp, 0o755)
    call([os.path.join(TOP, "examples/busybox-rootfs.sh"), os.path.join(tmp, "busybox.tar")])
    os.chmod(os.path.join(tmp, "busybox.tar"), 0o644)
    builders = [Rbuild(tmp)]
    try:
        pwd.getpwnam("rbuild-multi")
        builders.append(Rbuild(tmp, "rbuild-multi"))
    except KeyError:
        print("no user rbuild-multi (tests/setup.sh): no rootless column")
    if shutil.which("buildah"):
        builders.append(Buildah(tmp))
    else:
        print("no buildah: no peer to compare with")
    print("| work | " + " | ".join(b.name for b in builders) + " | buildah / rbuild |")
    print("|---|" + "---|" * (len(builders) + 1))
    try:
        for name, f, kw in rows():
            if (o.only and o.only not in name) or (o.quick and f in SLOW):
                continue
            t = [f(tmp, b, 1 if o.quick else 3, **kw) for b in builders]
            both = isinstance(builders[-1], Buildah) and None not in (t[-1], t[0]) and t[0] > 0
            ratio = f"{t[-1] / t[0]:.1f}" if both else "-"
            unit = "" if "MiB" in name and kw.get("peak") else " ms"
            shown = ["-" if x is None else f"{x * 1000:.{1 if x < 0.01 else 0}f}{unit}" for x in t]
            print(f"| {name} | " + " | ".join(shown) + f" | {ratio} |", flush=True)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", tmp], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", tmp], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
