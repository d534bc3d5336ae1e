//! What makes a step the same step: the facts of its op, as text in a fixed order.
//!
//! The engine hashes them together with the identities of the inputs (parent stack, selected content) and stores them beside
//! the record, where `explain` diffs them. What is not in here does not make a step run again: secret values, proxies,
//! contents and ids of cache mounts, addresses of extra hosts, where a source lies above its last name. Values that came
//! from an ARG are present as digests only, for they may be secrets after all.

use rbuild_cache::digest::{Blake3, KeyHasher};

use crate::dockerfile::quote::quoted;
use crate::plan::gotext;
use crate::plan::graph::{
    BaseImage, Chmod, Copy, CopySource, InlineFile, Mount, MountKind, Network, Op, Run, Step, Workdir,
};
use crate::plan::paths;

/// Changes whenever the facts of an unchanged step do.
pub const KEY_VERSION: u32 = 2;

/// Facts by name, in the order in which they are hashed. Names are unique.
pub type Facts = Vec<(String, String)>;

/// The facts of a step's op.
pub fn facts(step: &Step) -> Facts {
    match &step.op {
        Op::Image(image) => of_image(image),
        Op::Run(run) => of_run(run, &step.platform),
        Op::Copy(copy) => of_copy(copy),
        Op::Workdir(workdir) => of_workdir(workdir),
    }
}

/// Adds facts to a hash, unambiguously.
pub fn feed(hasher: &mut KeyHasher, facts: &[(String, String)]) {
    hasher.number(facts.len() as u64);
    for (name, value) in facts {
        hasher.text(name).text(value);
    }
}

fn fact(name: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (name.into(), value.into())
}

/// A value that may be a secret, or is long: only its digest.
fn digest(bytes: &[u8]) -> String {
    format!("blake3:{}", Blake3::of(bytes))
}

fn of_image(image: &BaseImage) -> Facts {
    let layers = image.diff_ids.iter().enumerate();
    std::iter::once(fact("op", "image"))
        .chain(layers.map(|(n, id)| fact(format!("layer {}", n + 1), id.to_string())))
        .collect()
}

fn of_run(run: &Run, platform: &str) -> Facts {
    let mut facts = vec![
        fact("op", "run"),
        fact("platform", platform),
        fact("command", gotext::quoted_list(&run.argv)),
        fact("directory", &run.cwd),
        fact("user", &run.user),
        fact("host name", &run.hostname),
        fact(
            "network",
            match run.network {
                Network::Default => "default",
                Network::None => "none",
                Network::Host => "host",
            },
        ),
        fact("security", if run.insecure { "insecure" } else { "sandbox" }),
    ];
    if let Some(script) = &run.script {
        facts.push(fact("script", of_inline(script)));
    }
    for (name, value) in &run.env {
        facts.push(if run.args.contains(name) {
            fact(format!("ARG {name}"), digest(value.as_bytes()))
        } else {
            fact(format!("ENV {name}"), value)
        });
    }
    for (n, (name, _)) in run.add_hosts.iter().enumerate() {
        facts.push(fact(format!("extra host {}", n + 1), name));
    }
    if let Some(size) = run.shm_size {
        facts.push(fact("shm size", size.to_string()));
    }
    for (n, (name, soft, hard)) in run.ulimits.iter().enumerate() {
        facts.push(fact(format!("ulimit {}", n + 1), format!("{name}={soft}:{hard}")));
    }
    for (n, mount) in run.mounts.iter().enumerate() {
        facts.push(fact(format!("mount {}", n + 1), of_mount(mount)));
    }
    facts
}

fn of_mount(mount: &Mount) -> String {
    let target = quoted(&mount.target);
    match &mount.kind {
        // What it shows is an input, not a fact of the op.
        MountKind::Bind { writable, .. } => format!("bind {target} {}", if *writable { "rw" } else { "ro" }),
        MountKind::Cache { from, readonly, .. } => {
            let seed = if from.is_some() { " seeded" } else { "" };
            format!("cache {target} {}{seed}", if *readonly { "ro" } else { "rw" })
        }
        MountKind::Tmpfs { size, readonly } => {
            let ro = if *readonly { " ro" } else { "" };
            format!("tmpfs {target} size={}{ro}", size.unwrap_or(0))
        }
        MountKind::Secret { id, file, env, required, mode, uid, gid } => {
            let file = if *file { format!(" file={target} mode={mode:o} owner={uid}:{gid}") } else { String::new() };
            let env = env.as_ref().map_or(String::new(), |name| format!(" env={}", quoted(name)));
            format!("secret id={}{file}{env} required={required}", quoted(id))
        }
        MountKind::Ssh { id, required, mode, uid, gid } => {
            format!("ssh {target} id={} mode={mode:o} owner={uid}:{gid} required={required}", quoted(id))
        }
    }
}

fn of_copy(copy: &Copy) -> Facts {
    let mut facts = vec![fact("op", "copy"), fact("destination", &copy.destination)];
    if let Some(owner) = &copy.chown {
        facts.push(fact("chown", owner));
    }
    match &copy.chmod {
        None => {}
        Some(Chmod::Octal(mode)) => facts.push(fact("chmod", format!("{mode:04o}"))),
        Some(Chmod::Symbolic(mode)) => facts.push(fact("chmod", mode)),
    }
    for (name, given) in [("link", copy.link), ("parents", copy.parents)] {
        if given {
            facts.push(fact(name, "yes"));
        }
    }
    for (n, pattern) in copy.exclude.iter().enumerate() {
        facts.push(fact(format!("exclude {}", n + 1), pattern));
    }
    for (n, source) in copy.sources.iter().enumerate() {
        facts.push(fact(format!("source {}", n + 1), of_source(source, copy.parents)));
    }
    facts
}

fn of_source(source: &CopySource, parents: bool) -> String {
    let unpacked = |unpack: bool| if unpack { " unpacked" } else { "" };
    match source {
        CopySource::Path { path, unpack, .. } if parents => {
            let (pivot, pattern) = path.split_once("/./").unwrap_or(("/", path));
            let (pivot, pattern) = (paths::base_name(&paths::clean(pivot)), paths::clean(pattern));
            format!("path {} below {}{}", quoted(&pattern), quoted(&pivot), unpacked(*unpack))
        }
        CopySource::Path { path, unpack, .. } => {
            format!("path {}{}", quoted(&paths::base_name(&paths::clean(path))), unpacked(*unpack))
        }
        CopySource::Inline(file) => of_inline(file),
        // The content is an input; here is what is done with it.
        CopySource::Http { name, unpack, .. } => format!("http {}{}", quoted(name), unpacked(*unpack)),
        CopySource::Git(git) => {
            let subdir = quoted(git.subdir.as_deref().unwrap_or_default());
            let times = if git.commit_times { " mtime=commit" } else { "" };
            format!("git subdir={subdir} keep-git-dir={} submodules={}{times}", git.keep_git_dir, git.submodules)
        }
    }
}

fn of_inline(file: &InlineFile) -> String {
    format!("inline {} {}", quoted(&file.name), digest(&file.content))
}

fn of_workdir(workdir: &Workdir) -> Facts {
    let mut facts = vec![fact("op", "workdir"), fact("path", &workdir.path), fact("user", &workdir.user)];
    if let Some(seconds) = workdir.mtime {
        facts.push(fact("mtime", seconds.to_string()));
    }
    facts
}
