//! What a build may leave behind when it is over, however it ended: nothing but what is in its store.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::rig::Rig;

/// How long the kernel may take to end the processes of a killed build.
const PATIENCE: Duration = Duration::from_secs(120);

/// Processes of this rig: rbuild, its helpers, steps that carry the rig's token in their environment.
pub(crate) fn processes(rig: &Rig) -> Vec<String> {
    let token = rig.token();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Ok(environment) = std::fs::read(dir.join("environ")) else { continue };
        if String::from_utf8_lossy(&environment).contains(&token) {
            let words = std::fs::read(dir.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push(format!("{}: {line}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn mounts(rig: &Rig) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    all.lines().filter(|line| line.contains(&rig.token())).map(str::to_owned).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().display().to_string()).collect()
}

/// Waits until no process of this rig is left; a mount of theirs must not be left then either.
#[track_caller]
pub(crate) fn none_running(rig: &Rig) {
    let begin = Instant::now();
    loop {
        let left = processes(rig);
        if left.is_empty() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "still running after {PATIENCE:?}:\n{}", left.join("\n"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(mounts(rig), Vec::<String>::new(), "mounts are left");
}

/// Nothing is left: no process, no mount, no temporary directory, no lease. After a crash that is so once another command has
/// run on the store.
#[track_caller]
pub(crate) fn none(rig: &Rig) {
    none_running(rig);
    for dir in [rig.store().join("tmp"), rig.store().join("leases"), rig.path("tmp")] {
        assert_eq!(names(&dir), Vec::<String>::new(), "left in {}", dir.display());
    }
}
