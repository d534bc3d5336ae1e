//! Several rbuild processes on one store at once: each step runs once, and everyone gets the result.

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::rig::{Rig, Who, finish, start};
use crate::traces;

as_root_and_rootless! {
    two_processes_run_each_step_once
    a_waiting_process_can_be_cancelled_and_takes_over_from_a_killed_one
    different_builds_share_what_is_equal
    locks_taken_in_opposite_order_do_not_wait_for_each_other
}

/// Three steps that each leave a line outside of the image, and a result that says how many there were.
const COUNTED: &str = "FROM busybox AS a\n\
    RUN --mount=type=cache,id=log,target=/log,sharing=shared echo a >>/log/lines; sleep 0.5\n\
    FROM busybox AS b\n\
    RUN --mount=type=cache,id=log,target=/log,sharing=shared echo b >>/log/lines; sleep 0.5\n\
    FROM busybox\n\
    COPY --from=a /etc/passwd /a\n\
    COPY --from=b /etc/passwd /b\n\
    RUN --mount=type=cache,id=log,target=/log,sharing=shared echo c >>/log/lines; sort /log/lines >/lines; sleep 0.2\n";

fn two_processes_run_each_step_once(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(COUNTED);
    let outs = [rig.arg("one.tar"), rig.arg("two.tar"), rig.arg("three.tar")];
    let args: Vec<Vec<String>> = outs
        .iter()
        .map(|out| ["--progress=plain", "-o", &format!("type=oci,dest={out}"), &context].map(str::to_owned).to_vec())
        .collect();
    let children: Vec<_> =
        args.iter().map(|args| start(&mut rig.command(&args.iter().map(String::as_str).collect::<Vec<_>>()))).collect();
    for child in children {
        let out = finish(child, &["build"]);
        assert!(out.status.success(), "{}", out.stderr);
    }
    let images = outs.map(|out| Image::read(out.as_ref()));
    for image in &images {
        assert_eq!(String::from_utf8_lossy(&image.files["/lines"].content), "a\nb\nc\n", "each step once");
        assert_eq!(image.config_digest, images[0].config_digest);
    }
    traces::none(&rig);
}

fn a_waiting_process_can_be_cancelled_and_takes_over_from_a_killed_one(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(&format!(
        "FROM busybox\nENV RIG={}\n\
         RUN --mount=type=cache,id=log,target=/log,sharing=shared echo a >>/log/lines; [ -e /log/again ] || sleep 600\n\
         RUN --mount=type=cache,id=log,target=/log,sharing=shared cp /log/lines /lines\n",
        rig.token()
    ));
    let mut first = rig.command(&["--progress=plain", &context]).spawn().expect("starts");
    let asleep = || traces::processes(&rig).iter().any(|line| line.contains("sleep 600"));
    wait_until("the first one sleeps", asleep);
    let second = start(&mut rig.command(&["--progress=plain", &context]));
    let third = start(&mut rig.command(&["--progress=plain", &context]));
    std::thread::sleep(std::time::Duration::from_millis(700));
    signal(second.id(), "INT");
    let out = finish(second, &["second"]);
    assert!(!out.status.success(), "{}", out.stderr);
    assert!(out.stderr.contains(&first.id().to_string()), "it says for which process it waits:\n{}", out.stderr);
    assert!(asleep(), "the first one goes on");
    // Only after this may the step end: the third one runs it again once the first is gone.
    rig.build(&[&rig.context(
        "flag",
        &[("Dockerfile", "FROM busybox\nRUN --mount=type=cache,id=log,target=/log,sharing=shared touch /log/again\n")],
    )]);
    first.kill().expect("kill -9");
    first.wait().expect("wait");
    let out = finish(third, &["third"]);
    assert!(out.status.success(), "{}", out.stderr);
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("out.tar")), &context]);
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!(image.files["/lines"].content, b"a\na\n", "once by the killed one, once by the one that waited");
    traces::none(&rig);
}

fn different_builds_share_what_is_equal(who: Who) {
    let rig = Rig::new(who);
    let common = "FROM busybox\n\
        RUN --mount=type=cache,id=log,target=/log,sharing=shared echo x >>/log/lines; sleep 0.5; cp /log/lines /lines\n";
    let contexts: Vec<_> = (0..4)
        .map(|n| rig.context(&format!("context-{n}"), &[("Dockerfile", &format!("{common}RUN echo {n} >/n\n"))]))
        .collect();
    let children: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(n, context)| {
            let out = format!("type=oci,dest={}", rig.arg(&format!("{n}.tar")));
            start(&mut rig.command(&["--progress=plain", "-o", &out, context]))
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let out = finish(child, &["build"]);
        assert!(out.status.success(), "{}", out.stderr);
        let image = Image::read(&rig.path(&format!("{n}.tar")));
        assert_eq!(image.files["/lines"].content, b"x\n", "the common step ran once");
        assert_eq!(image.files["/n"].content, format!("{n}\n").as_bytes());
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    crate::rig::succeed(std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
}

/// Waits for something another process does.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within 30 s: {what}");
}

/// Two RUNs name the same two locked caches, each in its own order; had each taken its first one, both would wait for ever.
fn locks_taken_in_opposite_order_do_not_wait_for_each_other(who: Who) {
    let rig = Rig::new(who);
    let mount = |id: &str| format!("--mount=type=cache,id={id},target=/{id},sharing=locked");
    let step = "echo in >>/a/lines; sleep 0.1; echo out >>/a/lines; cat /a/lines >/b/lines";
    let contexts: Vec<String> = [["a", "b"], ["b", "a"]]
        .iter()
        .enumerate()
        .map(|(number, ids)| {
            let mounts = ids.map(mount).join(" ");
            let text = format!("FROM busybox\n{}", format!("RUN {mounts} {step}\n").repeat(3));
            rig.context(&format!("context-{number}"), &[("Dockerfile", &text)])
        })
        .collect();
    let begin = |context: &String| start(&mut rig.command(&["build", "--progress=plain", "--no-cache", context]));
    let children: Vec<_> = contexts.iter().chain(&contexts).map(begin).collect();
    for child in children {
        let out = finish(child, &["build"]);
        assert!(out.status.success(), "{}", out.stderr);
    }
    let log =
        rig.build(&["--no-cache", &rig.dockerfile(&format!("FROM busybox\nRUN {} uniq -c /a/lines\n", mount("a")))]);
    let runs: Vec<&str> = log.lines().filter(|line| line.ends_with(" in") || line.ends_with(" out")).collect();
    assert!(runs.len() >= 6 && runs.iter().all(|line| line.contains(" 1 ")), "one at a time:\n{log}");
    traces::none(&rig);
}
