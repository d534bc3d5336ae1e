//! What a RUN sees and what is said of it: each row was compared with BuildKit. A row is a Dockerfile on busybox, further
//! arguments, whether it builds, and lines of its output in their order.

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who};

as_root_and_rootless! { mounts_as_buildkit_makes_them environment_and_faults }

struct Row {
    dockerfile: &'static str,
    args: &'static [&'static str],
    good: bool,
    lines: &'static [&'static str],
}

const GOOD: Row = Row { dockerfile: "", args: &[], good: true, lines: &[] };
const BAD: Row = Row { good: false, ..GOOD };

#[track_caller]
fn check(rig: &Rig, rows: &[Row]) {
    let files = [("f", "file\n"), ("d/a", "A\n"), ("secret", "hidden\n")];
    let secret = format!("id=s,src={}", rig.arg("context/secret"));
    for row in rows {
        let context = rig.context("context", &files);
        let text = format!("FROM busybox\n{}", row.dockerfile);
        std::fs::write(format!("{context}/Dockerfile"), &text).expect("write");
        let mut args = vec!["build", "--no-cache", "--progress=plain", "--secret", &secret];
        args.extend(row.args);
        args.push(&context);
        let out = rig.rbuild(&args);
        assert_eq!(out.status.success(), row.good, "{text}\n{}", out.stderr);
        let mut rest = out.stderr.lines();
        for line in row.lines {
            // `#5 0.012 text`, or an error line.
            let found = rest.any(|shown| shown.ends_with(line));
            assert!(found, "no (further) line ends with {line:?}:\n{text}\n{}", out.stderr);
        }
    }
}

fn mounts_as_buildkit_makes_them(who: Who) {
    let rig = Rig::new(who);
    check(
        &rig,
        &[
            // Of two at one place the later wins, whatever they are.
            Row {
                dockerfile: "RUN --mount=source=d,target=/c --mount=source=f,target=/c cat /c\n",
                lines: &[" file"],
                ..GOOD
            },
            Row {
                dockerfile: "RUN --mount=source=f,target=/c --mount=source=d,target=/c ls /c\n",
                lines: &[" a"],
                ..GOOD
            },
            Row {
                dockerfile: "RUN --mount=type=tmpfs,target=/t,ro touch /t/x || echo refused\n",
                lines: &[" refused"],
                ..GOOD
            },
            // Set-id and sticky bits of `mode=` do not count.
            Row {
                dockerfile: "RUN --mount=type=cache,target=/c,mode=1777 stat -c '%a is its mode' /c\n",
                lines: &[" 777 is its mode"],
                ..GOOD
            },
            // A file seeds a cache that is a file.
            Row {
                dockerfile: "FROM busybox AS seed\nRUN echo seed > /s\nFROM busybox\n\
                    RUN --mount=type=cache,id=file,from=seed,source=/s,target=/c cat /c; echo more >> /c\n\
                    RUN --mount=type=cache,id=file,from=seed,source=/s,target=/c tail -n 1 /c\n",
                lines: &[" seed", " more"],
                ..GOOD
            },
            // With an owner and no path in the seed it is a new directory.
            Row {
                dockerfile: "FROM busybox AS seed\nRUN echo seed > /s\nFROM busybox\n\
                    RUN --mount=type=cache,id=owned,from=seed,target=/c,mode=0711 ls /c | wc -l; stat -c 'mode %a' /c\n",
                lines: &[" 0", " mode 711"],
                ..GOOD
            },
            // Without a seed, `source` is a path in the cache.
            Row {
                dockerfile: "RUN --mount=type=cache,id=within,target=/c mkdir -p /c/d/e; echo deep > /c/d/e/f; ln -s / /c/link\n\
                    RUN --mount=type=cache,id=within,source=/d/e,target=/c cat /c/f\n",
                lines: &[" deep"],
                ..GOOD
            },
            Row {
                dockerfile: "RUN --mount=type=cache,id=within,source=/link/etc,target=/c ls /c\n",
                lines: &["did not complete successfully: open /link/etc: no such file or directory"],
                ..BAD
            },
            // One RUN that mounts a cache twice sees one cache, also if it is private or locked.
            Row {
                dockerfile: "RUN --mount=type=cache,id=p,target=/a,sharing=private --mount=type=cache,id=p,target=/b,sharing=private \
                    touch /a/both; ls /b\n\
                    RUN --mount=type=cache,id=l,target=/a,sharing=locked --mount=type=cache,id=l,target=/b,sharing=locked \
                    touch /a/locked; ls /b\n",
                lines: &[" both", " locked"],
                ..GOOD
            },
            Row {
                dockerfile: "RUN --mount=type=secret,id=s,mode=0755 cat /run/secrets/s; \
                    grep ' /run/secrets/s ' /proc/self/mountinfo | cut -d' ' -f6\n",
                lines: &[" hidden", "noexec,relatime"],
                ..GOOD
            },
            Row {
                dockerfile: "ENV E=old\nARG A=old\n\
                    RUN --mount=type=secret,id=s,env=E --mount=type=secret,id=s,env=A --mount=type=secret,id=none,env=N \
                    env | grep -E '^[EAN]=' | sort\n",
                lines: &[" A=hidden", " E=hidden", " N="],
                ..GOOD
            },
            Row {
                dockerfile: "RUN --mount=type=ssh,required true\n",
                lines: &["no SSH key \"\" forwarded from the client"],
                ..BAD
            },
            Row {
                dockerfile: "RUN --mount=type=ssh,id=z,required true\n",
                lines: &["no SSH key \"z\" forwarded from the client"],
                ..BAD
            },
            Row {
                dockerfile: "RUN --mount=type=tmpfs,target=/t,source=/x true\n",
                lines: &["tmpfs mount \"/t\" is empty, so it has no source \"/x\""],
                ..BAD
            },
            // What does not fit the root is the step's own failure.
            Row {
                dockerfile: "RUN echo > /o\nRUN --mount=source=d,target=/o true\n",
                lines: &[
                    "error during container init: error mounting \"bind\" to rootfs at \"/o\": not a directory",
                    "process \"/bin/sh -c true\" did not complete successfully: exit code: 1",
                ],
                ..BAD
            },
            Row {
                dockerfile: "RUN --mount=target=/c --mount=type=tmpfs,target=/c/none true\n",
                lines: &["error mounting \"tmpfs\" to rootfs at \"/c/none\": read-only file system", "exit code: 1"],
                ..BAD
            },
        ],
    );
}

fn environment_and_faults(who: Who) {
    let rig = Rig::new(who);
    check(
        &rig,
        &[
            Row { dockerfile: "RUN [ -p /dev/stdin ] && cat && echo empty\n", lines: &[" empty"], ..GOOD },
            Row { dockerfile: "RUN df /dev/shm | tail -n 1 | cut -d' ' -f1\n", lines: &[" tmpfs"], ..GOOD },
            // runc finds and starts the program before capabilities are gone; the program has none.
            Row {
                dockerfile: "RUN mkdir /mine && cp /bin/busybox /mine/busybox && chmod 700 /mine/busybox\nUSER 1000\n\
                    RUN [\"/mine/busybox\", \"sh\", \"-c\", \"grep CapEff /proc/self/status; cat /mine/busybox; true\"]\n",
                lines: &["CapEff:\t0000000000000000"],
                ..GOOD
            },
            Row {
                dockerfile: "WORKDIR /bin\nENV PATH=.\nRUN [\"sh\", \"-c\", \"true\"]\n",
                lines: &["exec: \"sh\": cannot run executable found relative to current directory", "exit code: 1"],
                ..BAD
            },
            Row {
                dockerfile: "WORKDIR /w\nRUN rmdir /w && echo > /w\nRUN true\n",
                lines: &["error during container init: mkdir /w: not a directory", "exit code: 1"],
                ..BAD
            },
            Row { dockerfile: "RUN []\n", lines: &["failed to marshal LLB definition: arguments are required"], ..BAD },
        ],
    );
}
