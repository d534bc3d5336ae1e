#!/usr/bin/env python3
"""Measures rbuild beside buildah in one go and prints ratios.  Run as root:  benches/bench.py [--quick] [--only NAME]

Whole processes, wall clock; each figure is the best of its runs (the machine's noise only ever adds). Stores are temporary and
empty at the start of each cold run. `rootless` rows run rbuild as the user rbuild-multi (tests/setup.sh makes it).
Environment: RBUILD (default target/release/rbuild).  Needs buildah, skopeo and busybox-static.
"""
import argparse
import os
import pwd
import shutil
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


def timed(argv, **kw):
    t = time.perf_counter()
    call(argv, **kw)
    return time.perf_counter() - t


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
        return timed(self.argv("--progress=plain", "-t", "bench:1", *out, *more, ctx), env=self.env())


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
        t = timed(self.argv("build", "--layers", "--jobs", "0", "--pull-never", "-t", "bench:1", *more, ctx))
        if oci:
            out = f"{self.dir}/out.tar"
            if os.path.exists(out):
                os.unlink(out)
            t += timed(self.argv("push", "--quiet", "bench:1", f"oci-archive:{out}"))
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


def row_many(tmp, b, runs, n, oci, again):
    ctx = context(tmp, "many", b, "FROM @BASE@\nCOPY tree /tree\n")
    call(["cp", "-a", many(tmp, n), ctx + "/tree"])
    if getattr(b, "user", None):
        call(["chown", "-R", b.user, ctx])
    time.sleep(2.1)                     # so that the tree is older than the stat cache's racy window
    b.fresh()
    t = b.build(ctx, oci)
    if again:
        t = best(3, lambda: b.build(ctx, oci))
    shutil.rmtree(ctx)
    return t


def row_gib(tmp, b, runs, again):
    # text-like and random halves, as layers are
    cmd = "for i in $(seq 1 64); do dd if=/dev/urandom of=/r$i bs=1M count=4 2>/dev/null; " \
          "dd if=/linuxrc of=/t$i bs=1M count=12 2>/dev/null || dd if=/bin/busybox of=/t$i bs=1M count=12 2>/dev/null; done"
    ctx = context(tmp, "gib", b, f"FROM @BASE@\nRUN {cmd}\n")
    b.fresh()
    t = b.build(ctx, True)
    return best(2, lambda: b.build(ctx, True)) if again else t


ROWS = [
    ("no-op rebuild of a 12-step two-stage build, store", row_noop, {}),
    ("the same, OCI tar", row_noop_oci, {}),
    ("cold build of it, OCI tar", row_cold, {}),
    ("50 x RUN true, cold, store", row_runs, {}),
    ("32 stages of sleep 0.5 joined by COPY --from", row_stages, {}),
    ("COPY of 20,000 files cold, store", row_many, dict(n=20000, oci=False, again=False)),
    ("unchanged rebuild over it, store", row_many, dict(n=20000, oci=False, again=True)),
    ("COPY of 20,000 files cold, OCI tar", row_many, dict(n=20000, oci=True, again=False)),
    ("RUN writing about 500 MiB, gzip OCI tar", row_gib, dict(again=False)),
    ("the same again, nothing changed", row_gib, dict(again=True)),
]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="one run a figure, without the large rows")
    p.add_argument("--only", help="rows whose name contains this")
    o = p.parse_args()
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
        for name, f, kw in ROWS:
            if (o.only and o.only not in name) or (o.quick and f in (row_many, row_gib)):
                continue
            t = [f(tmp, b, 1 if o.quick else 3, **kw) for b in builders]
            ratio = f"{t[-1] / t[0]:.1f}" if isinstance(builders[-1], Buildah) else "-"
            print(f"| {name} | " + " | ".join(f"{x * 1000:.0f} ms" for x in t) + f" | {ratio} |", flush=True)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", tmp], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", tmp], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
