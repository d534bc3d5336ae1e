//! Builds whose containers an OCI runtime makes: the same keys, mounts, users, limits and faults, and nothing left behind.

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who, finish, installed, start};
use crate::sharing::{signal, wait_until};
use crate::traces;

as_root_and_rootless! {
    a_build_goes_on_with_a_runtime
    killed_builds_leave_no_container
}

/// Those that the contract suite is for, too.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

const EVERYTHING: &str = "\
FROM busybox
ARG GIVEN
ENV COLOUR=green
WORKDIR /src
COPY f .
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/ctx --mount=type=secret,id=s \\
    --mount=type=tmpfs,target=/t echo $COLOUR $GIVEN $(cat /ctx/f /run/secrets/s) at $PWD && touch /cache/c /t/t && id > id
USER 33:44
RUN <<EOF
#!/bin/sh
echo script as $(id -u):$(id -g) with $HOME
EOF
RUN --network=none ! ping -c1 -W1 192.0.2.1 2>/dev/null && ls /sys/class/net
";

fn a_build_goes_on_with_a_runtime(who: Who) {
    let rig = Rig::new(who);
    let context = rig.context("all", &[("Dockerfile", EVERYTHING), ("f", "file "), ("s", "secret\n")]);
    let secret = format!("--secret=id=s,src={context}/s");
    let usual = rig.build(&["--build-arg=GIVEN=arg", &secret, "-t", "usual", &context]);
    for name in RUNTIMES {
        if !installed(name) {
            continue;
        }
        let flag = format!("--oci-runtime={name}");
        let cached = rig.build(&[&flag, "--build-arg=GIVEN=arg", &secret, &context]);
        assert_eq!(cached.matches("CACHED").count(), 5, "{cached}");
        let log = rig.build(&["--no-cache", &flag, "--build-arg=GIVEN=arg", &secret, "-t", name, &context]);
        for said in [" green arg file secret at /src", " script as 33:44 with /", " lo\n"] {
            assert!(log.contains(said) && usual.contains(said), "{name}: {said}\n{log}\n{usual}");
        }
        let fails = |dockerfile: &str, said: &str| {
            let err = rig.fails(&["build", "--progress=plain", &flag, &rig.dockerfile(dockerfile)]);
            assert!(err.contains(said), "{name}: {said}\n{err}");
        };
        fails("FROM busybox\nRUN exit 3\n", "did not complete successfully: exit code: 3");
        fails("FROM busybox\nRUN [\"frobnicate\"]\n", "exec: \"frobnicate\": executable file not found in $PATH");
    }
    let out = rig.rbuild(&["build", "--oci-runtime=frobnicate", &context]);
    assert!(
        !out.status.success() && out.stderr.contains("--oci-runtime: no program frobnicate in PATH"),
        "{}",
        out.stderr
    );
    assert!(rig.rbuild(&["doctor"]).stdout.contains("crun version"), "doctor tells which there are");
    traces::none(&rig);
}

fn killed_builds_leave_no_container(who: Who) {
    for name in RUNTIMES {
        if !installed(name) {
            continue;
        }
        let rig = Rig::new(who);
        let context = rig.dockerfile(&format!("FROM busybox\nENV RIG={}\nRUN echo begun && sleep 1000\n", rig.token()));
        for number in ["KILL", "TERM"] {
            let flag = format!("--oci-runtime={name}");
            let child = start(&mut rig.command(&["build", "--progress=plain", &flag, &context]));
            let pid = child.id();
            let asleep = |line: &String| line.contains("sleep");
            wait_until("the step runs", || traces::processes(&rig).iter().any(asleep));
            signal(pid, number);
            let out = finish(child, &["build", name]);
            assert!(!out.status.success());
            traces::none_running(&rig);
        }
        // The next one finds nothing in its way.
        rig.build(&["--oci-runtime", name, &rig.dockerfile("FROM busybox\nRUN true\n")]);
        traces::none(&rig);
    }
}
