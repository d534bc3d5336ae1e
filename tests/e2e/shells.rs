//! `--on-error=shell` and `rbuild shell`: on a terminal (that of `script`) and with commands from a pipe.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::as_root_and_rootless;
use crate::rig::{Output, Rig, Who, can_run, finish, installed};
use crate::traces;

as_root_and_rootless! {
    a_shell_where_a_step_failed
    a_shell_on_a_terminal
    shells_in_images_and_earlier_steps
}

const FAILING: &str = "\
FROM busybox AS base
RUN echo early > /early
FROM base
ARG SECRETIVE=told
ENV COLOUR=green
WORKDIR /src
USER 33:44
RUN --mount=type=secret,id=s,uid=33 --mount=type=cache,target=/cache,uid=33 --mount=type=tmpfs,target=/t \\
    echo late > /tmp/late && echo kept > /cache/f && exit 3
RUN true
";

/// Calls rbuild with commands for the shell on stdin.
fn told(mut command: Command, commands: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(commands.as_bytes()).expect("writes");
    drop(stdin);
    finish(child, &[commands])
}

const LOOK: &str = "cat /early /tmp/late /cache/f /run/secrets/s; echo at:$PWD:$(id -u):$(id -g):$COLOUR:$SECRETIVE; \
                    ls -d /t; exit 7\n";

fn failing(rig: &Rig) -> String {
    rig.context("failing", &[("Dockerfile", FAILING), ("s", "hidden\n")])
}

fn a_shell_where_a_step_failed(who: Who) {
    let rig = Rig::new(who);
    let context = failing(&rig);
    let secret = format!("id=s,src={context}/s");
    let args = ["build", "--progress=plain", "--on-error=shell", "--secret", &secret, &context];
    let out = told(rig.command(&args), LOOK);
    assert_eq!(out.status.code(), Some(1), "the build's own code, not the shell's: {}", out.stderr);
    assert_eq!(out.stdout, "early\nlate\nkept\nhidden\nat:/src:33:44:green:told\n/t\n", "{}", out.stderr);
    let last = out.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ERROR: failed to build: failed to solve: process ") && last.ends_with("exit code: 3"),
        "{last}"
    );
    assert!(out.stderr.contains("shell where the step failed: user 33:44 in /src"), "{}", out.stderr);

    let out = rig.fails(&["build", "--progress=plain", "--secret", &secret, &context]);
    assert!(out.contains("--on-error=shell opens a shell") && out.contains("rbuild shell last:8"), "{out}");
    traces::none(&rig);
}

fn a_shell_on_a_terminal(who: Who) {
    if !installed("script") {
        return;
    }
    let rig = Rig::new(who);
    let context = failing(&rig);
    let rbuild = rig.command(&[]).get_args().next().map_or_else(
        || rig.command(&[]).get_program().to_string_lossy().into_owned(),
        |_| crate::rig::binary().display().to_string(),
    );
    let line = format!("{rbuild} build --on-error=shell --secret id=s,src={context}/s {context}");
    let mut script = rig.other("script");
    script.env("RBUILD_ROOT", rig.store()).env("TERM", "vt220").args(["-qefc", &line, "/dev/null"]);
    let typed = format!("test -t 0 && test -t 1 && echo on-a-ter''minal:$TERM; stty >/dev/null; {LOOK}");
    let out = told(script, &typed);
    let text = out.stdout.replace('\r', "");
    for want in ["on-a-terminal:vt220", "at:/src:33:44:green:told", "hidden", "failed to solve: process"] {
        assert!(text.contains(want), "{want} in:\n{text}\n{}", out.stderr);
    }
    traces::none(&rig);
}

fn shells_in_images_and_earlier_steps(who: Who) {
    let rig = Rig::new(who);
    let context = failing(&rig);
    let secret = format!("id=s,src={context}/s");
    rig.fails(&["build", "--progress=plain", "--secret", &secret, &context]);
    let at = |target: &str, commands: &str| told(rig.command(&["shell", target]), commands);
    let look = "cat /early /cache/f; ls /tmp/late 2>/dev/null; touch /t/x; echo at:$PWD:$(id -u):$COLOUR:$SECRETIVE\n";
    let out = at("last", look);
    assert_eq!(out.stdout, "early\nkept\nat:/src:33:green:told\n", "before the step that failed: {}", out.stderr);
    assert!(out.stderr.contains("shell before [stage-1 2/3] RUN"), "{}", out.stderr);
    assert!(out.stderr.contains("not mounted: /run/secrets/s (a secret)\n"), "{}", out.stderr);
    rig.fails(&["build", "--progress=plain", "--build-arg=SECRETIVE=given", "--secret", &secret, &context]);
    let out = at("last", look);
    assert!(out.stdout.ends_with("at:/src:33:green:\n"), "{}", out.stdout);
    assert!(out.stderr.contains("values of --build-arg are not kept, give them again: SECRETIVE"), "{}", out.stderr);
    let out = told(rig.command(&["shell", "--build-arg=SECRETIVE=given", "last"]), look);
    assert!(out.stdout.ends_with("at:/src:33:green:given\n"), "{}", out.stdout);
    let out = told(rig.command(&["shell", "--build-arg=OTHER=x", "last"]), "");
    assert!(out.stderr.contains("was not given a build argument OTHER"), "{}", out.stderr);
    let out = at(&format!("{context}:2"), "cat /early; ls -d /src 2>/dev/null; exit 5\n");
    assert_eq!((out.stdout.as_str(), out.status.code()), ("early\n", Some(5)), "{}", out.stderr);
    let out = at("last:3", "");
    assert!(out.stderr.contains("no step at line 3; there are steps at 1, 2, 6, 8, 10"), "{}", out.stderr);
    let out = at("/nowhere", "");
    assert_eq!(out.status.code(), Some(1));

    rig.build(&[
        "-t",
        "app:1",
        &rig.dockerfile("FROM busybox\nENV A=b\nWORKDIR /w\nRUN echo x > f\nENTRYPOINT [\"/none\"]\n"),
    ]);
    let out = at("app:1", "cat f; echo $A:$PWD\n");
    assert_eq!(out.stdout, "x\nb:/w\n", "{}", out.stderr);
    let out = at("last", "cat /w/f; touch /w/gone\n");
    assert_eq!(out.stdout, "x\n", "{}", out.stderr);
    assert_eq!(at("last:4", "ls /w\n").stdout, "f\n", "what a shell writes is thrown away");
    traces::none(&rig);
}

#[test]
fn in_one_id_too() {
    if can_run(Who::Single) {
        let rig = Rig::new(Who::Single);
        let context = rig.dockerfile("FROM busybox\nRUN echo x > /f && false\n");
        let out = told(rig.command(&["build", "--on-error=shell", &context]), "cat /f\n");
        assert_eq!((out.stdout.as_str(), out.status.code()), ("x\n", Some(1)), "{}", out.stderr);
        traces::none(&rig);
    }
}
