//! Builds that are stopped: by a signal, or by kill -9 at any moment. Whatever happened, the next build is right and nothing of
//! the old one is left.

use std::time::{Duration, Instant};

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::rig::{Rig, Who, environment, finish, start};
use crate::sharing::{signal, wait_until};
use crate::traces;

as_root_and_rootless! {
    killed_at_any_moment
    killed_helpers_end_the_build
    interrupt_and_terminate
    a_second_interrupt_ends_at_once
}

/// A number that looks random; the same in every run of the tests, so that a failure can be seen again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

fn context(rig: &Rig, round: usize) -> String {
    let text = format!(
        "FROM busybox AS left\nENV RIG={}\nCOPY round /round\nCOPY many /many\n\
         RUN i=0; while [ $i -lt 20 ]; do cat /round >/left-$i; i=$((i+1)); done; sleep 0.05\n\
         FROM busybox AS right\nENV RIG={}\nCOPY round /round\nRUN rm /bin/vi && mv /bin/ls /bin/ls2 && cp /round /right\n\
         RUN sleep 0.05; cat /right /right >/right2\n\
         FROM busybox\nWORKDIR /app/deep\nCOPY --from=left /left-7 /left\nCOPY --from=left /many /many\n\
         COPY --from=right /right2 .\nCOPY --chown=33:33 round /owned\nRUN cat /left /owned >/sum\n",
        rig.token(),
        rig.token()
    );
    let round = format!("round {round}\n");
    let mut files = vec![("Dockerfile".to_owned(), text), ("round".to_owned(), round.clone())];
    files.extend((0..60).map(|n| (format!("many/{}/{n}", n % 7), format!("{n} {round}"))));
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    rig.context("context", &files)
}

fn check(rig: &Rig, round: usize) {
    let image = Image::read(&rig.path("out.tar"));
    let text = |path: &str| String::from_utf8_lossy(&image.files[path].content).into_owned();
    let want = format!("round {round}\n");
    assert_eq!(text("/left"), want);
    assert_eq!(text("/app/deep/right2"), want.repeat(2));
    assert_eq!(text("/sum"), want.repeat(2));
    assert_eq!(image.files["/owned"].uid, 33);
    for n in 0..60 {
        assert_eq!(text(&format!("/many/{}/{n}", n % 7)), format!("{n} {want}"));
    }
}

/// How often a build is killed, unless `RBUILD_TEST_KILLS` says so (`tests/all.sh` does).
const KILLS: usize = 50;

fn killed_at_any_moment(who: Who) {
    let rounds =
        environment("RBUILD_TEST_KILLS").map_or(KILLS, |text| text.parse().expect("RBUILD_TEST_KILLS: a number"));
    let rig = Rig::new(who);
    let out = format!("type=oci,dest={}", rig.arg("out.tar"));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let begin = Instant::now();
    rig.build(&["-t", "killed:1", "-o", &out, &context(&rig, 1000)]);
    let mut usual = begin.elapsed().as_micros() as u64;
    let mut before_the_end = 0;
    for round in 0..rounds {
        let args = ["--progress=plain", "-t", "killed:1", "-o", &out, &context(&rig, round)];
        let mut child = start(&mut rig.command(&args));
        std::thread::sleep(Duration::from_micros(dice.roll(usual)));
        before_the_end += usize::from(child.try_wait().expect("wait").is_none());
        child.kill().expect("kill -9");
        child.wait().expect("wait");
        traces::none_running(&rig);
        let begin = Instant::now();
        let log = rig.build(&["-t", "killed:1", "-o", &out, &context(&rig, round)]);
        usual = (usual * 7 + begin.elapsed().as_micros() as u64) / 8;
        assert!(!log.contains("WARN"), "{log}");
        check(&rig, round);
        traces::none(&rig);
    }
    assert!(before_the_end > rounds / 2, "only {before_the_end} of {rounds} builds were still running when killed");
    rig.ok(&["prune", "--all", "--force"]);
    rig.build(&["-o", &out, &context(&rig, 2000)]);
    check(&rig, 2000);
}

fn killed_helpers_end_the_build(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(&format!("FROM busybox\nENV RIG={}\nRUN sleep 600\n", rig.token()));
    let asleep = || traces::processes(&rig).iter().any(|line| line.contains("sleep 600"));
    let mut seen = 0;
    // Every process of the build that is not the main one, one after the other.
    for victim in 0..8 {
        let mut child = start(&mut rig.command(&["--progress=plain", &context]));
        wait_until("the step sleeps", asleep);
        let pids: Vec<u32> = traces::processes(&rig)
            .iter()
            .filter_map(|line| line.split(':').next()?.parse().ok())
            .filter(|pid| *pid != child.id())
            .collect();
        let Some(pid) = pids.get(victim) else {
            signal(child.id(), "TERM");
            finish(child, &["build"]);
            break;
        };
        signal(*pid, "KILL");
        for _ in 0..200 {
            if child.try_wait().expect("wait").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if child.try_wait().expect("wait").is_none() {
            // The one that starts git and credential helpers outside: nobody needs it now, so the build goes on.
            assert!(asleep(), "the step is gone and the build goes on");
            signal(child.id(), "TERM");
        } else {
            seen += 1;
        }
        let out = finish(child, &["build"]);
        assert!(!out.status.success(), "victim {victim} of {pids:?}:\n{}", out.stderr);
        assert!(out.stderr.contains("ERROR: failed to build: failed to solve: "), "{}", out.stderr);
        traces::none(&rig);
    }
    assert!(seen >= 2, "a launcher and a step were expected");
    rig.build(&[&rig.dockerfile("FROM busybox\nRUN true\n")]);
}

fn interrupt_and_terminate(who: Who) {
    let rig = Rig::new(who);
    let text = format!(
        "FROM busybox\nENV RIG={}\nRUN echo kept >/kept\nRUN trap '' INT TERM HUP; echo deaf; sleep 600 & sleep 600\n",
        rig.token()
    );
    let context = rig.dockerfile(&text);
    for name in ["INT", "TERM"] {
        let child = start(&mut rig.command(&["--progress=plain", &context]));
        wait_until("the step sleeps", || traces::processes(&rig).iter().any(|line| line.contains("sleep 600")));
        let begin = Instant::now();
        signal(child.id(), name);
        let out = finish(child, &["build"]);
        assert!(begin.elapsed() < Duration::from_secs(15), "took {:?}", begin.elapsed());
        assert!(!out.status.success());
        let last = out.stderr.trim_end().lines().last().unwrap_or_default().to_lowercase();
        assert!(
            last.starts_with("error: failed to build: failed to solve: ") && last.contains("cancel"),
            "{}",
            out.stderr
        );
        assert!(out.stderr.contains("CANCELED"), "{}", out.stderr);
        traces::none(&rig);
    }
    let log = rig.build(&[&rig.dockerfile(&text.replace("sleep 600 & sleep 600", "true"))]);
    assert!(log.contains("RUN echo kept >/kept\n#5 CACHED") || log.matches("CACHED").count() >= 1, "{log}");
}

fn a_second_interrupt_ends_at_once(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(&format!("FROM busybox\nENV RIG={}\nRUN trap '' INT TERM; sleep 600\n", rig.token()));
    let child = start(&mut rig.command(&["--progress=plain", &context]));
    wait_until("the step sleeps", || traces::processes(&rig).iter().any(|line| line.contains("sleep 600")));
    signal(child.id(), "INT");
    let again = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).output().expect("kill");
    drop(again);
    let begin = Instant::now();
    let out = finish(child, &["build"]);
    assert!(begin.elapsed() < Duration::from_secs(5) && !out.status.success(), "{}", out.stderr);
    traces::none_running(&rig);
    rig.build(&[&rig.dockerfile("FROM busybox\nRUN true\n")]);
    traces::none(&rig);
}
