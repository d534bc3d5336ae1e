//! One build after another on one store: what is said when it fails, what runs again and why, and what comes out beside the image.

use serde_json::Value;

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::rig::{Rig, Who};
use crate::traces;

as_root_and_rootless! {
    failing_run
    exit_code_and_signal_of_a_run
    several_parse_errors_at_once
    faults_of_all_stations_at_once
    paths_missing_in_the_context
    slip_of_a_stage_name_beside_a_parse_error
    base_that_does_not_exist
    what_is_copied_from_has_a_name
    first_failure_cancels_the_others
    finished_steps_of_a_failed_build_are_kept
    no_cache
    early_cut_off
    copy_hits_after_a_parent_changed
    context_that_changes_while_it_is_read
    explain
    iidfile_metadata_and_quiet
    target_and_build_args
    equal_steps_run_once
    stages_run_side_by_side
    run_without_network
    dockerfile_on_stdin_and_elsewhere
    flags_that_do_nothing_and_flags_we_lack
}

const BUSYBOX: &str = "FROM busybox:latest\n";

fn last_line(log: &str) -> &str {
    log.trim_end().lines().last().unwrap_or_default()
}

/// The lines of a plain log that say how the step called `name` ended.
fn ended<'a>(log: &'a str, name: &str) -> &'a str {
    let number = log
        .lines()
        .find(|line| line.starts_with('#') && line.contains(name))
        .and_then(|line| line.split(' ').next())
        .unwrap_or_else(|| panic!("no step {name:?} in\n{log}"));
    log.lines()
        .filter_map(|line| line.strip_prefix(number)?.strip_prefix(' '))
        .rfind(|rest| ["DONE", "CACHED", "ERROR", "CANCELED"].iter().any(|word| rest.starts_with(word)))
        .unwrap_or_else(|| panic!("step {name:?} has no end in\n{log}"))
}

fn ran(log: &str, name: &str) -> bool {
    ended(log, name).starts_with("DONE")
}

fn cached(log: &str, name: &str) -> bool {
    ended(log, name) == "CACHED"
}

fn failing_run(who: Who) {
    let rig = Rig::new(who);
    let log = rig.fails(&["--progress=plain", &rig.dockerfile(&format!("{BUSYBOX}RUN false\n"))]);
    assert_eq!(
        last_line(&log),
        "ERROR: failed to build: failed to solve: process \"/bin/sh -c false\" did not complete successfully: exit code: 1"
    );
    let log =
        rig.fails(&["--progress=plain", &rig.dockerfile("FROM busybox:latest\nRUN echo one; echo two >&2; exit 3\n")]);
    let block = "------\n > [2/2] RUN echo one; echo two >&2; exit 3:\n";
    let (_, tail) = log.split_once(block).unwrap_or_else(|| panic!("no failure block in\n{log}"));
    let lines: Vec<_> = tail.lines().collect();
    assert!(lines[0].ends_with(" one") && lines[1].ends_with(" two"), "{log}");
    assert_eq!(&lines[2..4], ["------", "Dockerfile:2"]);
    assert!(tail.contains("   2 | >>> RUN echo one; echo two >&2; exit 3\n"), "{log}");
    assert!(last_line(&log).ends_with("did not complete successfully: exit code: 3"), "{log}");
    traces::none(&rig);
}

fn exit_code_and_signal_of_a_run(who: Who) {
    let rig = Rig::new(who);
    for (command, end) in [
        ("exit 7", "exit code: 7"),
        ("sh -c 'kill -9 $$'; exit $?", "exit code: 137"),
        ("nosuchprogram", "exit code: 127"),
    ] {
        let log = rig.fails(&["--progress=plain", &rig.dockerfile(&format!("{BUSYBOX}RUN {command}\n"))]);
        let want = format!("process \"/bin/sh -c {command}\" did not complete successfully: {end}");
        assert!(last_line(&log).starts_with("ERROR: failed to build: failed to solve: "), "{log}");
        assert!(last_line(&log).ends_with(&want), "{log}");
    }
}

fn several_parse_errors_at_once(who: Who) {
    let rig = Rig::empty(who);
    let text = "FROM scratch\nRUNN true\nCOPY onlyone\nENV\nCOPY --frob a b\n";
    let log = rig.fails(&["--progress=plain", &rig.dockerfile(text)]);
    assert_eq!(
        last_line(&log),
        "ERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)"
    );
    for (place, what) in [("2:1", "RUNN"), ("3:", "COPY"), ("4:", "ENV"), ("5:", "frob")] {
        let place = format!("Dockerfile:{place}");
        let line = log.lines().find(|line| line.contains(&place));
        assert!(line.is_some(), "no fault at {place} ({what}) in\n{log}");
    }
    assert!(log.contains('^'), "no caret in\n{log}");
}

/// What is wrong with the plan of the instructions that can be read is told with what cannot be read; of a file that can be
/// read, with an image that cannot be had.
fn faults_of_all_stations_at_once(who: Who) {
    let rig = Rig::empty(who);
    let text = "FROM nosuch:1\nSTOPSIGNAL NOPE\nRUNN true\nCOPY --from=7 a /\nEXPOSE $PORT\n";
    let unknown = "dockerfile parse error on line 3: unknown instruction: RUNN (did you mean RUN?)";
    let unavailable = "nosuch:1: failed to resolve source metadata";
    for (text, first, places) in [
        (text.to_owned(), unknown, &["2:12", "3:1", "4:13"][..]),
        (text.replace("RUNN", "RUN").replace("--from=7 ", ""), unavailable, &["1:6", "2:12", "4:6"]),
    ] {
        let log = rig.fails(&["--progress=plain", "--pull=never", &rig.dockerfile(&text)]);
        let last = last_line(&log).strip_prefix("ERROR: failed to build: failed to solve: ");
        assert!(last.is_some_and(|last| last.starts_with(first)), "{log}");
        assert_eq!(places_of_carets(&log), places, "{log}");
    }
}

fn places_of_carets(log: &str) -> Vec<&str> {
    log.lines().filter_map(|line| Some(line.strip_prefix("Dockerfile:")?.split_once(": ")?.0)).collect()
}

/// All of them at once, in the words of a step that fails for it, and before anything runs; of stages that are not built none.
fn paths_missing_in_the_context(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(
        "FROM busybox:latest AS first\nCOPY unneeded /\nFROM busybox\nRUN false\nCOPY Dockerfile bin/app lib /x/\n\
         RUN --mount=type=bind,source=none,target=/n true\n",
    );
    let log = rig.fails(&["--progress=plain", &context]);
    let missing = "failed to calculate checksum of ref context: \"/bin/app\": not found";
    assert_eq!(last_line(&log), format!("ERROR: failed to build: failed to solve: {missing}"));
    assert_eq!(places_of_carets(&log), ["5:17", "5:25", "6:13"], "{log}");
    assert!(ended(&log, "COPY Dockerfile bin/app").ends_with(missing) && !log.contains("RUN false\n#"), "{log}");
    let log = rig.fails(&["--progress=plain", "--target=first", &context]);
    assert_eq!(places_of_carets(&log), ["2:6"], "{log}");
    let checked = rig.ok(&["--check", &context]);
    assert!(
        checked.stdout.contains("\nNOTE: MissingSource ") && !checked.stdout.contains("unneeded\": not"),
        "{checked:?}"
    );
}

/// The name may be an image's, which only a registry knows, and is asked for that one.
fn slip_of_a_stage_name_beside_a_parse_error(who: Who) {
    let rig = Rig::empty(who);
    let text = "FROM scratch AS stage\nCOPY Dockerfile /\nFROM scratch\nCOPY --from=stag /Dockerfile /\nRUNN true\n\
                COPY --from=other /a /\n";
    let log = rig.fails(&["--progress=plain", "--pull=never", &rig.dockerfile(text)]);
    assert_eq!(places_of_carets(&log), ["4:13", "5:1"], "{log}");
    assert!(log.contains("(did you mean stage?)") && last_line(&log).contains("unknown instruction: RUNN"), "{log}");
}

fn base_that_does_not_exist(who: Who) {
    let rig = Rig::empty(who);
    let log = rig.fails(&["--progress=plain", "--pull=never", &rig.dockerfile("FROM nosuch:1\nRUN true\n")]);
    assert!(last_line(&log).starts_with("ERROR: failed to build: failed to solve: "), "{log}");
    assert!(last_line(&log).contains("nosuch:1"), "{log}");
    assert!(log.contains("Dockerfile:1"), "{log}");
}

/// The files that lack it have a name, whether they are a stage's, a numbered stage's, or an image's in which nothing was done.
fn what_is_copied_from_has_a_name(who: Who) {
    let rig = Rig::new(who);
    for (stages, from, name) in [
        (format!("{BUSYBOX}RUN true\n"), "0", "0"),
        ("FROM busybox AS tools\nRUN true\n".to_owned(), "tools", "tools"),
        (BUSYBOX.to_owned(), "0", "docker.io/library/busybox:latest"),
        (String::new(), "busybox", "docker.io/library/busybox:latest"),
    ] {
        let log = rig.fails(&[&rig.dockerfile(&format!("{stages}FROM scratch\nCOPY --from={from} /nope /\n"))]);
        assert!(log.contains(&format!("checksum of ref {name}: \"/nope\": not found")), "{name}: {log}");
    }
}

fn first_failure_cancels_the_others(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(&format!(
        "{BUSYBOX}ENV RIG={}\nRUN sleep 500\nFROM busybox AS bad\nRUN sleep 0.3; exit 9\nFROM busybox\n\
         COPY --from=0 /x /x\nCOPY --from=bad /x /y\n",
        rig.token()
    ));
    let log = rig.fails(&["--progress=plain", "--jobs=4", &context]);
    assert!(last_line(&log).ends_with("exit code: 9"), "{log}");
    assert_eq!(ended(&log, "RUN sleep 500"), "CANCELED", "{log}");
    traces::none(&rig);
}

fn finished_steps_of_a_failed_build_are_kept(who: Who) {
    let rig = Rig::new(who);
    rig.fails(&["--progress=plain", &rig.dockerfile(&format!("{BUSYBOX}RUN echo 1 >/one\nRUN false\n"))]);
    let log = rig.build(&[&rig.dockerfile(&format!("{BUSYBOX}RUN echo 1 >/one\nRUN true\n"))]);
    assert!(cached(&log, "RUN echo 1") && ran(&log, "RUN true"), "{log}");
}

fn no_cache(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox AS a\nRUN head -c 9 /dev/urandom | md5sum >/r\nFROM busybox AS b\nCOPY --from=a /r /r\n\
                RUN head -c 9 /dev/urandom | md5sum >/s\n";
    let context = rig.dockerfile(text);
    let id = |more: &[&str]| {
        let mut args = vec!["-q", &context];
        args.extend(more);
        rig.ok(&args).stdout
    };
    let first = id(&[]);
    assert!(first.starts_with("sha256:") && first.len() == 72, "{first:?}");
    assert_eq!(id(&[]), first, "a rebuild is the same image");
    let second = id(&["--no-cache"]);
    assert_ne!(second, first);
    assert_eq!(id(&[]), second, "what --no-cache made is what later builds find");
    let log = rig.build(&["--no-cache-filter=b", &context]);
    assert!(cached(&log, "head -c 9 /dev/urandom | md5sum >/r") && ran(&log, "md5sum >/s"), "{log}");
}

fn early_cut_off(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN --mount=type=bind,source=in,target=/in wc -c </in >/count\n\
                RUN head -c 9 /dev/urandom | md5sum >/stamp\n";
    let context = rig.context("context", &[("Dockerfile", text), ("in", "one\n")]);
    rig.build(&["-t", "cut:1", &context]);
    rig.context("context", &[("in", "two\n")]);
    let log = rig.build(&["-t", "cut:2", &context]);
    assert!(ran(&log, "wc -c"), "its input changed:\n{log}");
    assert!(cached(&log, "/stamp"), "what it made is the same, so nothing after it runs:\n{log}");
    rig.context("context", &[("in", "three\n")]);
    let log = rig.build(&["-t", "cut:3", &context]);
    assert!(ran(&log, "wc -c") && ran(&log, "/stamp"), "{log}");
}

fn copy_hits_after_a_parent_changed(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN --mount=type=bind,source=in,target=/in cat /in >/other\nWORKDIR /app\nCOPY big /app/\n\
                COPY --from=busybox /bin/busybox /app/box\n";
    let context = rig.context("context", &[("Dockerfile", text), ("in", "one\n"), ("big", "bytes\n")]);
    rig.build(&["-t", "hits:1", &context]);
    rig.context("context", &[("in", "two\n")]);
    let log = rig.build(&["-t", "hits:2", "-o", &format!("type=oci,dest={}", rig.arg("out.tar")), &context]);
    assert!(ran(&log, "cat /in"), "{log}");
    for step in ["WORKDIR /app", "COPY big", "COPY --from=busybox"] {
        assert!(cached(&log, step), "{step} does not depend on /other:\n{log}");
    }
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!(image.files["/other"].content, b"two\n");
    assert_eq!(image.files["/app/big"].content, b"bytes\n");
}

/// A layer never holds other bytes than its key says: a file that is not what it was when it was hashed is read once more, and
/// is an error if it never stands still (design 4.4).
fn context_that_changes_while_it_is_read(who: Who) {
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    let rig = Rig::new(who);
    let context = rig.context("context", &[("Dockerfile", "FROM scratch\nCOPY . /x\n"), ("restless", "")]);
    let file = std::fs::OpenOptions::new().write(true).open(rig.path("context/restless")).expect("open");
    file.set_len(64 << 20).expect("grow");
    let out = rig.arg("out.tar");
    let args = ["build", "--progress=plain", "-o", &format!("type=oci,dest={out}"), &context];
    let stop = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all_at(&number.to_le_bytes(), 0).expect("write");
            }
        });
        // On a busy machine whoever writes may sleep all through a build.
        let failed = (0..50).map(|_| rig.rbuild(&args)).find(|out| !out.status.success());
        stop.store(true, Ordering::Relaxed);
        failed
    });
    let failed = failed.expect("no build saw the file change");
    assert!(failed.stderr.contains("/x/restless; reading it again"), "{}", failed.stderr);
    assert!(last_line(&failed.stderr).ends_with("context changed while being read: /x/restless"), "{}", failed.stderr);
    traces::none(&rig);
    rig.ok(&args);
    let content = std::fs::read(rig.path("context/restless")).expect("read");
    assert!(Image::read(&rig.path("out.tar")).files["/x/restless"].content == content);
}

fn explain(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nARG V=1\nWORKDIR /src\nCOPY src .\nRUN echo $V; cat main >/out\n";
    let context =
        rig.context("context", &[("Dockerfile", text), ("src/main", "one\n"), ("src/same", "x\n"), ("README", "1\n")]);
    let log = rig.build(&["--explain", &context]);
    assert!(log.contains("never built before on this store"), "{log}");
    rig.context("context", &[("src/main", "two\n"), ("src/more", "new\n")]);
    let log = rig.build(&["--explain", &context]);
    assert!(log.contains("main content changed") && log.contains("more is new"), "{log}");
    let said = rig.ok(&["explain"]).stdout;
    assert!(said.contains("main content changed") && said.contains("COPY src ."), "{said}");
    let one = rig.ok(&["explain", "RUN"]).stdout;
    assert!(
        one.contains("RUN echo") && !one.lines().any(|line| line.starts_with('[') && line.contains("COPY")),
        "{one}"
    );

    let log = rig.build(&["--explain", "--build-arg", "V=2", &context]);
    assert!(cached(&log, "COPY src"), "{log}");
    let said = rig.ok(&["explain"]).stdout;
    assert!(said.contains("RUN") && said.contains('V'), "{said}");

    rig.context("context", &[("README", "2\n")]);
    let log = rig.build(&["--explain", "--build-arg", "V=2", &context]);
    assert!(!log.contains(" DONE 0.0s\n#9 "), "{log}");
    let said = rig.ok(&["explain"]).stdout;
    assert!(said.contains("3 steps were taken from the cache") && !said.contains("run in"), "{said}");
}

fn iidfile_metadata_and_quiet(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(&format!("{BUSYBOX}RUN echo 1 >/one\n"));
    let (iid, metadata) = (rig.arg("iid"), rig.arg("metadata.json"));
    std::fs::write(&iid, "old").expect("write");
    if let Some(user) = rig.user() {
        crate::rig::succeed(std::process::Command::new("chown").args([user, &iid]));
    }
    let out = rig.ok(&[
        "-q",
        "-t",
        "meta:1",
        "--iidfile",
        &iid,
        "--metadata-file",
        &metadata,
        "-o",
        &format!("type=oci,dest={}", rig.arg("out.tar")),
        &context,
    ]);
    assert_eq!(out.stderr, "", "-q shows nothing");
    let id = out.stdout.trim_end();
    assert_eq!(std::fs::read_to_string(&iid).expect("iidfile"), id);
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("JSON");
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["image.name"], "docker.io/library/meta:1");
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!(image.config_digest, id);
    assert_eq!(metadata["containerimage.digest"], image.manifest_digest.as_str());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], image.manifest_digest.as_str());

    let log = rig.fails(&["--progress=plain", "--iidfile", &iid, "-o", &rig.arg("files"), &context]);
    assert!(log.contains("local and tar exporters are incompatible with image ID file"), "{log}");
    rig.fails(&["--progress=plain", "--iidfile", &iid, &rig.dockerfile("FROM busybox\nRUN false\n")]);
    assert!(!std::path::Path::new(&iid).exists(), "the file of an earlier build must not survive a failure");
}

fn target_and_build_args(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(
        "ARG BASE=nosuch\nFROM ${BASE} AS first\nARG GREETING=hi\nENV TOLD=${GREETING}\nRUN echo $GREETING >/first\n\
         FROM first AS second\nRUN exit 1\n",
    );
    let out = format!("type=oci,dest={}", rig.arg("out.tar"));
    let log = rig.build(&[
        "--target=FIRST",
        "--build-arg=BASE=busybox",
        "--build-arg",
        "GREETING=ho",
        "--label",
        "a=b",
        "-o",
        &out,
        &context,
    ]);
    assert!(!log.contains("exit 1"), "a stage that is not needed is not there:\n{log}");
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!(image.files["/first"].content, b"ho\n");
    assert_eq!(image.config["config"]["Labels"]["a"], "b");
    assert!(image.config["config"]["Env"].to_string().contains("TOLD=ho"));
    let log = rig.fails(&["--target=third", "--build-arg=BASE=busybox", &context]);
    assert!(last_line(&log).contains("target stage \"third\" could not be found"), "{log}");
}

fn equal_steps_run_once(who: Who) {
    let rig = Rig::new(who);
    let step = "RUN --mount=type=cache,target=/c,sharing=shared echo line >>/c/lines; sleep 0.2; wc -l </c/lines >/n\n";
    let context = rig.dockerfile(&format!(
        "FROM busybox AS a\n{step}FROM busybox AS b\n{step}FROM busybox\nCOPY --from=a /n /a\nCOPY --from=b /n /b\n"
    ));
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("out.tar")), &context]);
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!((&image.files["/a"].content[..], &image.files["/b"].content[..]), (&b"1\n"[..], &b"1\n"[..]));
}

fn stages_run_side_by_side(who: Who) {
    let rig = Rig::new(who);
    // Each waits for the other: one after the other they would never end.
    let stage = |me: &str, other: &str| {
        format!(
            "FROM busybox AS {me}\nRUN --mount=type=cache,target=/c,sharing=shared touch /c/{me}; i=0; \
             while [ ! -e /c/{other} ]; do sleep 0.1; i=$((i+1)); [ $i -lt 300 ] || exit 1; done\n"
        )
    };
    let context = rig.dockerfile(&format!(
        "{}{}FROM busybox\nCOPY --from=x /etc/passwd /x\nCOPY --from=y /etc/passwd /y\n",
        stage("x", "y"),
        stage("y", "x")
    ));
    rig.build(&["--jobs=2", &context]);
}

fn run_without_network(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(
        "FROM busybox\nRUN --network=none ls /sys/class/net >/none; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' ' >/none\n\
         RUN cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' ' | sort >/host\n",
    );
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("out.tar")), &context]);
    let image = Image::read(&rig.path("out.tar"));
    assert_eq!(String::from_utf8_lossy(&image.files["/none"].content), "lo\n");
    let here = std::fs::read_to_string("/proc/net/dev").expect("interfaces");
    let mut here: Vec<_> = here.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect();
    here.sort();
    let there = String::from_utf8_lossy(&image.files["/host"].content).into_owned();
    assert_eq!(there.lines().map(str::to_owned).collect::<Vec<_>>(), here);
}

fn dockerfile_on_stdin_and_elsewhere(who: Who) {
    use std::io::Write as _;
    let rig = Rig::new(who);
    let context =
        rig.context("context", &[("a", "1\n"), ("docker/app.Dockerfile", "FROM busybox\nCOPY a /from-file\n")]);
    let out = format!("type=oci,dest={}", rig.arg("out.tar"));
    rig.build(&["-f", &format!("{context}/docker/app.Dockerfile"), "-o", &out, &context]);
    assert!(Image::read(&rig.path("out.tar")).files.contains_key("/from-file"));
    let args = ["--progress=plain", "-f", "-", "-o", &out, &context];
    let mut child = crate::rig::start(rig.command(&args).stdin(std::process::Stdio::piped()));
    child.stdin.take().expect("piped").write_all(b"FROM busybox\nCOPY a /from-stdin\n").expect("write");
    let ended = crate::rig::finish(child, &args);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(Image::read(&rig.path("out.tar")).files.contains_key("/from-stdin"));
}

fn flags_that_do_nothing_and_flags_we_lack(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(BUSYBOX);
    rig.build(&["--rm", "--force-rm", "--compress", "--provenance=false", "--sbom=false", &context]);
    for flag in ["--frobnicate", "--policy=x", "--builder=x"] {
        let out = rig.rbuild(&[flag, &context]);
        assert!(!out.status.success() && out.stderr.contains(flag.split('=').next().unwrap_or(flag)), "{}", out.stderr);
    }
}
