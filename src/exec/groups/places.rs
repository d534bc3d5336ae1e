//! Where control groups can be made on this machine: tried, not inferred.
//!
//! Each controller is either in a hierarchy of its own kind (version 1) or in the unified one (version 2). There, a group with
//! processes of its own gives its children no controllers, so the nearest group above ours is taken that does; in the older
//! ones it is our own.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::Controller;

/// Which interface a hierarchy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// A hierarchy of some controllers.
    One,
    /// The unified one.
    Two,
}

/// A group in which groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) version: Version,
    /// Those of the wanted ones that are found there.
    pub(super) controllers: Vec<Controller>,
}

/// A hierarchy that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    version: Version,
    /// Of version 1: what it controls.
    controllers: Vec<String>,
    /// Our own group's directory.
    own: PathBuf,
}

/// Places for all of `controllers`, or what is missing.
pub(super) fn find(controllers: &[Controller], parent: Option<&str>) -> Result<Vec<Place>, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let hierarchies = hierarchies(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    let mut places: Vec<Place> = Vec::new();
    for controller in controllers {
        let place = place_for(*controller, &hierarchies, parent).map_err(|why| explain(*controller, &why))?;
        match places.iter_mut().find(|known| known.directory == place.directory) {
            Some(known) => known.controllers.push(*controller),
            None => places.push(place),
        }
    }
    Ok(places)
}

fn explain(controller: Controller, why: &str) -> String {
    let name = controller.name();
    format!(
        "limits of a step need a control group that rbuild may write to, with the {name} controller: {why}. As root, mount \
         /sys/fs/cgroup read-write; as a user, start rbuild in a group of your own: `systemd-run --user --scope -p Delegate=yes \
         rbuild build …`"
    )
}

fn place_for(controller: Controller, hierarchies: &[Hierarchy], parent: Option<&str>) -> Result<Place, String> {
    let name = controller.name();
    let old = hierarchies.iter().find(|found| found.controllers.iter().any(|known| known == name));
    let new = hierarchies.iter().find(|found| found.version == Version::Two);
    let Some(hierarchy) = old.or(new) else { return Err("no control groups are mounted here".to_owned()) };
    let mut tried = String::new();
    for directory in candidates(hierarchy, parent) {
        match attempt(&directory, hierarchy.version, controller, parent.is_some()) {
            Ok(()) => return Ok(Place { directory, version: hierarchy.version, controllers: vec![controller] }),
            Err(error) => {
                let comma = if tried.is_empty() { "" } else { ", " };
                let _ = write!(tried, "{comma}{}: {error}", directory.display());
            }
        }
    }
    Err(format!("tried {tried}"))
}

/// Where to try, in order.
fn candidates(hierarchy: &Hierarchy, parent: Option<&str>) -> Vec<PathBuf> {
    if let Some(parent) = parent {
        return vec![hierarchy.mount.join(parent.trim_start_matches('/'))];
    }
    match hierarchy.version {
        Version::One => vec![hierarchy.own.clone()],
        Version::Two => {
            let above = hierarchy.own.ancestors().take_while(|path| path.starts_with(&hierarchy.mount));
            above.map(Path::to_owned).collect()
        }
    }
}

/// Makes a group in `directory` that has the controller, and removes it.
fn attempt(directory: &Path, version: Version, controller: Controller, make: bool) -> io::Result<()> {
    if make {
        std::fs::create_dir_all(directory)?;
    }
    if version == Version::Two {
        let listed = |file: &str| -> io::Result<bool> {
            let text = std::fs::read_to_string(directory.join(file))?;
            Ok(text.split_whitespace().any(|word| word == controller.name()))
        };
        if !listed("cgroup.controllers")? {
            return Err(io::Error::other(format!("it has no {} controller", controller.name())));
        }
        if !listed("cgroup.subtree_control")? {
            std::fs::write(directory.join("cgroup.subtree_control"), format!("+{}", controller.name()))?;
        }
    }
    let probe = directory.join(format!("rbuild-probe-{}", std::process::id()));
    std::fs::create_dir(&probe)?;
    let file = match (controller, version) {
        (Controller::Memory, Version::One) => "memory.limit_in_bytes",
        (Controller::Memory, Version::Two) => "memory.max",
        (Controller::Cpu, Version::One) => "cpu.shares",
        (Controller::Cpu, Version::Two) => "cpu.weight",
        (Controller::Cpuset, _) => "cpuset.cpus",
    };
    let found = std::fs::metadata(probe.join(file)).map(drop);
    std::fs::remove_dir(&probe)?;
    found
}

/// The hierarchies from the texts of /proc/self/mountinfo and /proc/self/cgroup.
fn hierarchies(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = left.split(' ').collect();
        let mut rest = right.split(' ');
        let (Some(root), Some(mount), Some(kind)) = (fields.get(3), fields.get(4), rest.next()) else { continue };
        let version = match kind {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        let options: Vec<String> = match version {
            Version::One => rest.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect(),
            Version::Two => Vec::new(),
        };
        let own = own_group(cgroup, version, &options).unwrap_or("/");
        // What is mounted may be a part of the hierarchy, and our path one that cannot be seen from here.
        let below = if *root == "/" { Some(own) } else { own.strip_prefix(root) };
        let below = below.filter(|path| !path.split('/').any(|part| part == "..")).unwrap_or("/");
        let mount = PathBuf::from(mount);
        let own = mount.join(below.trim_start_matches('/'));
        if !found.iter().any(|known| known.mount == mount) {
            found.push(Hierarchy { mount, version, controllers: options, own });
        }
    }
    found
}

/// The path of our group in the hierarchy of that version with one of these controllers.
fn own_group<'a>(cgroup: &'a str, version: Version, controllers: &[String]) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (listed, path) = (fields.next()?, fields.next()?);
        let matches = match version {
            Version::Two => listed.is_empty(),
            Version::One => listed.split(',').any(|name| controllers.iter().any(|known| known == name)),
        };
        matches.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies_and_our_place_in_them() {
        let mountinfo = "30 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         31 25 0:28 /docker/x /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         32 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                         33 25 0:30 / /proc rw - proc proc rw\n";
        let cgroup = "4:memory:/a/b\n1:cpu,cpuacct:/docker/x/y\n0::/../elsewhere\n";
        let own: Vec<_> = hierarchies(mountinfo, cgroup).into_iter().map(|found| found.own).collect();
        let expected = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/cpu,cpuacct/y", "/sys/fs/cgroup/unified/"];
        assert_eq!(own, expected.map(PathBuf::from));
    }

    #[test]
    fn the_unified_hierarchy_is_tried_upwards() {
        let hierarchy = Hierarchy {
            mount: "/cg".into(),
            version: Version::Two,
            controllers: Vec::new(),
            own: "/cg/user.slice/app.scope".into(),
        };
        let expected = ["/cg/user.slice/app.scope", "/cg/user.slice", "/cg"].map(PathBuf::from);
        assert_eq!(candidates(&hierarchy, None), expected);
        assert_eq!(candidates(&hierarchy, Some("/mine/too")), [PathBuf::from("/cg/mine/too")]);
    }
}
