//! Attacks on the cache: two builds that differ in one thing, one after the other on one store. The second must come out as on an
//! empty store, whatever the first left there; and what does not differ must not be done again.

use crate::as_root_and_rootless;
use crate::rig::{Rig, Who};

as_root_and_rootless! {
    mounts_show_what_they_name
    mounted_directories_have_their_modes
    chosen_times_are_part_of_a_result
    times_of_the_run_are_not
    arguments_are_not_taken_for_variables
    explain_names_what_really_changed
}

/// Two stages with the same names and other contents.
const TWINS: &str = "FROM busybox AS s\nRUN mkdir /a /b && echo A > /a/f && echo B > /b/f\nFROM busybox\n";

/// Builds both Dockerfiles and returns what `/out` of each says.
fn outs(who: Who, first: &str, second: &str) -> [String; 2] {
    let rig = Rig::new(who);
    let out = |name: &str, dockerfile: &str| {
        let context = rig.context(name, &[("Dockerfile", dockerfile), ("d/f", "of context\n")]);
        let to = format!("out-{name}");
        rig.build(&["-o", &to, &context]);
        std::fs::read_to_string(rig.path(&to).join("out")).expect("out").trim_end().to_owned()
    };
    [out("one", first), out("two", second)]
}

fn check(who: Who, first: &str, second: &str, expected: [&str; 2]) {
    assert_eq!(outs(who, first, second), expected, "{first}\n{second}");
}

fn mounts_show_what_they_name(who: Who) {
    let mounted = |path: &str| format!("{TWINS}RUN --mount=type=bind,from=s,source={path},target=/m cat /m/f > /out\n");
    check(who, &mounted("/a"), &mounted("/b"), ["A", "B"]);
    let seeded =
        |path: &str| format!("{TWINS}RUN --mount=type=cache,id=c,from=s,source={path},target=/m cat /m/f > /out\n");
    check(who, &seeded("/a"), &seeded("/b"), ["A", "B"]);
    // The directory itself is to be seen, too.
    let moded = |mode: &str| {
        format!(
            "FROM busybox AS s\nRUN mkdir -m {mode} /a && echo A > /a/f\nFROM busybox\n\
             RUN --mount=type=bind,from=s,source=/a,target=/m stat -c %a /m > /out\n"
        )
    };
    check(who, &moded("755"), &moded("700"), ["755", "700"]);
    let owned = |uid: u32| {
        format!(
            "FROM busybox AS s\nRUN mkdir /a && echo A > /a/f && chown {uid} /a\nFROM busybox\n\
             RUN --mount=type=cache,id=o,from=s,source=/a,target=/m stat -c %u /m > /out\n"
        )
    };
    check(who, &owned(5), &owned(6), ["5", "6"]);
}

fn mounted_directories_have_their_modes(who: Who) {
    let rig = Rig::new(who);
    let dockerfile = "FROM busybox\nRUN --mount=type=bind,source=d,target=/m stat -c %a /m > /out && find /m >> /out\n";
    let context = rig.context("c", &[("Dockerfile", dockerfile), ("d/e/f", "x")]);
    for mode in [0o755, 0o705] {
        crate::rig::set_mode(&rig.path("c/d"), mode);
        rig.build(&["-o", "out", &context]);
        let found = std::fs::read_to_string(rig.path("out/out")).expect("out");
        assert_eq!(found, format!("{mode:o}\n/m\n/m/e\n/m/e/f\n"));
    }
}

fn chosen_times_are_part_of_a_result(who: Who) {
    let touched = |year: u32| {
        format!("FROM busybox\nRUN touch -d '{year}-01-01 00:00:00' /x\nRUN touch /y\nRUN date -r /x +%Y > /out\n")
    };
    check(who, &touched(2001), &touched(2002), ["2001", "2002"]);
}

fn times_of_the_run_are_not(who: Who) {
    let rig = Rig::new(who);
    let build = |name: &str, command: &str| {
        let dockerfile = format!("FROM busybox\nRUN {command}\nRUN echo ran again && cat /x > /y\n");
        rig.build(&[&rig.context(name, &[("Dockerfile", &dockerfile)])])
    };
    build("one", "echo x > /x");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let log = build("two", "printf 'x\\n' > /x");
    assert!(!log.contains(" ran again\n"), "the same file makes the same step\n{log}");
}

fn arguments_are_not_taken_for_variables(who: Who) {
    let rig = Rig::new(who);
    // What a key has instead of an argument's value.
    let digest = rbuild_cache::digest::Blake3::of(b"foo");
    let dockerfile = |how: &str| format!("FROM busybox\n{how}\nRUN echo $X > /out\n");
    let (arg, env) = (dockerfile("ARG X=foo"), dockerfile(&format!("ENV X=blake3:{digest}")));
    for (name, text, expected) in [("one", arg, "foo".to_owned()), ("two", env, format!("blake3:{digest}"))] {
        let to = format!("out-{name}");
        rig.build(&["-o", &to, &rig.context(name, &[("Dockerfile", &text)])]);
        assert_eq!(std::fs::read_to_string(rig.path(&to).join("out")).expect("out").trim_end(), expected);
    }
}

fn explain_names_what_really_changed(who: Who) {
    let rig = Rig::new(who);
    let first = "FROM busybox\nRUN echo one > /one\nCOPY d /d\nRUN cat /d/* > /out\n";
    let build = |dockerfile: &str, name: &str| {
        let context = rig.context("context", &[("Dockerfile", dockerfile)]);
        let dir = rig.path("context/d");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("mkdir");
        std::fs::write(dir.join(name), "text").expect("written");
        rig.build(&[&context]);
        rig.ok(&["explain"]).stdout
    };
    let says = |explained: &str, step: &str, reason: &str| {
        let lines: Vec<&str> = explained.lines().collect();
        let at = lines.iter().position(|line| line.contains(step)).unwrap_or_else(|| panic!("{step}\n{explained}"));
        assert!(lines[at + 1].contains(reason), "{step}: {reason}\n{explained}");
    };
    build(first, "a");
    let explained = build(first, "b");
    says(&explained, "COPY d /d", "/d/a is called /d/b now");
    says(&explained, "RUN cat", "the root it starts from changed: COPY d /d has another result");
    // The COPY between is taken from the cache: it is not to blame.
    let explained = build(&first.replace("echo one", "echo 1"), "b");
    says(&explained, "RUN echo 1", "command changed: \"echo one > /one\" -> \"echo 1 > /one\"");
    says(&explained, "RUN cat", "the root it starts from changed: RUN echo 1 > /one has another result");
    let base = rig.context("base", &[("Dockerfile", "FROM busybox\nRUN touch /new\n")]);
    rig.build(&["-t", "busybox:latest", &base]);
    let explained = build(first, "b");
    says(&explained, "RUN echo one", "the base image changed");
    says(&explained, "RUN cat", "the base image changed");
}
