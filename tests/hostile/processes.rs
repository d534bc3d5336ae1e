//! Steps that do not want to end, or take everything with them.

use std::time::{Duration, Instant};

use crate::as_root_and_rootless;
use crate::outside::Outside;
use crate::rig::{Output, Rig, Who, finish, start};
use crate::traces;

as_root_and_rootless! {
    cancelled_builds_leave_nothing
    killed_builds_leave_nothing
    background_processes_end_with_their_step
    limits_of_processes_hold
    full_disks_are_said
    terminals_and_output
}

/// After this long nothing will happen any more, however busy the machine is; what would not end by itself takes longer.
const HUNG: Duration = Duration::from_secs(300);

/// What does not want to end, and as whom. Each says "begun" first.
const STUBBORN: [(&str, &str); 6] = [
    // Forks for ever. The limit that keeps the machine alive holds for everybody but the machine's root.
    ("1234", "f() { while true; do f & sleep 0.01; done; }; f & echo begun; exec sleep 1000"),
    ("0", "trap '' TERM INT HUP QUIT PIPE; echo begun; while true; do sleep 1000; done"),
    (
        "0",
        "for i in 1 2 3 4 5; do setsid sh -c 'trap \"\" TERM HUP; while true; do sleep 1000; done' & done; echo begun; sleep 1000",
    ),
    ("0", "echo begun; while true; do echo flood; done"),
    ("0", "echo begun; sh -c 'kill -STOP $$'; kill -STOP $$; sleep 1000"),
    ("0", "echo begun; exec dd if=/dev/zero of=/dev/null bs=1M"),
];

/// A build of a step that says "begun", stopped by `signal` once it has said so.
fn stopped(rig: &Rig, (user, script): (&str, &str), signal: &str) -> Output {
    let text = format!("FROM busybox\nENV RIG={}\nUSER {user}\nRUN {script}\n", rig.token());
    let context = rig.dockerfile(&text);
    let log = rig.path("log");
    let mut command = rig.command(&["build", "--no-cache", "--progress=plain", "--ulimit=nproc=800", &context]);
    command.stderr(std::fs::File::create(&log).expect("create"));
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("starts");
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().any(|line| line.starts_with('#') && line.ends_with(" begun")) {
            break;
        }
        assert!(begin.elapsed() < HUNG, "never began:\n{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    let asked = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        assert!(asked.elapsed() < HUNG, "{signal} did not end it: {script}");
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: String::new(), stderr: std::fs::read_to_string(&log).unwrap_or_default() }
}

fn cancelled_builds_leave_nothing(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for script in STUBBORN {
        for signal in ["-INT", "-TERM"] {
            let out = stopped(&rig, script, signal);
            assert!(!out.status.success());
            assert!(
                out.stderr.contains("CANCELED") || out.stderr.contains("canceled"),
                "{}",
                &out.stderr[out.stderr.len().saturating_sub(2000)..]
            );
            outside.safe(&rig, &out);
        }
    }
}

fn killed_builds_leave_nothing(who: Who) {
    let rig = Rig::new(who);
    for script in STUBBORN {
        stopped(&rig, script, "-KILL");
        traces::none_running(&rig);
    }
    rig.ok(&["build", "--progress=plain", &rig.dockerfile("FROM busybox\nRUN true\n")]);
    traces::none(&rig);
}

fn background_processes_end_with_their_step(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let script = "for i in 1 2 3; do (trap '' TERM HUP; while true; do date > /late; sleep 0.01; done) & done; setsid sleep 1000 & exit 0";
    let text = format!("FROM busybox\nENV RIG={}\nRUN {script}\nRUN true\n", rig.token());
    let begin = Instant::now();
    let out = rig.ok(&["build", "--progress=plain", &rig.dockerfile(&text)]);
    assert!(begin.elapsed() < HUNG, "waited for background processes");
    outside.safe(&rig, &out);
}

fn limits_of_processes_hold(who: Who) {
    let rig = Rig::new(who);
    // A user of its own: the kernel counts a user's processes all over the machine, other tests' too.
    let text = "FROM busybox\nUSER 61905\nRUN for i in $(seq 60); do sleep 5 & done; echo all; exit 1\n";
    let out = rig.rbuild(&["build", "--progress=plain", "--ulimit=nproc=20", &rig.dockerfile(text)]);
    assert!(!out.status.success());
    assert!(out.stderr.contains("can't fork"), "{}", out.stderr);
    traces::none(&rig);
}

/// A store on a small file system: the step learns that it is full, rbuild says so, and the store stays good.
fn full_disks_are_said(who: Who) {
    let rig = Rig::empty(who);
    let outside = Outside::new(&rig);
    let small = rig.path("small");
    std::fs::create_dir(&small).expect("mkdir");
    let outcome = in_small_store(
        &rig,
        &small,
        &[
            "rbuild import \"$TAR\" busybox:latest >/dev/null",
            "printf 'FROM busybox\\nRUN dd if=/dev/zero of=/big bs=1M count=200\\n' > $C/Dockerfile; rbuild build --progress=plain $C; echo status $?",
            "printf 'FROM busybox\\nCOPY big /big\\n' > $C/Dockerfile; truncate -s 200M $C/big; rbuild build --progress=plain $C; echo status $?; rm $C/big",
            "printf 'FROM busybox\\nRUN echo fine > /fine\\n' > $C/Dockerfile; rbuild build --progress=plain $C; echo status $?",
            "find $S/store/tmp $S/store/leases -mindepth 1",
        ],
    );
    let statuses: Vec<_> = outcome.stdout.lines().filter_map(|line| line.strip_prefix("status ")).collect();
    assert_eq!(statuses, ["1", "1", "0"], "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.to_lowercase().contains("no space left on device"), "{}", outcome.stderr);
    assert!(!outcome.stdout.contains("/store/tmp/"), "{}", outcome.stdout);
    outside.untouched();
    traces::none_running(&rig);
}

/// Runs shell commands with a store on a tmpfs of 60 MB, in a mount namespace of their own.
fn in_small_store(rig: &Rig, small: &std::path::Path, commands: &[&str]) -> Output {
    let context = rig.path("context");
    std::fs::create_dir_all(&context).expect("mkdir");
    let binary = rig.command(&[]).get_program().to_owned();
    let binary =
        if rig.user().is_some() { rig.command(&[]).get_args().last().expect("binary").to_owned() } else { binary };
    let user = rig.user();
    if let Some(user) = user {
        // Not the whole place: what lies outside the build is watched, down to the times of its inodes.
        let owned = std::process::Command::new("chown").arg("-R").arg(user).args([small, &context]).status();
        assert!(owned.expect("chown").success());
    }
    let script =
        format!("rbuild() {{ RBUILD_ROOT=$S/store {} \"$@\"; }}\n{}\n", binary.to_string_lossy(), commands.join("\n"));
    let become_user = match user {
        None => String::new(),
        Some(user) => format!("setpriv --reuid {user} --regid {user} --init-groups -- "),
    };
    let outer = format!("mount -t tmpfs -o size=60m,mode=1777 tmpfs \"$S\" && exec {become_user}sh -c \"$SCRIPT\"");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", &outer]);
    command
        .env("S", small)
        .env("C", &context)
        .env("SCRIPT", script)
        .env("TAR", crate::rig::busybox_tar())
        .env("TMPDIR", rig.path("tmp"));
    command
        .env("HOME", rig.path(""))
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_DATA_HOME")
        .env_remove("RBUILD_ROOT");
    command.stdin(std::process::Stdio::null());
    finish(start(&mut command), &["small store"])
}

/// What a step prints cannot steer the terminal it is shown on by way of rbuild's own lines, and invalid text is no trouble.
fn terminals_and_output(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN printf '\\377\\376\\n\\0\\n'; head -c 300000 /dev/zero | tr '\\0' x; echo; head -c 100000 /dev/urandom; cat < /dev/tty; ls -l /proc/self/fd; tty; true\n";
    let out = rig.ok(&["build", "--progress=plain", &rig.dockerfile(text)]);
    assert!(out.stderr.contains("not a tty"), "a step had a terminal");
    traces::none(&rig);
}
