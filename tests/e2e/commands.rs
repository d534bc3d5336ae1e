//! The commands on images, one after another on the same image: what was built is listed, shown, named, moved and started.

use serde_json::Value;

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who, busybox_tar, finish, start, succeed};
use crate::traces;

as_root_and_rootless! {
    names_and_lists
    save_and_load
    import_from_files_and_standard_input
    run_takes_what_the_image_says
    run_takes_what_the_user_says
    run_ends_as_the_command_ends
    help_version_doctor_completions
}

const TEXT: &str = "FROM busybox\nENV A=1\nLABEL kind=test\nWORKDIR /w\nRUN echo app:x:1000:1000::/w:/bin/sh >>/etc/passwd\nUSER app\n\
    ENTRYPOINT [\"/bin/sh\", \"-c\", \"echo $0 $A $(id -un) $PWD\"]\nCMD [\"word\"]\n";

fn build(rig: &Rig) {
    rig.build(&["-t", "app:1.0", &rig.dockerfile(TEXT)]);
}

fn names_and_lists(who: Who) {
    let rig = Rig::new(who);
    build(&rig);
    let id = rig.ok(&["images", "-q", "--no-trunc", "app"]).stdout.trim().to_owned();
    assert!(id.starts_with("sha256:"), "{id:?}");
    rig.ok(&["tag", "app:1.0", "example.org/team/app:two"]);
    let list = rig.ok(&["images"]).stdout;
    assert!(list.contains("app") && list.contains("example.org/team/app") && list.contains("busybox"), "{list}");
    let shown: Value = serde_json::from_str(&rig.ok(&["inspect", "app:1.0"]).stdout).expect("JSON");
    let shown = if shown.is_array() { &shown[0] } else { &shown };
    assert_eq!(shown["Id"], id.as_str());
    assert_eq!(shown["Config"]["User"], "app", "{shown}");
    let history = rig.ok(&["history", "--no-trunc", "app:1.0"]).stdout;
    for part in ["echo app:x:1000:1000::/w:/bin/sh >>/etc/passwd", "WORKDIR /w", "CMD [\"word\"]"] {
        assert!(history.contains(part), "{part:?} is missing in\n{history}");
    }
    rig.ok(&["rmi", "app:1.0"]);
    assert!(!rig.rbuild(&["inspect", "app:1.0"]).status.success());
    assert_eq!(rig.ok(&["run", "--rm", "example.org/team/app:two"]).stdout, "word 1 app /w\n");
    rig.ok(&["rmi", "example.org/team/app:two"]);
    let out = rig.rbuild(&["rmi", "nosuch:1"]);
    assert!(!out.status.success() && out.stderr.contains("nosuch"), "{}", out.stderr);
    rig.ok(&["rmi", "--force", "nosuch:1"]);
}

fn save_and_load(who: Who) {
    let rig = Rig::new(who);
    build(&rig);
    for format in ["docker", "oci"] {
        let file = rig.arg(&format!("{format}.tar"));
        rig.ok(&["save", "--format", format, "-o", &file, "app:1.0"]);
        let other = Rig::empty(who);
        crate::rig::set_mode(&rig.path("."), 0o755);
        other.ok(&["load", "-i", &file]);
        assert_eq!(other.ok(&["run", "--rm", "app:1.0"]).stdout, "word 1 app /w\n", "{format}");
        let ids = [&rig, &other].map(|r| r.ok(&["images", "-q", "--no-trunc", "app:1.0"]).stdout);
        assert_eq!(ids[0], ids[1], "{format}");
    }
    let mut all = rig.command(&["save", "app:1.0"]).stdout(std::process::Stdio::piped()).spawn().expect("starts");
    let other = Rig::empty(who);
    let load = start(other.command(&["load"]).stdin(all.stdout.take().expect("piped")));
    let out = finish(load, &["load"]);
    assert!(all.wait().expect("ends").success());
    assert!(out.status.success() && out.stdout.contains("app:1.0"), "{}{}", out.stdout, out.stderr);
}

fn import_from_files_and_standard_input(who: Who) {
    let rig = Rig::empty(who);
    let packed = rig.arg("busybox.tar.gz");
    succeed(std::process::Command::new("sh").args(["-c", &format!("gzip -c {} >{packed}", busybox_tar().display())]));
    rig.ok(&["import", &packed, "packed:1"]);
    let tar = std::fs::File::open(busybox_tar()).expect("tar");
    let child = start(rig.command(&["import", "-", "piped:1"]).stdin(tar));
    let out = finish(child, &["import", "-"]);
    assert!(out.status.success(), "{}", out.stderr);
    for name in ["packed:1", "piped:1"] {
        assert_eq!(rig.ok(&["run", "--rm", name, "echo", "hi"]).stdout, "hi\n");
    }
    std::fs::write(rig.path("broken.tar"), b"not a tar at all, only words").expect("write");
    let out = rig.rbuild(&["import", &rig.arg("broken.tar"), "broken:1"]);
    assert!(!out.status.success() && out.stderr.starts_with("ERROR: "), "{}", out.stderr);
    traces::none(&rig);
}

fn run_takes_what_the_image_says(who: Who) {
    let rig = Rig::new(who);
    build(&rig);
    assert_eq!(rig.ok(&["run", "--rm", "app:1.0"]).stdout, "word 1 app /w\n");
    assert_eq!(rig.ok(&["run", "--rm", "app:1.0", "other"]).stdout, "other 1 app /w\n");
    let before = rig.ok(&["images", "-q", "--no-trunc"]).stdout;
    rig.ok(&["run", "--rm", "-u", "0", "--entrypoint", "/bin/sh", "app:1.0", "-c", "echo x >/new; ls /new"]);
    let out = rig.rbuild(&["run", "--rm", "--entrypoint", "/bin/ls", "app:1.0", "/new"]);
    assert_eq!(out.status.code(), Some(1), "what a run wrote is gone: {}", out.stdout);
    assert_eq!(rig.ok(&["images", "-q", "--no-trunc"]).stdout, before);
    traces::none(&rig);
}

fn run_takes_what_the_user_says(who: Who) {
    let rig = Rig::new(who);
    build(&rig);
    let say = "echo $A $B $(id -u) $PWD";
    let out = rig.ok(&[
        "run",
        "--rm",
        "-e",
        "A=2",
        "-e",
        "B=3",
        "-u",
        "33",
        "-w",
        "/tmp",
        "--entrypoint",
        "/bin/sh",
        "app:1.0",
        "-c",
        say,
    ]);
    assert_eq!(out.stdout, "2 3 33 /tmp\n");
    let dir = rig.context("shared", &[("in", "from outside\n")]);
    let mount = format!("{dir}:/mnt:ro");
    let args = ["run", "--rm", "-v", &mount, "--entrypoint", "/bin/cat", "app:1.0", "/mnt/in"];
    assert_eq!(rig.ok(&args).stdout, "from outside\n");
    let args = ["run", "--rm", "-u", "0", "-v", &mount, "--entrypoint", "/bin/touch", "app:1.0", "/mnt/new"];
    assert!(!rig.rbuild(&args).status.success(), "read-only");
}

fn run_ends_as_the_command_ends(who: Who) {
    use std::io::Write as _;
    let rig = Rig::new(who);
    for (command, code) in [("exit 0", 0), ("exit 42", 42), ("sh -c 'kill -9 $$'; exit $?", 137)] {
        let out = rig.rbuild(&["run", "--rm", "busybox", "sh", "-c", command]);
        assert_eq!(out.status.code(), Some(code), "{command}: {}", out.stderr);
    }
    assert_eq!(rig.rbuild(&["run", "--rm", "busybox", "/nosuch"]).status.code(), Some(127));
    let args = ["run", "--rm", "-i", "busybox", "cat"];
    let mut child = start(rig.command(&args).stdin(std::process::Stdio::piped()));
    child.stdin.take().expect("piped").write_all(b"through\n").expect("write");
    assert_eq!(finish(child, &args).stdout, "through\n");
    let child =
        start(&mut rig.command(&["run", "--rm", "-e", &format!("RIG={}", rig.token()), "busybox", "sleep", "600"]));
    crate::sharing::wait_until("it sleeps", || traces::processes(&rig).iter().any(|l| l.contains(": sleep 600")));
    crate::sharing::signal(child.id(), "TERM");
    assert!(!finish(child, &["run"]).status.success());
    traces::none(&rig);
}

fn help_version_doctor_completions(who: Who) {
    let rig = Rig::empty(who);
    assert!(rig.ok(&["--help"]).stdout.contains("rbuild [OPTIONS] CONTEXT"));
    assert!(rig.ok(&["build", "--help"]).stdout.contains("--build-arg"));
    assert!(rig.ok(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
    assert!(rig.ok(&["completions", "bash"]).stdout.contains("rbuild"));
    let said = rig.ok(&["doctor"]).stdout;
    assert!(said.to_lowercase().contains(if who == Who::Root { "root" } else { "rootless" }), "{said}");
    assert!(!rig.store().join("records-v1").exists() || traces::processes(&rig).is_empty());
}
