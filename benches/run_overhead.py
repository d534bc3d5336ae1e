#!/usr/bin/env python3
"""What one RUN costs: rbuild beside runc and crun, as root and as an ordinary user; prints a table with ratios.

    benches/run_overhead.py [--runs N] [--rounds N]         (as root)

rbuild's step is the whole of it (key, root, sandbox, layer of what changed, record): the time between the ends of two RUNs that follow
one another. The runtimes' is `run` of the same program in a ready root, without overlay, layer or system call filter, so they are
flattered. Rounds are interleaved; the best single one of each counts, since noise only ever adds. Processor time is the mean of
a round, the best of all rounds; it says more on a busy machine, whose load is printed with the table.
Environment: RBUILD (default target/release/rbuild).  Needs busybox-static, runc and crun; what is missing is left out and named.
"""
import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RBUILD = os.environ.get("RBUILD", os.path.join(TOP, "target/release/rbuild"))
BOTH_KINDS = "/sys/fs/cgroup/unified"
USER = "rbuild-multi"                       # tests/setup.sh makes it


def call(argv, **kw):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)
    if p.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {p.stdout.decode(errors='replace')[-500:].strip()}")
    return p.stdout


def seconds(argv, **kw):
    begin = time.perf_counter()
    call(argv, **kw)
    return time.perf_counter() - begin


def processors(work):
    """Seconds of processor time of what `work` starts, and what it returns."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    before = used()
    result = work()
    return used() - before, result


def as_user(user, argv):
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", *argv] if user else argv


class Rbuild:
    """Steps of a build."""
    def __init__(self, tmp, user, tar):
        self.user, self.dir = user, tempfile.mkdtemp(dir=tmp)
        binary = os.path.join(self.dir, "rbuild")
        shutil.copy(RBUILD, binary)
        self.binary, self.salt = binary, 0
        call(["chown", "-R", user or "root", self.dir])
        self.rbuild("import", tar, "base:latest")

    def rbuild(self, *args):
        store = os.path.join(self.dir, "store")
        return call(as_user(self.user, [self.binary, "--root", store, *args]), env={**os.environ, "HOME": self.dir})

    def build(self, steps):
        context = os.path.join(self.dir, "context")
        os.makedirs(context, exist_ok=True)
        self.salt += 1
        with open(os.path.join(context, "Dockerfile"), "w") as f:
            f.write(f"FROM base:latest\nENV SALT={self.salt}\n" + 'RUN ["/bin/busybox", "true"]\n' * steps)
        log = self.rbuild("build", "--no-cache", "--progress=rawjson", context).decode()
        ends = {}
        for line in log.splitlines():
            for vertex in json.loads(line).get("vertexes") or []:
                if "RUN" in vertex["name"] and vertex.get("completed"):
                    # Seconds, and digits of a second that may be nine.
                    whole, _, part = vertex["completed"].rstrip("Z").partition(".")
                    ends[vertex["digest"]] = datetime.datetime.fromisoformat(whole).timestamp() + float(f"0.{part or 0}")
        return sorted(ends.values())

    def each(self, runs):
        """The best step, and the mean processor time of one."""
        alone, _ = processors(lambda: self.build(1))
        all_of_them, ends = processors(lambda: self.build(runs + 1))
        return min(b - a for a, b in zip(ends, ends[1:])), (all_of_them - alone) / runs


class Runtime:
    """`run` of an OCI runtime."""
    def __init__(self, tmp, user, tar, name, options):
        self.user, self.dir, self.argv, self.count = user, tempfile.mkdtemp(dir=tmp), [name, *options], 0
        root = os.path.join(self.dir, "rootfs")
        os.mkdir(root)
        call(["tar", "-xf", tar, "-C", root])
        call(["chown", "-R", user or "root", self.dir])
        call(as_user(user, ["runc", "spec", *(["--rootless"] if user else [])]), cwd=self.dir)
        path = os.path.join(self.dir, "config.json")
        with open(path) as f:
            config = json.load(f)
        config["process"].update(terminal=False, args=["/bin/busybox", "true"])
        with open(path, "w") as f:
            json.dump(config, f)
        self.once()

    def once(self):
        self.count += 1
        state = os.path.join(self.dir, "state")
        argv = [*self.argv, "--root", state, "run", f"bench-{os.getpid()}-{self.count}"]
        return seconds(as_user(self.user, argv), cwd=self.dir, env={**os.environ, "XDG_RUNTIME_DIR": self.dir})

    def each(self, runs):
        used, times = processors(lambda: [self.once() for _ in range(runs)])
        return min(times), used / runs


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    if os.getuid() != 0:
        sys.exit("run_overhead.py: needs root (and becomes an ordinary user itself)")
    if os.path.ismount(BOTH_KINDS):
        # crun refuses to start where there are control groups of both kinds: for us there is one.
        script = f'umount {BOTH_KINDS} && exec "$0" "$@"'
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", script, sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="rbuild-bench-") as tmp:
        os.chmod(tmp, 0o755)
        tar = os.path.join(tmp, "base.tar")
        call([os.path.join(TOP, "examples/busybox-rootfs.sh"), tar])
        os.chmod(tar, 0o644)
        load = os.getloadavg()[0]
        print(f"load {load:.1f} on {os.cpu_count()} processors; best of {options.rounds} rounds, ms for each RUN\n")
        print("| as | | rbuild | runc | crun | runc / rbuild | crun / rbuild |")
        print("|---|---|---|---|---|---|---|")
        for user in (None, USER):
            makers = {
                "rbuild": lambda: Rbuild(tmp, user, tar),
                "runc": lambda: Runtime(tmp, user, tar, "runc", []),
                # To make control groups is not what is measured.
                "crun": lambda: Runtime(tmp, user, tar, "crun", ["--cgroup-manager=disabled"]),
            }
            made, best = {}, {}
            for name, make in makers.items():
                try:
                    made[name] = make()
                except (RuntimeError, FileNotFoundError) as error:
                    print(f"{name} is left out: {error}", file=sys.stderr)
            for _ in range(options.rounds):
                for name, builder in made.items():
                    now = builder.each(options.runs)
                    best[name] = tuple(map(min, best.get(name, now), now))
            for at, what in enumerate(["time", "processor time"]):
                def cell(name):
                    return f"{best[name][at] * 1000:.1f}" if name in best else "-"

                def ratio(name):
                    return f"{best[name][at] / best['rbuild'][at]:.1f}" if name in best and "rbuild" in best else "-"
                print(f"| {user or 'root'} | {what} | {cell('rbuild')} | {cell('runc')} | {cell('crun')} "
                      f"| {ratio('runc')} | {ratio('crun')} |")


main()
