//! What every step's root gets: /proc, /sys, /dev, name files, and what is hidden of them. Docker's choices.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat, statfs, symlinkat};
use rustix::mount::MountAttrFlags;

use super::mounts::{self, Depth, INERT, READ_ONLY, Target, bind, fresh};
use super::staging::Staging;
use super::walk::{Missing, Rooted};
use super::{During, Fault, Ground, names};
use crate::exec::Process;

/// Hidden: they tell about the host or let one change it.
pub(super) const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Visible but not writable.
pub(super) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Name, major and minor number.
pub(crate) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Name and what it points to.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What /dev/core points to, on kernels that have it.
const KERNEL_MEMORY: &str = "/proc/kcore";

/// What an insecure step sees besides.
const MORE_DEVICES: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];

/// Loop devices that an insecure step sees.
const LOOP_DEVICES: u32 = 8;

/// Docker's size of /dev/shm.
pub(super) const DEFAULT_SHM: u64 = 64 << 20;

/// Group `tty`, as every distribution numbers it.
pub(super) const TTY_GROUP: &str = "5";

/// Mounts all of it.
pub(super) fn mount_all(
    root: &mut Rooted,
    staging: &mut Staging,
    process: &Process,
    ground: Ground,
) -> Result<(), Fault> {
    mount_proc(root)?;
    mount_sys(root, staging, process, ground)?;
    mount_dev(root, staging, process, ground)?;
    if !process.insecure {
        for path in MASKED {
            mask(root, staging, path).during(format!("mask {path}"))?;
        }
        for path in READ_ONLY_PATHS {
            fix(root, path).during(format!("make {path} read-only"))?;
        }
    }
    for (path, content) in names::files(process) {
        let file = staging.file(content.as_bytes(), 0o644, 0, 0)?;
        let target = root.target(path, Missing::MountFile).during(format!("create {path}"))?;
        bind(&file, &target, INERT | READ_ONLY, Depth::Single).during(format!("mount {path}"))?;
    }
    Ok(())
}

fn mount_proc(root: &mut Rooted) -> Result<(), Fault> {
    let target = root.target("/proc", Missing::SystemDirectory).during("create /proc")?;
    fresh("proc", &[], INERT, &target)
        .or_else(|error| {
            // In a container whose own /proc has hidden parts the kernel gives no unhidden one. The outer one shows more
            // processes than there are in this namespace, but what programs look for (self, meminfo) is right.
            let host = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            bind(host, &target, INERT, Depth::WithMountsBelow).map_err(|_| error)
        })
        .during("mount /proc")
}

fn mount_sys(root: &mut Rooted, staging: &mut Staging, process: &Process, ground: Ground) -> Result<(), Fault> {
    let attributes = if process.insecure { INERT } else { INERT | READ_ONLY };
    let target = root.target("/sys", Missing::SystemDirectory).during("create /sys")?;
    // A new one shows the devices of the network namespace, so the kernel wants us to own that.
    let owned = !ground.user_namespace || process.isolate_network;
    let made = if owned { fresh("sysfs", &[], attributes, &target) } else { Err(rustix::io::Errno::PERM.into()) };
    let bound = made.is_err();
    made.or_else(|_: io::Error| {
        let host = openat(CWD, "/sys", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        bind(host, &target, attributes, Depth::WithMountsBelow)
    })
    .during("mount /sys")?;
    let Ok(cgroup) = root.target("/sys/fs/cgroup", Missing::Fail) else { return Ok(()) };
    let shown = is_unified() && fresh("cgroup2", &[], attributes, &cgroup).is_ok();
    if bound && !shown {
        // The host's would tell what else runs there.
        bind(staging.empty()?, &cgroup, INERT | READ_ONLY, Depth::Single).during("hide /sys/fs/cgroup")?;
    }
    Ok(())
}

/// Whether the machine has one hierarchy of control groups.
pub(super) fn is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type as u64 == CGROUP2_MAGIC)
}

/// What statfs(2) calls the unified hierarchy.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

fn mount_dev(root: &mut Rooted, staging: &mut Staging, process: &Process, ground: Ground) -> Result<(), Fault> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let target = root.target("/dev", Missing::SystemDirectory).during("create /dev")?;
    let nodes = if process.insecure { MountAttrFlags::empty() } else { mounts::NO_DEVICES };
    fresh(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536k")],
        nodes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        &target,
    )
    .during("mount /dev")?;
    let dev = target.enter().during("open /dev")?;
    if process.insecure && !ground.user_namespace {
        mkdirat(&dev, "net", Mode::from_raw_mode(0o755)).during("make /dev/net")?;
    }
    for device in devices(process, ground) {
        show_device(&dev, staging, &device, ground)?;
    }
    let kernel_memory = ("core", KERNEL_MEMORY);
    let shown = rustix::fs::access(KERNEL_MEMORY, rustix::fs::Access::EXISTS).is_ok();
    for (name, text) in LINKS.into_iter().chain(shown.then_some(kernel_memory)) {
        symlinkat(text, &dev, name).during(format!("link /dev/{name}"))?;
    }
    let size = process.shm_size.unwrap_or(DEFAULT_SHM).to_string();
    let mut pts = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if !ground.one_id {
        pts.push(("gid", TTY_GROUP));
    }
    below(&dev, "pts", |target| fresh("devpts", &pts, quiet, target))?;
    // One of a size that was asked for is BuildKit's mount, which lets programs be executed.
    let shared = if process.shm_size.is_some() { nodes | MountAttrFlags::MOUNT_ATTR_NOSUID } else { INERT };
    below(&dev, "shm", |target| fresh("tmpfs", &[("mode", "1777"), ("size", &size)], shared, target))?;
    // Absent from kernels built without it; nothing that is built needs it.
    let _missing = below(&dev, "mqueue", |target| fresh("mqueue", &[], INERT, target));
    Ok(())
}

fn below(dev: &OwnedFd, name: &str, mount: impl FnOnce(&Target) -> io::Result<()>) -> Result<(), Fault> {
    let make = || -> io::Result<()> {
        mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
        mount(&Target::new(dev.try_clone()?, name)?)
    };
    make().during(format!("mount /dev/{name}"))
}

/// The devices of a step.
pub(super) fn devices(process: &Process, ground: Ground) -> Vec<Device> {
    let device = |name: &str, kind, number| Device { name: name.to_owned(), kind, number };
    let usual = DEVICES.iter();
    let more = if process.insecure && !ground.user_namespace { MORE_DEVICES.as_slice() } else { &[] };
    let characters = usual.chain(more);
    let mut devices: Vec<Device> =
        characters.map(|(name, major, minor)| device(name, FileType::CharacterDevice, (*major, *minor))).collect();
    if !more.is_empty() {
        devices.extend(
            (0..LOOP_DEVICES).map(|number| device(&format!("loop{number}"), FileType::BlockDevice, (7, number))),
        );
    }
    devices
}

/// A new one, made where the step cannot make any, or the host's where we may not make any either.
pub(super) fn node(staging: &mut Staging, device: &Device, ground: Ground) -> Option<OwnedFd> {
    let made = if ground.user_namespace { None } else { staging.device(device.kind, 0o666, device.number).ok() };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    made.or_else(|| openat(CWD, format!("/dev/{}", device.name), flags, Mode::empty()).ok())
}

fn show_device(dev: &OwnedFd, staging: &mut Staging, device: &Device, ground: Ground) -> Result<(), Fault> {
    let Some(node) = node(staging, device, ground) else { return Ok(()) };
    let name = device.name.as_str();
    let show = || -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(dev, name, flags, Mode::from_raw_mode(0o666))?;
        bind(&node, &Target::new(dev.try_clone()?, name)?, MountAttrFlags::empty(), Depth::Single)
    };
    show().during(format!("bind /dev/{name}"))
}

/// A device to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Below /dev.
    pub(super) name: String,
    kind: FileType,
    /// Major and minor.
    number: (u32, u32),
}

fn mask(root: &mut Rooted, staging: &mut Staging, path: &str) -> io::Result<()> {
    let Ok(target) = root.target(path, Missing::Fail) else { return Ok(()) };
    let directory = FileType::from_raw_mode(rustix::fs::fstat(&target.fd)?.st_mode) == FileType::Directory;
    if directory {
        let empty = staging.empty().map_err(|_| io::Error::other("no empty directory"))?;
        bind(empty, &target, INERT | READ_ONLY, Depth::Single)
    } else {
        let null = root.open("/dev/null", Missing::Fail)?;
        bind(null, &target, MountAttrFlags::empty(), Depth::Single)
    }
}

fn fix(root: &mut Rooted, path: &str) -> io::Result<()> {
    let Ok(target) = root.target(path, Missing::Fail) else { return Ok(()) };
    bind(&target.fd, &target, INERT | READ_ONLY, Depth::WithMountsBelow)
}
