//! Limits of steps: they hold, what died of them is told, and no control group stays behind, whatever ends rbuild.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::rig::{Rig, Who, can_run, finish, loudly, start};
use crate::sharing::{signal, wait_until};
use crate::traces;

/// Groups of a process, by the names rbuild gives them.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let name = format!("rbuild-{pid}-");
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&name) {
                    found.push(entry.path());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

/// Whether this machine lets root limit anything.
fn can_limit(rig: &Rig) -> bool {
    let out = rig.rbuild(&["build", "-m", "64m", "--cpu-quota", "50000", &rig.dockerfile("FROM busybox\nRUN true\n")]);
    if !out.status.success() {
        assert!(out.stderr.contains("limits of a step need a control group"), "{}", out.stderr);
        loudly("SKIPPED: control groups cannot be written to here");
    }
    out.status.success()
}

#[test]
fn limits_hold_and_leave_nothing() {
    if !can_run(Who::Root) {
        return;
    }
    let rig = Rig::new(Who::Root);
    if !can_limit(&rig) {
        return;
    }
    let context = rig.dockerfile("FROM busybox\nRUN echo begun; dd if=/dev/zero of=/dev/shm/x bs=1M count=60\n");
    let child = start(&mut rig.command(&["build", "--progress=plain", "-m", "32m", &context]));
    let pid = child.id();
    let out = finish(child, &["build"]);
    assert!(!out.status.success());
    assert!(out.stderr.contains("killed: out of memory, limit 32.0 MiB, peak "), "{}", out.stderr);
    assert!(out.stderr.contains("did not complete successfully: cannot allocate memory"), "{}", out.stderr);
    assert_eq!(groups_of(pid), Vec::<PathBuf>::new());

    // The same amount is none too many with more of it, and limits are no part of the key.
    let log = rig.build(&["--resource", "memory=128m,cpuset-cpus=0", &context]);
    assert!(log.contains(" begun"), "{log}");
    assert!(rig.build(&["--resource", "memory=96m", &context]).contains(" CACHED"));
    let log = rig.build(&["--cpuset-cpus=0", &rig.dockerfile("FROM busybox\nRUN echo \"$(nproc) processors\"\n")]);
    assert!(log.contains(" 1 processors"), "{log}");
    traces::none(&rig);
}

#[test]
fn groups_of_killed_builds_are_removed() {
    if !can_run(Who::Root) {
        return;
    }
    let rig = Rig::new(Who::Root);
    if !can_limit(&rig) {
        return;
    }
    let text = format!("FROM busybox\nENV RIG={}\nRUN sleep 600\n", rig.token());
    let context = rig.dockerfile(&text);
    for name in ["KILL", "TERM"] {
        let mut child = start(&mut rig.command(&["build", "--progress=plain", "-m", "64m", &context]));
        let asleep = || traces::processes(&rig).iter().any(|line| line.contains("sleep 600"));
        wait_until("the step sleeps", asleep);
        assert!(!groups_of(child.id()).is_empty(), "it is in a group of its own");
        if name == "KILL" {
            child.kill().expect("kill -9");
            child.wait().expect("wait");
        } else {
            signal(child.id(), name);
        }
        let pid = child.id();
        drop(child.wait());
        traces::none_running(&rig);
        let begin = Instant::now();
        while !groups_of(pid).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(120), "left after {name}: {:?}", groups_of(pid));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn limits_that_cannot_be_had_are_an_error() {
    if !can_run(Who::Multi) {
        return;
    }
    let rig = Rig::new(Who::Multi);
    let context = rig.dockerfile("FROM busybox\nRUN true\n");
    let out = rig.rbuild(&["build", "--cgroup-parent", "/no-such-group", "-m", "64m", &context]);
    assert!(!out.status.success(), "a user may make no group at the top");
    for part in
        ["limits of a step need a control group", "memory controller", "Permission denied", "systemd-run --user"]
    {
        assert!(out.stderr.contains(part), "{part}:\n{}", out.stderr);
    }
    traces::none(&rig);
}
