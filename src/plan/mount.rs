//! `RUN --mount=…` to a mount of a step: defaults that depend on the stage, absolute targets.
//!
//! `dockerfile::mount` reads the options; this module knows what they mean here.

use crate::dockerfile::mount::{self as written, MountError};
use crate::dockerfile::words::WordError;
use crate::plan::graph::{From, Mount, MountKind, Sharing};
use crate::plan::paths;

/// What of `mode=` counts: no set-id bits, no sticky bit.
const PERMISSIONS: u32 = 0o777;
/// The fault of a mount that would cover the whole root; it is what a mount without a target gets.
pub(crate) const TARGET_IS_ROOT: &str = "invalid mount target \"/\"";

/// What a mount is resolved against.
pub(crate) struct Surroundings<'a> {
    /// Current directory, absolute.
    pub(crate) workdir: &'a str,
    /// `BUILDKIT_CACHE_MOUNT_NS`
    pub(crate) cache_namespace: &'a str,
    /// How many ssh mounts of this RUN came before.
    pub(crate) ssh_index: usize,
}

/// Resolves a mount with its values expanded by `expand`. `tree` is what its `from=` names, or the main context.
pub(crate) fn resolve(
    text: &str,
    tree: From,
    around: &Surroundings<'_>,
    expand: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Mount, String> {
    let mount = written::parse(text, expand).map_err(|error| match error {
        MountError::Word(error) => error.to_string(),
        MountError::Invalid(text) => text,
    })?;
    let kind = match mount.kind {
        written::MountKind::Bind => {
            let source = paths::clean(&mount.source);
            MountKind::Bind { from: tree, source, writable: !mount.read_only }
        }
        written::MountKind::Cache => cache(&mount, tree, around),
        written::MountKind::Tmpfs => {
            let source = paths::clean(&mount.source);
            if source != "/" {
                return Err(format!("tmpfs mount {:?} is empty, so it has no source {source:?}", mount.target));
            }
            let size = u64::try_from(mount.size_limit).ok().filter(|size| *size > 0);
            MountKind::Tmpfs { size, readonly: mount.read_only }
        }
        written::MountKind::Secret => return Ok(secret(mount, around)),
        written::MountKind::Ssh => return ssh(mount, around),
    };
    let target = paths::absolute(around.workdir, &mount.target);
    if target == "/" {
        return Err(TARGET_IS_ROOT.to_owned());
    }
    Ok(Mount { target, kind })
}

fn cache(mount: &written::Mount, tree: From, around: &Surroundings<'_>) -> MountKind {
    let id = if mount.id.is_empty() { paths::clean_keeping_relative(&mount.target) } else { mount.id.clone() };
    let source = paths::clean(&mount.source);
    let owner_given = mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some();
    // As BuildKit has it, a directory of a given owner or mode is a new, empty one, unless a path of the seed is named.
    let seeded = !mount.from.is_empty() && (source != "/" || !owner_given);
    MountKind::Cache {
        id: format!("{}/{id}", around.cache_namespace),
        sharing: match mount.sharing {
            None | Some(written::Sharing::Shared) => Sharing::Shared,
            Some(written::Sharing::Private) => Sharing::Private,
            Some(written::Sharing::Locked) => Sharing::Locked,
        },
        from: seeded.then_some(tree),
        source,
        readonly: mount.read_only,
        mode: mount.mode.unwrap_or(0o755) & PERMISSIONS,
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    }
}

fn secret(mount: written::Mount, around: &Surroundings<'_>) -> Mount {
    let named = [&mount.source, &mount.id].into_iter().find(|text| !text.is_empty());
    let id = named.cloned().unwrap_or_else(|| paths::base_name(&mount.target));
    let target = if mount.target.is_empty() {
        format!("/run/secrets/{}", paths::base_name(&id))
    } else {
        paths::absolute(around.workdir, &mount.target)
    };
    let kind = MountKind::Secret {
        id,
        file: mount.env.is_none() || !mount.target.is_empty(),
        env: mount.env,
        required: mount.required,
        mode: mount.mode.unwrap_or(0o400) & PERMISSIONS,
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    };
    Mount { target, kind }
}

fn ssh(mount: written::Mount, around: &Surroundings<'_>) -> Result<Mount, String> {
    if !mount.source.is_empty() {
        return Err("ssh does not support source".to_owned());
    }
    let target = if mount.target.is_empty() {
        format!("/run/buildkit/ssh_agent.{}", around.ssh_index)
    } else {
        paths::absolute(around.workdir, &mount.target)
    };
    let kind = MountKind::Ssh {
        id: if mount.id.is_empty() { "default".to_owned() } else { mount.id },
        required: mount.required,
        mode: mount.mode.unwrap_or(0o600) & PERMISSIONS,
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    };
    Ok(Mount { target, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Mount, String> {
        let around = Surroundings { workdir: "/w", cache_namespace: "ns", ssh_index: 1 };
        resolve(text, From::Context("context".into()), &around, &mut |value| Ok(value.replace("$V", "/v")))
    }

    #[test]
    fn defaults_of_each_type() {
        assert_eq!(
            check("target=a"),
            Ok(Mount {
                target: "/w/a".into(),
                kind: MountKind::Bind { from: From::Context("context".into()), source: "/".into(), writable: false }
            })
        );
        assert_eq!(
            check("type=cache,target=./c/,from=x"),
            Ok(Mount {
                target: "/w/c".into(),
                kind: MountKind::Cache {
                    id: "ns/c".into(),
                    sharing: Sharing::Shared,
                    from: Some(From::Context("context".into())),
                    source: "/".into(),
                    readonly: false,
                    mode: 0o755,
                    uid: 0,
                    gid: 0
                }
            })
        );
        assert_eq!(
            check("type=secret,id=a/b,env=T,uid=5"),
            Ok(Mount {
                target: "/run/secrets/b".into(),
                kind: MountKind::Secret {
                    id: "a/b".into(),
                    file: false,
                    env: Some("T".into()),
                    required: false,
                    mode: 0o400,
                    uid: 5,
                    gid: 0
                }
            })
        );
        assert_eq!(
            check("type=ssh,required"),
            Ok(Mount {
                target: "/run/buildkit/ssh_agent.1".into(),
                kind: MountKind::Ssh { id: "default".into(), required: true, mode: 0o600, uid: 0, gid: 0 }
            })
        );
        assert_eq!(
            check("TYPE=tmpfs,\"dst=$V,x\",size=1.5k"),
            Ok(Mount { target: "/v,x".into(), kind: MountKind::Tmpfs { size: Some(1536), readonly: false } })
        );
    }

    #[test]
    fn faults_have_buildkits_words() {
        for (text, message) in [
            ("target=/", "invalid mount target \"/\""),
            ("type=ssh,source=b", "ssh does not support source"),
            ("type=tmpfs,target=/t,source=b", "tmpfs mount \"/t\" is empty, so it has no source \"/b\""),
        ] {
            assert_eq!(check(text), Err(message.to_owned()), "{text}");
        }
    }
}
