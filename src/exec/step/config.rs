//! A step's container in the words of the OCI runtime specification. Pure; what is mounted and from where is told.

use rustix::mount::MountAttrFlags;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use super::identity::DEFAULT_CAPABILITIES;
use super::standard::{MASKED, READ_ONLY_PATHS};
use crate::exec::Process;
use crate::exec::seccomp::{self, Policy};

/// One entry of `mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Absolute in the root.
    pub(super) destination: String,
    /// File system, or `bind`.
    pub(super) kind: &'static str,
    /// Of a bind; otherwise a name.
    pub(super) source: String,
    /// As fstab has them.
    pub(super) options: Vec<String>,
}

impl Entry {
    /// A new file system.
    pub(super) fn fresh(destination: &str, kind: &'static str, attributes: MountAttrFlags, more: &[String]) -> Self {
        let mut options = options(attributes);
        options.extend_from_slice(more);
        Self { destination: destination.to_owned(), kind, source: kind.to_owned(), options }
    }

    /// What is at `source`, with what is mounted below it. All attributes must be named: a runtime sets exactly those.
    pub(super) fn bind(destination: &str, source: String, attributes: MountAttrFlags) -> Self {
        let mut options = options(attributes);
        options.extend(["rbind", "rprivate"].map(str::to_owned));
        Self { destination: destination.to_owned(), kind: "bind", source, options }
    }
}

fn options(attributes: MountAttrFlags) -> Vec<String> {
    let names = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, "ro"),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, "nosuid"),
        (MountAttrFlags::MOUNT_ATTR_NODEV, "nodev"),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, "noexec"),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, "strictatime"),
    ];
    names.into_iter().filter(|(flag, _)| attributes.contains(*flag)).map(|(_, name)| name.to_owned()).collect()
}

/// What the document is made of.
#[derive(Debug)]
pub(super) struct Container<'a> {
    /// The process.
    pub(super) process: &'a Process,
    /// Path of the root.
    pub(super) root: String,
    /// Working directory; it exists, or will once all is mounted.
    pub(super) cwd: String,
    /// In order.
    pub(super) mounts: &'a [Entry],
    /// There is only one user.
    pub(super) one_id: bool,
    /// The runtime is to make a terminal.
    pub(super) terminal: bool,
    /// Capabilities that we have ourselves.
    pub(super) may: CapabilitySet,
}

/// The version that everything used here was in.
const VERSION: &str = "1.0.2";

/// config.json
pub(super) fn config(container: &Container<'_>) -> Value {
    let Container { process, root, cwd, mounts, one_id, terminal, may } = container;
    let keep = if process.insecure { *may } else { *may & CapabilitySet::from_bits_retain(DEFAULT_CAPABILITIES) };
    let (keep, none) = (names(keep), Vec::new());
    let inheritable = if process.insecure { &keep } else { &none };
    let user = if *one_id {
        json!({ "uid": 0, "gid": 0, "umask": UMASK })
    } else {
        json!({ "uid": process.uid, "gid": process.gid, "umask": UMASK, "additionalGids": process.groups })
    };
    let env: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let rlimits: Vec<Value> = process.ulimits.iter().map(rlimit).collect();
    let mounts: Vec<Value> = mounts.iter().map(mount).collect();
    let namespaces: Vec<Value> = NAMESPACES.iter().map(|name| json!({ "type": name })).collect();
    let mut linux = json!({ "namespaces": namespaces });
    if !process.insecure {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    let policy = Policy { confined: !process.insecure, pretend_ownership: *one_id };
    if let Some(profile) = seccomp::profile(policy) {
        linux["seccomp"] = profile;
    }
    json!({
        "ociVersion": VERSION,
        "root": { "path": root, "readonly": false },
        "hostname": process.hostname,
        "process": {
            "terminal": terminal,
            "user": user,
            "args": process.argv,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": keep,
                "effective": keep,
                "permitted": keep,
                "inheritable": inheritable,
                "ambient": inheritable,
            },
            "rlimits": rlimits,
            // Only this lets those set a filter who are not administrators of their namespace.
            "noNewPrivileges": *one_id && !may.contains(CapabilitySet::SYS_ADMIN),
        },
        "mounts": mounts,
        "linux": linux,
    })
}

/// Of every step.
const UMASK: u32 = 0o022;

/// The step has a network namespace already if it was to, and is in its control groups.
const NAMESPACES: [&str; 4] = ["pid", "mount", "ipc", "uts"];

fn mount(entry: &Entry) -> Value {
    let Entry { destination, kind, source, options } = entry;
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn rlimit((name, soft, hard): &(String, i64, i64)) -> Value {
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    json!({ "type": format!("RLIMIT_{}", name.to_uppercase()), "soft": value(*soft), "hard": value(*hard) })
}

fn names(set: CapabilitySet) -> Vec<String> {
    let named = CAPABILITIES.iter().enumerate().filter(|(number, _)| set.bits() & (1 << number) != 0);
    named.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// By number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

#[cfg(test)]
mod tests {
    use super::super::mounts::{INERT, READ_ONLY};
    use super::*;
    use crate::exec::Stdio;

    fn process() -> Process {
        Process {
            argv: vec!["/bin/sh".into(), "-c".into(), "id".into()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/src".into(),
            uid: 1000,
            gid: 100,
            groups: vec![100, 7],
            mounts: Vec::new(),
            isolate_network: false,
            insecure: false,
            hostname: "buildkitsandbox".into(),
            add_hosts: Vec::new(),
            shm_size: None,
            ulimits: vec![("nofile".into(), 100, -1)],
            stdio: Stdio::Captured,
        }
    }

    fn made(process: &Process, one_id: bool) -> Value {
        let mounts = [
            Entry::fresh("/proc", "proc", INERT, &[]),
            Entry::bind("/etc/hosts", "/store/3".to_owned(), INERT | READ_ONLY),
        ];
        let (root, cwd, may) = ("/store/1".to_owned(), "/src".to_owned(), CapabilitySet::all());
        config(&Container { process, root, cwd, mounts: &mounts, one_id, terminal: false, may })
    }

    #[test]
    fn the_document_is_one_of_the_specification() {
        for (insecure, one_id) in [(false, false), (false, true), (true, false)] {
            let text = made(&Process { insecure, ..process() }, one_id).to_string();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).expect("reads");
            let again: Value = serde_json::to_value(&spec).expect("writes");
            let known = |value: &Value| -> Vec<String> { value.as_object().expect("a map").keys().cloned().collect() };
            let (mut ours, mut theirs) = (known(&serde_json::from_str(&text).expect("reads")), known(&again));
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "nothing is lost on the way");
            let capabilities = spec.process().as_ref().expect("has one").capabilities().as_ref().expect("has some");
            let bounding = capabilities.bounding().as_ref().expect("has some").len();
            assert_eq!(bounding, if insecure { CAPABILITIES.len() } else { 14 });
        }
    }

    #[test]
    fn a_step_as_a_container() {
        let mut document = made(&process(), false);
        document["linux"]["seccomp"] = json!("…");
        document["linux"]["maskedPaths"] = json!("…");
        let text = serde_json::to_string_pretty(&document).expect("writes");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_id_is_its_root_and_the_insecure_keep_everything() {
        let one = made(&process(), true);
        assert_eq!(one["process"]["user"], json!({ "uid": 0, "gid": 0, "umask": 18 }));
        let insecure = made(&Process { insecure: true, ..process() }, false);
        assert!(insecure["linux"].get("seccomp").is_none() && insecure["linux"].get("maskedPaths").is_none());
        assert_eq!(insecure["process"]["capabilities"]["ambient"].as_array().expect("a list").len(), 41);
    }
}
