//! A program that tries one forbidden thing after the other from inside a step, as its root and as a user.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::as_root_and_rootless;
use crate::outside::Outside;
use crate::rig::{Rig, Who, installed};

as_root_and_rootless! {
    forbidden_things_are_forbidden
    masked_and_read_only_paths
}

/// The program, linked statically; `None` where there is no C compiler.
fn probe() -> Option<&'static PathBuf> {
    static PROBE: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROBE
        .get_or_init(|| {
            if !installed("gcc") {
                return None;
            }
            let dir = tempfile::Builder::new().prefix("rbuild-hostile-").tempdir().expect("temp dir").keep();
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/probe.c");
            let built = std::process::Command::new("gcc")
                .args(["-O1", "-static", "-o"])
                .arg(dir.join("probe"))
                .arg(source)
                .status()
                .expect("gcc");
            assert!(built.success(), "probe.c does not compile");
            Some(dir.join("probe"))
        })
        .as_ref()
}

fn forbidden_things_are_forbidden(who: Who) {
    let Some(probe) = probe() else { return };
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for user in ["0", "1000"] {
        let text = format!(
            "FROM busybox\nCOPY probe /probe\nUSER {user}\nRUN /probe {} {}\n",
            std::process::id(),
            outside.path("secret")
        );
        let context = rig.context("context", &[("Dockerfile", &text)]);
        std::fs::copy(probe, rig.path("context/probe")).expect("copy");
        let out = rig.ok(&["build", "--progress=plain", &context]);
        let said =
            |what: &str| out.stderr.lines().filter(|line| line.contains(what)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(said("ALLOWED"), Vec::<String>::new(), "as user {user}");
        assert!(said("refused").len() > 40, "{}", out.stderr);
        outside.safe(&rig, &out);
    }
}

fn masked_and_read_only_paths(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let write = "for f in $(find /proc/sys /proc/irq /proc/bus /proc/fs /sys -type f 2>/dev/null | head -3000) /proc/sysrq-trigger /proc/kcore /proc/keys /proc/timer_list /proc/acpi/x /proc/scsi/scsi /sys/firmware/x /sys/fs/cgroup/x /proc/1/oom_score_adj_ /sys/kernel/uevent_helper /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /sys/power/state /proc/mtrr; do test -c $f && continue; { cat /dev/null >> $f; } 2>/dev/null && echo \"WRITABLE $f\"; done; for f in /proc/keys /proc/kcore /proc/timer_list /proc/sched_debug; do test -s $f && head -c 1 $f | grep -q . && echo \"READABLE $f\"; done; ls -A /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep . && echo NOT-MASKED; for d in /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo WRITABLE $d; done; true";
    let context =
        rig.context("context", &[("Dockerfile", "FROM busybox\nCOPY try.sh /\nRUN sh /try.sh\n"), ("try.sh", write)]);
    let out = rig.ok(&["build", "--progress=plain", &context]);
    for word in ["WRITABLE", "READABLE", "NOT-MASKED"] {
        assert!(!out.stderr.contains(word), "{}", out.stderr);
    }
    outside.safe(&rig, &out);
}
