//! What every sandbox must do, one function per behaviour.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild::cancel::Cancel;
use rbuild::exec::{ExecError, HostCommand, Mount, MountKind, Root, Stream};

use crate::bench::{Bench, Ground, Setting, process};
use crate::mounts::{
    mount_bind, mount_discard, mount_file, mount_socket, mount_stack, mount_tmpfs, mounts_stay_inside,
    snapshots_show_the_stack,
};

pub type Named = (&'static str, fn(Setting));

macro_rules! named {
    ($($name:ident)*) => { &[$((stringify!($name), $name)),*] };
}

pub const ALL: &[Named] = named![
    env_is_exact exit_codes first_process_of_its_namespace program_faults user_and_groups capabilities_and_filter insecure_is_not_confined
    forbidden_calls working_directory limits devices device_nodes_are_dead rbuild_is_not_run_inside hidden_and_read_only_parts nothing_stays system_directories_stay names_and_network own_network_has_only_lo
    output_is_whole_and_in_order background_processes_die killed_from_outside cancel_kills_everything kill_of_rbuild_leaves_nothing
    many_at_once one_id_pretends programs_of_the_host mount_bind mount_stack mount_discard mount_tmpfs mount_file mount_socket
    mounts_stay_inside the_mode_is_told runs_again_on_the_same_root snapshots_show_the_stack a_terminal_is_lent
];

/// Who does something otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// In place, without namespaces.
    InPlace,
    /// By translated paths: the /proc, /dev and network of the container, its capabilities, its terminal.
    Translated,
    /// OCI runtimes.
    Runtimes,
    /// All but those with one id.
    ManyIds,
}

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The behaviour is not to be had.
    Whole,
    /// It expects something else there; look for `setting` in it.
    Part,
}

/// Everything in which settings differ, with the reason. What is not here is the same in all of them.
pub const EXCEPTIONS: &[(Who, &str, Extent, &str)] = &[
    (Who::InPlace, "first_process_of_its_namespace", Extent::Whole, "there is no PID namespace"),
    (Who::InPlace, "user_and_groups", Extent::Whole, "there may be no right to become others"),
    (
        Who::InPlace,
        "capabilities_and_filter",
        Extent::Whole,
        "there is no /proc to read them in; the outer filter stays",
    ),
    (Who::InPlace, "insecure_is_not_confined", Extent::Whole, "what the container is denied cannot be given"),
    (Who::InPlace, "limits", Extent::Whole, "there is no /dev/shm to limit"),
    (Who::InPlace, "devices", Extent::Whole, "/dev is the image's, with what may be made in it"),
    (Who::InPlace, "device_nodes_are_dead", Extent::Whole, "they are as the container has it"),
    (Who::InPlace, "hidden_and_read_only_parts", Extent::Whole, "there is no /proc and no /sys"),
    (
        Who::InPlace,
        "names_and_network",
        Extent::Whole,
        "the host name is the machine's; /etc/hosts is a copy that can be written to",
    ),
    (Who::InPlace, "a_terminal_is_lent", Extent::Whole, "there is no devpts for another one"),
    (Who::InPlace, "own_network_has_only_lo", Extent::Whole, "there is no network namespace"),
    (Who::InPlace, "program_faults", Extent::Whole, "programs are looked for by what may be read"),
    (Who::InPlace, "rbuild_is_not_run_inside", Extent::Whole, "there is no /proc to find it by"),
    (Who::InPlace, "snapshots_show_the_stack", Extent::Whole, "no attribute marks what is opaque"),
    (
        Who::InPlace,
        "mount_bind",
        Extent::Part,
        "what is read-only elsewhere is a copy; links are followed when it is made",
    ),
    (Who::InPlace, "mount_stack", Extent::Part, "no attribute marks what is opaque"),
    (Who::InPlace, "mount_tmpfs", Extent::Part, "it is a directory, of no size"),
    (Who::InPlace, "mount_file", Extent::Part, "root can write to any file that is not on a mount of its own"),
    (Who::Translated, "first_process_of_its_namespace", Extent::Whole, "there is no PID namespace"),
    (Who::Translated, "capabilities_and_filter", Extent::Whole, "they are the container's"),
    (Who::Translated, "insecure_is_not_confined", Extent::Whole, "what the container is denied cannot be given"),
    (Who::Translated, "limits", Extent::Whole, "/dev/shm is the container's"),
    (Who::Translated, "devices", Extent::Whole, "/dev is the container's"),
    (Who::Translated, "device_nodes_are_dead", Extent::Whole, "they are as the container has it"),
    (Who::Translated, "rbuild_is_not_run_inside", Extent::Whole, "/proc is the container's"),
    (Who::Translated, "hidden_and_read_only_parts", Extent::Whole, "/proc and /sys are the container's"),
    (Who::Translated, "own_network_has_only_lo", Extent::Whole, "there is no network namespace"),
    (Who::Translated, "a_terminal_is_lent", Extent::Whole, "there is no devpts for another one"),
    (Who::Translated, "snapshots_show_the_stack", Extent::Whole, "no attribute marks what is opaque"),
    (Who::Translated, "mount_stack", Extent::Part, "no attribute marks what is opaque"),
    (Who::Translated, "mount_tmpfs", Extent::Part, "it is a directory, of no size"),
    (Who::ManyIds, "one_id_pretends", Extent::Whole, "they need not pretend"),
    (
        Who::Runtimes,
        "env_is_exact",
        Extent::Part,
        "a runtime adds HOME where there is none; the steps of a build have one",
    ),
    (Who::Runtimes, "devices", Extent::Part, "crun links /dev/core on kernels without /proc/kcore too"),
    (
        Who::Runtimes,
        "program_faults",
        Extent::Part,
        "each has its own word for a directory; runc's depends on its version",
    ),
    (
        Who::Runtimes,
        "rbuild_is_not_run_inside",
        Extent::Whole,
        "/proc/self/exe is the runtime, which sees to itself (CVE-2019-5736); rbuild is not in the container",
    ),
];

/// Whether a behaviour can be had in a setting.
pub fn applies(name: &str, setting: Setting) -> bool {
    !EXCEPTIONS
        .iter()
        .any(|(who, known, extent, _)| *known == name && *extent == Extent::Whole && is_one_of(setting, *who))
}

fn is_one_of(setting: Setting, who: Who) -> bool {
    match who {
        Who::InPlace => setting.is_in_place(),
        Who::Translated => setting.is_translated(),
        Who::Runtimes => setting.is_runtime(),
        Who::ManyIds => !setting.has_one_id(),
    }
}

/// A part of a behaviour for those that are no exception.
fn is_usual(name: &str, setting: Setting) -> bool {
    let part = |(who, known, ..): &&(Who, &str, Extent, &str)| *known == name && is_one_of(setting, *who);
    !EXCEPTIONS.iter().any(|exception| part(&exception))
}

fn env_is_exact(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("env", |process| {
        process.env.push(("GREETING".into(), "hello world".into()));
        process.argv = vec!["env".into()];
    });
    let text = ran.text();
    let text = if is_usual("env_is_exact", setting) { text } else { text.trim_end_matches("\nHOME=/root") };
    assert_eq!(text, "PATH=/usr/bin:/bin\nGREETING=hello world");
}

fn exit_codes(setting: Setting) {
    let bench = Bench::new(setting);
    for code in [0, 1, 42, 255] {
        assert_eq!(bench.sh(&format!("exit {code}")).exit.expect("runs").code, code);
    }
    assert_eq!(bench.sh("sh -c 'kill -9 $$'; echo $?").text(), "137");
}

fn first_process_of_its_namespace(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.sh("echo $$; umask; cat; cat /proc/self/oom_score_adj; hostname; ps; true");
    let lines: Vec<_> = ran.text().lines().collect();
    assert_eq!(lines[..4], ["1", "0022", "0", "buildkitsandbox"]);
    // A header, the shell and ps.
    assert_eq!(lines.len(), 4 + 3, "{lines:?}");
    let ran = bench
        .run("", |process| process.argv = ["grep", "-E", "Sig(Blk|Ign)", "/proc/1/status"].map(String::from).to_vec());
    let blocked = ran.text().to_owned();
    assert_eq!(blocked, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
    let fds = bench.sh("ls /proc/self/fd").text().to_owned();
    assert_eq!(fds, "0\n1\n2\n3", "3 is ls's own");
}

fn program_faults(setting: Setting) {
    let bench = Bench::new(setting);
    let check = |argv: &[&str], expected: &str| {
        let ran = bench.start(&bench.root(), &process(argv), &Cancel::new());
        assert!(matches!(ran.exit, Err(ExecError::NotExecutable(_))), "{:?}", ran.exit);
        assert_eq!(ran.fault(), expected);
    };
    check(&["frobnicate"], "exec: \"frobnicate\": executable file not found in $PATH");
    check(&["/bin/none"], "exec: \"/bin/none\": stat /bin/none: no such file or directory");
    check(&["/etc/not-executable"], "exec: \"/etc/not-executable\": permission denied");
    if is_usual("program_faults", setting) {
        check(&["/etc"], "exec: \"/etc\": is a directory");
    } else {
        let fault = bench.start(&bench.root(), &process(&["/etc"]), &Cancel::new()).fault();
        assert!(fault.starts_with("exec: \"/etc\": "), "{fault}");
    }
    check(&[""], "exec: \"\": executable file not found in $PATH");
    let ran = bench.sh("printf 'junk' > /tmp/junk; chmod 755 /tmp/junk; /tmp/junk; echo $?");
    assert!(ran.exit.is_ok());
}

fn user_and_groups(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("id -u; id -g; id -G; echo x > /dev/stdout", |process| {
        (process.uid, process.gid, process.groups) = (1234, 33, vec![33, 44]);
    });
    // With one id everybody is its root.
    assert_eq!(
        ran.text(),
        if setting.has_one_id() { "0\n0\n0\nx" } else { "1234\n33\n33 44\nx" }
            .replace("0\n0\n0\n", &one_id_groups(&bench))
    );
    if !setting.has_one_id() {
        assert_eq!(bench.sh("id -G; touch /tmp/f; chown 7:8 /tmp/f; stat -c '%u %g' /tmp/f").text(), "0\n7 8");
    }
}

/// With one id groups cannot be dropped; busybox prints those outside the namespace too.
fn one_id_groups(bench: &Bench) -> String {
    let groups = bench.sh("id -G").text().to_owned();
    assert!(groups.starts_with('0'), "{groups}");
    format!("0\n0\n{groups}\n")
}

fn capabilities_and_filter(setting: Setting) {
    let bench = Bench::new(setting);
    let status = |uid: u32| {
        let ran = bench.run("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status", |process| process.uid = uid);
        ran.text().split_whitespace().filter(|word| !word.ends_with(':')).map(str::to_owned).collect::<Vec<_>>()
    };
    let (none, docker) = ("0000000000000000", "00000000a80425fb");
    assert_eq!(status(0), [none, docker, docker, docker, none, "0", "2"]);
    if !setting.has_one_id() {
        assert_eq!(status(1234), [none, none, none, docker, none, "0", "2"]);
    }
}

fn insecure_is_not_confined(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run(
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
        |process| {
            process.insecure = true;
        },
    );
    let text = ran.text();
    assert!(!text.contains("a80425fb") && text.ends_with("mounted"), "{text}");
    assert_eq!(text.contains("Seccomp:\t0"), !setting.has_one_id());
    let hidden = "cut -d' ' -f2 /proc/mounts | grep -c -E '^/(proc|sys/firmware)/.'; true";
    assert_eq!(bench.run(hidden, |process| process.insecure = true).text(), "0");
    assert_ne!(bench.sh(hidden).text(), "0");
}

fn forbidden_calls(setting: Setting) {
    let bench = Bench::new(setting);
    assert_eq!(bench.sh("mount -t tmpfs none /tmp 2>/dev/null || echo no").text(), "no");
    assert_eq!(bench.sh("unshare -U true 2>/dev/null || echo no").text(), "no");
    assert_eq!(bench.sh("chroot / /bin/echo yes").text(), "yes");
}

fn working_directory(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("pwd; stat -c '%u %g %a' . ..", |process| {
        (process.cwd, process.uid, process.gid) = ("/srv/app".into(), 1234, 33);
    });
    let owner = if setting.has_one_id() { "0 0 755" } else { "1234 33 755" };
    assert_eq!(ran.text(), format!("/srv/app\n{owner}\n{owner}"));
    assert!(ran.changes.join("srv/app").is_dir(), "it stays");
    let lower = &bench.lowers[0];
    fs_err::os::unix::fs::symlink("/../../../real", lower.join("link")).expect("link");
    assert_eq!(bench.run("pwd", |process| process.cwd = "/link/x".into()).text(), "/real/x");
    let fault = bench.run("pwd", |process| process.cwd = "/etc/passwd".into()).fault();
    assert!(fault.contains("/etc/passwd"), "{fault}");
    let ran = bench.run("pwd", |process| (process.cwd, process.uid) = ("/root/deep".into(), 1234));
    assert_eq!(ran.text(), "/root/deep");
}

fn limits(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("ulimit -n; ulimit -Hn; ulimit -c; df -k /dev/shm | awk 'NR==2 {print $2}'", |process| {
        process.ulimits = vec![("nofile".into(), 100, 200), ("core".into(), 0, 0)];
        process.shm_size = Some(1 << 20);
    });
    assert_eq!(ran.text(), "100\n200\n0\n1024");
    assert_eq!(bench.sh("df -k /dev/shm | awk 'NR==2 {print $2}'").text(), "65536");
    let fault = bench.run("true", |process| process.ulimits = vec![("frobs".into(), 1, 1)]).fault();
    assert_eq!(fault, "ulimit frobs: unknown resource");
}

fn devices(setting: Setting) {
    let bench = Bench::new(setting);
    let core = if Path::new("/proc/kcore").exists() { "core\n" } else { "" };
    let listing = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero";
    let text = bench.sh("ls /dev").text().to_owned();
    let text = if is_usual("devices", setting) { text.as_str() } else { text.trim_start_matches("core\n") };
    let core = if is_usual("devices", setting) { core } else { "" };
    assert_eq!(text, format!("{core}{listing}"));
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo y > /dev/shm/f && cat /dev/shm/f; ls /dev/pts; \
                  stat -c '%F %a' /dev/null /dev/shm; echo z > /dev/extra && cat /dev/extra; echo e > /dev/stderr";
    let ran = bench.sh(script);
    assert_eq!(ran.text(), "3\ny\nptmx\ncharacter special file 666\ndirectory 1777\nz");
    assert_eq!(ran.stderr, "e\n");
    // The directory stays, as with BuildKit; nothing that was in it does.
    assert_eq!(fs_err::read_dir(ran.changes.join("dev")).map_or(0, Iterator::count), 0);
}

fn device_nodes_are_dead(setting: Setting) {
    let bench = Bench::new(setting);
    if !setting.is_root() {
        // Only root can make any.
        return;
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let (kind, number) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, bench.lowers[0].join("node"), kind, mode, number).expect("mknod");
    let source = bench.scratch("cache");
    let script = "for dir in /tmp /dev /cache; do mknod $dir/n c 1 3; done; \
                  for node in /node /tmp/n /dev/n /cache/n; do (echo x > $node) 2>/dev/null && echo alive $node; done; \
                  echo x > /dev/null && echo null works";
    let run = |insecure: bool| {
        let ran = bench.run(script, |process| {
            process.insecure = insecure;
            let kind = MountKind::Bind { source: source.clone(), readonly: false };
            process.mounts = vec![Mount { target: "/cache".into(), kind }];
        });
        fs_err::remove_file(source.join("n")).expect("it was made");
        (ran.text().to_owned(), ran.changes)
    };
    let (text, changes) = run(false);
    assert_eq!(text, "null works");
    assert!(changes.join("tmp/n").exists(), "a layer may hold one");
    assert_eq!(run(true).0.matches("alive").count(), 4);
}

fn rbuild_is_not_run_inside(setting: Setting) {
    let bench = Bench::new(setting);
    let lower = &bench.lowers[0];
    fs_err::os::unix::fs::symlink("/proc/self/exe", lower.join("bin/link")).expect("link");
    fs_err::write(lower.join("bin/script"), "#! /proc/self/exe x\n").expect("write");
    std::fs::set_permissions(lower.join("bin/script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
    for name in ["link", "script", "/proc/self/exe"] {
        let ran = bench.start(&bench.root(), &process(&[name]), &Cancel::new());
        assert_eq!(ran.fault(), format!("exec: {name:?}: leads to rbuild itself"));
    }
}

fn hidden_and_read_only_parts(setting: Setting) {
    let bench = Bench::new(setting);
    let script = "for path in kcore keys timer_list; do head -c 1 /proc/$path 2>/dev/null | wc -c; done; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null; \
                  for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/x /proc/sys/x; do (echo x > $path) 2>/dev/null && echo WROTE $path; done; echo end";
    let text = bench.sh(script).text().to_owned();
    let kept: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
    assert_eq!(kept, ["0", "0", "0", "end"], "{text}");
    assert_eq!(bench.sh("grep -c sysfs /proc/mounts; ls /sys/fs/cgroup | wc -l").text().lines().next(), Some("1"));
    assert_eq!(
        bench.sh("cat /proc/self/mounts | cut -d' ' -f2 | grep -E '^/(tmp|work|home)' ; true").text(),
        "",
        "nothing of the host"
    );
}

/// The tree with kinds, modes and times, without the root's own access time.
fn listing(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs_err::symlink_metadata(&path).expect("stat");
        let name = path.strip_prefix(directory).expect("below").display().to_string();
        found.push(format!("{name} {:o} {}.{:09}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            todo.extend(fs_err::read_dir(&path).expect("read").map(|entry| entry.expect("entry").path()));
        }
    }
    found.sort();
    found
}

fn nothing_stays(setting: Setting) {
    let bench = Bench::new(setting);
    let root = bench.root();
    let directory = match &root {
        Root::Overlay { upper, .. } => upper.clone(),
        Root::Directory(path) => path.clone(),
    };
    bench.start(&root, &process(&["true"]), &Cancel::new()).exit.expect("runs");
    let mut before = listing(&directory);
    let mut process = process(&["true"]);
    let file = || MountKind::File { content: b"x".to_vec(), executable: false, mode: 0o400, uid: 0, gid: 0 };
    process.mounts = vec![
        Mount { target: "/run/secrets/deep/one".into(), kind: file() },
        Mount { target: "/etc/two".into(), kind: file() },
        Mount { target: "/usr/bin/cache".into(), kind: MountKind::Tmpfs { size: None, mode: None, readonly: false } },
    ];
    std::thread::sleep(Duration::from_millis(20));
    let ran = bench.start(&root, &process, &Cancel::new());
    let exit = ran.exit.expect("runs");
    for stub in ["/run", "/run/secrets", "/run/secrets/deep/one", "/etc/two", "/usr/bin/cache"] {
        assert!(exit.stubs.iter().any(|path| path == stub), "{stub} in {:?}", exit.stubs);
    }
    let after = listing(&directory);
    if let Root::Overlay { .. } = root {
        // Directories that were written to have been copied up; they equal those below.
        let lower = listing(&bench.lowers[0]);
        before.extend(
            lower.into_iter().filter(|line| ["etc ", "usr ", "usr/bin "].iter().any(|name| line.starts_with(name))),
        );
        before.sort();
    }
    assert_eq!(after, before);
    process.argv = vec!["sh".into(), "-c".into(), "echo kept > /run/secrets/mine".into()];
    bench.start(&root, &process, &Cancel::new()).exit.expect("runs");
    assert_eq!(fs_err::read_to_string(directory.join("run/secrets/mine")).expect("read"), "kept\n");
    assert!(!directory.join("run/secrets/deep").exists());
}

/// What BuildKit leaves in an image that has none of them; whoever removed them would make other layers than it does.
fn system_directories_stay(setting: Setting) {
    let bench = Bench::new(setting);
    let root = bench.root();
    let directory = match &root {
        Root::Overlay { upper, .. } => upper.clone(),
        Root::Directory(path) => path.clone(),
    };
    let exit = bench.start(&root, &process(&["true"]), &Cancel::new()).exit.expect("runs");
    for name in ["proc", "sys", "dev"] {
        assert!(!bench.lowers[0].join(name).exists());
        assert!(!exit.stubs.contains(&format!("/{name}")), "{:?}", exit.stubs);
        let made = fs_err::symlink_metadata(directory.join(name)).expect("it stays");
        assert_eq!((made.is_dir(), made.mode() & 0o7777), (true, 0o755), "{name}");
        assert_eq!(fs_err::read_dir(directory.join(name)).expect("reads").count(), 0, "{name}");
    }
}

fn names_and_network(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.run("cat /etc/hosts; (echo x >> /etc/hosts) 2>/dev/null || echo read-only", |process| {
        process.hostname = "box".into();
        process.add_hosts = vec![("db".into(), "10.0.0.7".into())];
    });
    let hosts = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n";
    assert_eq!(ran.text(), format!("{hosts}read-only"));
    let host = fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(bench.sh("cat /etc/resolv.conf").stdout, host);
    let interfaces = |text: &str| text.lines().filter(|line| line.contains(':')).count();
    let outside = interfaces(&fs_err::read_to_string("/proc/net/dev").expect("read"));
    assert_eq!(interfaces(bench.sh("cat /proc/net/dev").text()), outside);
}

fn own_network_has_only_lo(setting: Setting) {
    let bench = Bench::new(setting);
    let script = "ip -o link | cut -d: -f2; ip -o addr show lo | grep -c 'inet '; ls /sys/class/net; nc -l -p 99 -e echo heard & sleep 0.2; nc 127.0.0.1 99";
    let ran = bench.run(script, |process| process.isolate_network = true);
    let text = ran.text();
    assert!(text.starts_with(" lo\n1\nlo"), "{text}");
}

fn output_is_whole_and_in_order(setting: Setting) {
    let bench = Bench::new(setting);
    let ran = bench.sh("seq 1 170000; seq 1 170000 >&2");
    assert!(ran.stdout.len() > 1 << 20 && ran.stdout == ran.stderr);
    let ran = bench.sh("echo a; sleep 0.1; echo b >&2; sleep 0.1; echo c; printf 'no newline'");
    let order: Vec<_> = ran.order.iter().map(|(stream, text)| (*stream == Stream::Stdout, text.as_str())).collect();
    assert_eq!((order[0], order[1], order[2].0), ((true, "a\n"), (false, "b\n"), true));
    assert!(ran.stdout.ends_with("c\nno newline"));
}

/// How many processes outside or inside have this word on their command line.
fn alive(word: &str) -> usize {
    let entries = fs_err::read_dir("/proc").expect("read").flatten();
    let lines = entries.filter_map(|entry| fs_err::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}

#[expect(clippy::print_stderr, clippy::exit, reason = "fails the test at once")]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > Duration::from_secs(20) {
            // Not a panic: other threads of the test might wait for ever.
            eprintln!("waited in vain until {what}");
            std::process::exit(101);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A number of seconds nobody else sleeps.
fn marker() -> String {
    format!("{}.{}", 10_000 + std::process::id(), Instant::now().elapsed().as_nanos() % 1000 + 1)
}

fn background_processes_die(setting: Setting) {
    let bench = Bench::new(setting);
    let word = marker();
    let started = Instant::now();
    bench
        .sh(&format!(
            "sleep {word} & setsid sleep {word} & (setsid setsid sleep {word} >/dev/null 2>&1 &); sleep 0.1; echo done"
        ))
        .text();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(alive(&word), 0);
}

fn killed_from_outside(setting: Setting) {
    let bench = Bench::new(setting);
    let word = marker();
    let ran = std::thread::scope(|scope| {
        let target = word.clone();
        scope.spawn(move || {
            wait_until("it runs", || alive(&target) == 1);
            std::process::Command::new("pkill")
                .args(["-KILL", "-x", "-f", &format!("sleep {target}")])
                .status()
                .expect("pkill");
        });
        bench.start(&bench.root(), &process(&["sleep", &word]), &Cancel::new())
    });
    let exit = ran.exit.expect("runs");
    assert_eq!((exit.code, exit.out_of_memory), (137, false));
}

fn cancel_kills_everything(setting: Setting) {
    let bench = Bench::new(setting);
    let (word, cancel) = (marker(), Cancel::new());
    std::thread::scope(|scope| {
        let (target, raised) = (word.clone(), cancel.clone());
        scope.spawn(move || {
            wait_until("it runs", || alive(&target) == 2);
            raised.cancel();
        });
        let script = format!("trap '' TERM INT; setsid sleep {word} & sleep {word}; true");
        let ran = bench.start(&bench.root(), &process(&["sh", "-c", &script]), &cancel);
        assert!(matches!(ran.exit, Err(ExecError::Cancelled(_))), "{:?}", ran.exit);
    });
    assert_eq!(alive(&word), 0);
    let ran = bench.start(&bench.root(), &process(&["true"]), &cancel);
    assert!(matches!(ran.exit, Err(ExecError::Cancelled(_))), "not even started");
}

fn kill_of_rbuild_leaves_nothing(setting: Setting) {
    let word = marker();
    // Not entered itself: a process that may be killed does it.
    let name = format!("{}_{RUNS_UNTIL_KILLED}", setting.name());
    let temp = tempfile::tempdir().expect("temp dir");
    let own = temp.path().display().to_string();
    let mounts = || fs_err::read_to_string("/proc/self/mountinfo").expect("read").matches(&own).count();
    let mut child =
        crate::itself().args(["--inside", &name, &word]).env("TMPDIR", temp.path()).spawn().expect("starts");
    wait_until("its steps run", || alive(&word) >= 4);
    assert_eq!(mounts(), 0, "mounts are seen in steps only");
    child.kill().expect("kills");
    child.wait().expect("waits");
    wait_until("everything is gone", || alive(&word) == 0);
    if !rustix::process::geteuid().is_root() {
        // What subordinate ids own, only they can remove.
        let _inside = Bench::new(setting);
        crate::bench::remove(temp.path());
    }
}

/// The name of [`runs_until_killed`], which is no test.
pub const RUNS_UNTIL_KILLED: &str = "runs_until_killed";

pub fn runs_until_killed(setting: Setting) {
    let word = std::env::args().nth(3).expect("a word");
    let bench = Bench::new(setting);
    let script = format!("trap '' TERM HUP; setsid sleep {word} & sleep {word}; true");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| bench_run(&bench, &script));
        }
    });
}

/// The name of [`measure`], which is no test: `sandbox --inside root_measure 200` prints what an empty step costs.
pub const MEASURE: &str = "measure";

#[expect(clippy::print_stdout, reason = "its result")]
pub fn measure(setting: Setting) {
    let count = std::env::args().nth(3).and_then(|text| text.parse().ok()).unwrap_or(100);
    let bench = Bench::new(setting);
    let mut times = Vec::new();
    for isolated in [false, true] {
        times.clear();
        for _ in 0..count {
            let root = bench.root();
            let mut process = process(&["/bin/true"]);
            process.isolate_network = isolated;
            let start = Instant::now();
            bench.start(&root, &process, &Cancel::new()).exit.expect("runs");
            times.push(start.elapsed());
        }
        times.sort();
        let (median, p90) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        println!("{} network isolated: {isolated}: median {median:?}, p90 {p90:?}, min {:?}", setting.name(), times[0]);
    }
}

/// The name of [`interactive`], which is no test.
pub const INTERACTIVE: &str = "interactive";

pub fn interactive(setting: Setting) {
    let bench = Bench::new(setting);
    let mut process = process(&["sh", "-c", "readlink /proc/self/fd/0; read line; echo got $line; sleep 60 & exit 7"]);
    process.stdio = rbuild::exec::Stdio::Inherited;
    let exit = bench.start(&bench.root(), &process, &Cancel::new()).exit.expect("runs");
    assert_eq!(exit.code, 7);
}

fn a_terminal_is_lent(setting: Setting) {
    use std::io::Write;
    let own = std::env::current_exe().expect("own path");
    let inside = format!("{} --inside {}_{INTERACTIVE}", own.display(), setting.name());
    let run = |program: &mut std::process::Command| {
        let piped = program.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = piped.stderr(std::process::Stdio::inherit()).spawn().expect("starts");
        // Left open: script(1) takes its end for the end of the session.
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"typed\n").expect("write");
        let output = child.wait_with_output().expect("waits");
        drop(stdin);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).replace('\r', "")
    };
    let text = run(std::process::Command::new("script").args(["-qec", &inside, "/dev/null"]));
    assert!(text.contains("/dev/pts/0\n") && text.contains("got typed\n"), "{text}");
    let text = run(std::process::Command::new("sh").args(["-c", &inside]));
    assert!(text.starts_with("pipe:") && text.ends_with("got typed\n"), "without a terminal, what there is: {text}");
}

fn bench_run(bench: &Bench, script: &str) {
    let _ended = bench.start(&bench.root(), &process(&["sh", "-c", script]), &Cancel::new());
}

fn many_at_once(setting: Setting) {
    let bench = Bench::new(setting);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..50)
            .map(|number| {
                let bench = &bench;
                scope.spawn(move || {
                    let script = format!("echo {number} > /tmp/f; sleep 0.1; cat /tmp/f; exit {number}");
                    let ran = bench.start(&bench.root(), &process(&["sh", "-c", &script]), &Cancel::new());
                    (ran.exit.expect("runs").code, ran.stdout)
                })
            })
            .collect();
        for (number, run) in (0..).zip(runs) {
            assert_eq!(run.join().expect("no panic"), (number, format!("{number}\n")));
        }
    });
}

fn one_id_pretends(setting: Setting) {
    let bench = Bench::new(setting);
    fs_err::create_dir_all(bench.lowers[0].join("etc/apt/apt.conf.d")).expect("mkdir");
    let ran =
        bench.sh("touch /tmp/f; chown 7:8 /tmp/f && su -s /bin/sh app -c 'echo as app'; cat /etc/apt/apt.conf.d/*");
    assert_eq!(ran.text(), "as app\nAPT::Sandbox::User \"root\";");
    assert!(!ran.changes.join("etc/apt/apt.conf.d/zz-rbuild-one-id").exists());
}

fn programs_of_the_host(setting: Setting) {
    let bench = Bench::new(setting);
    let script = "id -u; cat; echo $WORD >&2; readlink /proc/self/ns/user";
    let command = HostCommand {
        argv: ["sh", "-c", script].map(Into::into).to_vec(),
        env: vec![("WORD".into(), "said".into())],
        unset: Vec::new(),
        cwd: Some("/".into()),
        stdin: b"read\n".to_vec(),
    };
    let output = bench.session.host().run(&command, &Cancel::new()).expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let own = std::fs::read_link("/proc/self/ns/user").expect("link").display().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((output.code, output.stderr.as_slice()), (0, b"said\n".as_slice()));
    let is_root = setting.is_root() && setting.ground != Ground::Translated;
    assert_eq!(lines[..2], [if is_root { "0" } else { "1000" }, "read"]);
    assert_eq!(lines[2] == own, setting.is_root());
    let missing = HostCommand { argv: vec!["/does/not/exist".into()], ..HostCommand::default() };
    let error = bench.session.host().run(&missing, &Cancel::new()).expect_err("missing");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

fn the_mode_is_told(setting: Setting) {
    let bench = Bench::new(setting);
    let mode = bench.session.mode(&bench.directory).to_string();
    let expected = match setting.ground {
        Ground::Root | Ground::RootCopied => "root, overlay",
        Ground::ManyIds => "rootless, overlay",
        Ground::OneId | Ground::OneIdCopied => {
            "rootless with a single id, overlay; owners are recorded but not seen by RUN: /etc/subuid"
        }
        Ground::InPlace => {
            "no namespaces, copied trees, one RUN at a time in a changed root: unshare: Operation not permitted"
        }
        Ground::Translated => {
            "no namespaces, copied trees, RUN by translated paths, owners are recorded but not seen by RUN: unshare: "
        }
    };
    assert!(mode.starts_with(expected), "{mode}");
    let exact = bench.session.ownership == rbuild::exec::Ownership::Exact;
    assert_eq!(exact, !setting.has_one_id());
}

fn runs_again_on_the_same_root(setting: Setting) {
    let bench = Bench::new(setting);
    let root = bench.root();
    for (script, expected) in
        [("echo 1 > /f; cat /f", "1"), ("cat /f; rm /f; ls /f 2>/dev/null; true", "1"), ("ls /f 2>&1 | wc -l", "1")]
    {
        let ran = bench.start(&root, &process(&["sh", "-c", script]), &Cancel::new());
        assert_eq!(ran.text(), expected);
    }
}
