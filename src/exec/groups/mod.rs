//! Control groups of steps: limits on memory and processors, and what a step used of them.
//!
//! Made only when a limit was asked for, and then they must be had. One group a step in each hierarchy that is needed (one for
//! all with the unified one), removed when the step is over; should rbuild be killed, by the janitor. Knows nothing of how a
//! step is started: it writes itself into the directories it is told.

mod janitor;
mod places;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use janitor::Janitor;
use places::{Place, Version};

/// How long the kernel may take to let go of a group whose processes have ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a step may use at most; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1: any amount of swap.
    pub memory_swap: Option<i64>,
    /// Weight against other groups; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds of a period.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1: any.
    pub cpu_quota: Option<i64>,
    /// Processors that may be used: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// The group to make the steps' groups in.
    pub parent: Option<String>,
}

/// A part of the kernel that counts and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Cpuset,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
        }
    }
}

/// Microseconds of a period where only the quota was given.
const DEFAULT_PERIOD: u64 = 100_000;

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is needed. A parent alone is for what its owner has set: memory is counted there, if anything is.
    fn controllers(&self) -> Vec<Controller> {
        let memory = self.memory.is_some() || self.memory_swap.is_some();
        let cpu = self.cpu_shares.is_some() || self.cpu_period.is_some() || self.cpu_quota.is_some();
        let cpuset = self.cpuset_cpus.is_some() || self.cpuset_mems.is_some();
        let wanted = [
            (Controller::Memory, memory || self.parent.is_some()),
            (Controller::Cpu, cpu || self.parent.is_some()),
            (Controller::Cpuset, cpuset),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(controller, _)| controller).collect()
    }

    /// Files and what to write into them, in order.
    fn settings(&self, controller: Controller, version: Version) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        let mut set = |file, value: Option<String>| settings.extend(value.map(|value| (file, value)));
        match (controller, version) {
            (Controller::Memory, Version::One) => {
                set("memory.limit_in_bytes", self.memory.map(|bytes| bytes.to_string()));
                set("memory.memsw.limit_in_bytes", self.memory_swap.map(|bytes| bytes.to_string()));
            }
            (Controller::Memory, Version::Two) => {
                set("memory.max", self.memory.map(|bytes| bytes.to_string()));
                // There it is swap alone that is limited.
                let swap = self.memory_swap.map(|total| match u64::try_from(total) {
                    Ok(total) => total.saturating_sub(self.memory.unwrap_or(0)).to_string(),
                    Err(_) => "max".to_owned(),
                });
                set("memory.swap.max", swap);
            }
            (Controller::Cpu, Version::One) => {
                set("cpu.shares", self.cpu_shares.map(|shares| shares.to_string()));
                set("cpu.cfs_period_us", self.cpu_period.map(|period| period.to_string()));
                set("cpu.cfs_quota_us", self.cpu_quota.map(|quota| quota.to_string()));
            }
            (Controller::Cpu, Version::Two) => {
                set("cpu.weight", self.cpu_shares.map(|shares| weight(shares).to_string()));
                let quota = self.cpu_quota.and_then(|quota| u64::try_from(quota).ok());
                let bounded = self.cpu_quota.is_some() || self.cpu_period.is_some();
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                let period = self.cpu_period.unwrap_or(DEFAULT_PERIOD);
                set("cpu.max", bounded.then(|| format!("{quota} {period}")));
            }
            (Controller::Cpuset, _) => {
                set("cpuset.cpus", self.cpuset_cpus.clone());
                set("cpuset.mems", self.cpuset_mems.clone());
            }
        }
        settings
    }
}

/// Shares (2 to 262144) as a weight (1 to 10000), by the formula that all runtimes use.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Makes groups for steps.
#[derive(Debug)]
pub(crate) struct Groups {
    limits: Limits,
    places: Vec<Place>,
    prefix: String,
    next: AtomicU32,
    _janitor: Janitor,
}

impl Groups {
    /// Finds where groups can be made, or says what is missing. The process must still be single-threaded.
    pub(crate) fn new(limits: Limits) -> Result<Self, String> {
        let places = places::find(&limits.controllers(), limits.parent.as_deref())?;
        let prefix = janitor::prefix().map_err(|error| format!("name a control group: {error}"))?;
        let directories: Vec<PathBuf> = places.iter().map(|place| place.directory.clone()).collect();
        janitor::sweep_up(&directories);
        let janitor = Janitor::start(&prefix, &directories).map_err(|error| format!("fork: {error}"))?;
        Ok(Self { limits, places, prefix, next: AtomicU32::new(0), _janitor: janitor })
    }

    /// What was asked for.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The groups of one step.
    pub(crate) fn step(&self) -> io::Result<Group> {
        let name = format!("{}{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        let mut group = Group { directories: Vec::new(), memory: None };
        for place in &self.places {
            let directory = place.directory.join(&name);
            fs_err::create_dir(&directory)?;
            group.directories.push(directory.clone());
            for controller in &place.controllers {
                if (*controller, place.version) == (Controller::Cpuset, Version::One) {
                    // There a new group has none of either.
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let inherited = fs_err::read_to_string(place.directory.join(file))?;
                        fs_err::write(directory.join(file), inherited.trim())?;
                    }
                }
                for (file, value) in self.limits.settings(*controller, place.version) {
                    let path = directory.join(file);
                    std::fs::write(&path, &value).map_err(|error| {
                        let text = format!("set {} to {value}: {error}", path.display());
                        io::Error::new(error.kind(), text)
                    })?;
                }
                if *controller == Controller::Memory {
                    group.memory = Some((directory.clone(), place.version));
                }
            }
        }
        Ok(group)
    }
}

/// The groups of one step; removed when dropped, which is to be after the step's end.
#[derive(Debug)]
pub(crate) struct Group {
    directories: Vec<PathBuf>,
    memory: Option<(PathBuf, Version)>,
}

/// What a step used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Bytes of memory at the most; `None` where the kernel does not say.
    pub(crate) memory_peak: Option<u64>,
    /// The kernel killed something in it for lack of memory.
    pub(crate) out_of_memory: bool,
}

impl Group {
    /// Where the step is to write itself into.
    pub(crate) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// What was used so far; `None` where nobody counts.
    pub(crate) fn used(&self) -> Option<Used> {
        let (directory, version) = self.memory.as_ref()?;
        let (peak, events) = match version {
            Version::One => ("memory.max_usage_in_bytes", "memory.oom_control"),
            Version::Two => ("memory.peak", "memory.events"),
        };
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
        let kills = read(events)?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        let memory_peak = read(peak).and_then(|text| text.trim().parse().ok());
        Some(Used { memory_peak, out_of_memory: kills.is_some_and(|kills| kills > 0) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let begin = Instant::now();
        for directory in &self.directories {
            while remove(directory).is_err() && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Removes a group; one that is not there is removed.
fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(limits: &Limits, controller: Controller, version: Version, expected: &[(&str, &str)]) {
        let settings = limits.settings(controller, version);
        let settings: Vec<_> = settings.iter().map(|(file, value)| (*file, value.as_str())).collect();
        assert_eq!(settings, expected);
    }

    #[test]
    fn both_kinds_of_groups_get_what_was_asked_for() {
        let limits = Limits {
            memory: Some(1 << 20),
            memory_swap: Some(3 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpuset_cpus: Some("0-1".into()),
            ..Limits::default()
        };
        check(
            &limits,
            Controller::Memory,
            Version::One,
            &[("memory.limit_in_bytes", "1048576"), ("memory.memsw.limit_in_bytes", "3145728")],
        );
        check(&limits, Controller::Memory, Version::Two, &[("memory.max", "1048576"), ("memory.swap.max", "2097152")]);
        check(&limits, Controller::Cpu, Version::One, &[("cpu.shares", "1024"), ("cpu.cfs_quota_us", "50000")]);
        check(&limits, Controller::Cpu, Version::Two, &[("cpu.weight", "39"), ("cpu.max", "50000 100000")]);
        check(&limits, Controller::Cpuset, Version::Two, &[("cpuset.cpus", "0-1")]);
        let unlimited = Limits { memory_swap: Some(-1), cpu_quota: Some(-1), ..Limits::default() };
        check(&unlimited, Controller::Memory, Version::Two, &[("memory.swap.max", "max")]);
        check(&unlimited, Controller::Cpu, Version::Two, &[("cpu.max", "max 100000")]);
    }

    #[test]
    fn only_what_is_limited_needs_a_controller() {
        assert!(Limits::default().is_empty() && Limits::default().controllers().is_empty());
        let cpu = Limits { cpu_period: Some(1000), ..Limits::default() };
        assert_eq!(cpu.controllers(), [Controller::Cpu]);
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight), [1, 1, 39, 10_000, 10_000]);
    }
}
