//! How often the kernel killed something of ours for lack of memory.
//!
//! Read from the control group that rbuild and all its steps are in. Groups of our own would tell steps apart, but would
//! need rights we rarely have, and would stay behind after kill -9.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The count so far; 0 where nothing counts.
pub(crate) fn kills() -> u64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE
        .get_or_init(|| find(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), &|path| path.exists()));
    let text = file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or_default()
}

/// The file with the counter, from the text of /proc/self/cgroup. In a container the path may be of the host: then the
/// root that is mounted is ours.
fn find(cgroup: &str, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut candidates = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            _ if controllers.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.oom_control"),
            _ => continue,
        };
        let mount = Path::new(mount);
        candidates.extend([mount.join(path.trim_start_matches('/')).join(file), mount.join(file)]);
    }
    candidates.into_iter().find(|path| exists(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_group_of_either_kind() {
        let check = |cgroup: &str, existing: &[&str], expected: Option<&str>| {
            let found = find(cgroup, &|path| existing.iter().any(|known| Path::new(known) == path));
            assert_eq!(found.as_deref(), expected.map(Path::new));
        };
        let (own, root) = ("/sys/fs/cgroup/a/b/memory.events", "/sys/fs/cgroup/memory.events");
        check("0::/a/b\n", &[own, root], Some(own));
        check("0::/host/path\n", &[root], Some(root));
        let old = "/sys/fs/cgroup/memory/x/memory.oom_control";
        check("4:cpu,memory:/x\n1:cpu:/\n0::/\n", &[old], Some(old));
        check("", &[], None);
    }
}
