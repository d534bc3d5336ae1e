//! `rbuild run` as decided.

use std::path::PathBuf;

use super::{RequestError, StepOptions, network, os_words, usage};
use crate::cli::args_run::RunArgs;
use crate::cli::env::Env;
use crate::cli::fields;
use crate::plan::graph::Network;

/// A command in a throw-away root of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// Name or ID.
    pub image: String,
    /// Arguments instead of the image's command; empty: the image's.
    pub command: Vec<String>,
    /// Program instead of the image's entrypoint; `Some("")` is none.
    pub entrypoint: Option<String>,
    /// Variables on top of the image's, in order.
    pub env: Vec<(String, String)>,
    /// Directories of this machine.
    pub volumes: Vec<Volume>,
    /// Working directory instead of the image's, absolute.
    pub workdir: Option<String>,
    /// User instead of the image's.
    pub user: Option<String>,
    /// stdin is handed in.
    pub interactive: bool,
    /// stdin, stdout and stderr are a terminal for it.
    pub tty: bool,
    /// Network.
    pub network: Network,
    /// Host name.
    pub hostname: Option<String>,
    /// Further lines of /etc/hosts: name, address.
    pub add_hosts: Vec<(String, String)>,
    /// All capabilities, nothing masked.
    pub privileged: bool,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
}

/// A directory or file of this machine to be seen in the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Absolute path here; it exists.
    pub host: PathBuf,
    /// Absolute path there.
    pub target: String,
    /// Not to be written.
    pub readonly: bool,
}

impl RunRequest {
    /// Decides on everything `args` leaves open.
    pub fn new(args: &RunArgs, env: &Env) -> Result<Self, RequestError> {
        let steps = StepOptions::new(&args.add_host, args.shm_size.as_deref(), &args.ulimit)?;
        let mut variables = Vec::new();
        for text in &args.env {
            let (name, value) = fields::pair(text).map_err(RequestError::Usage)?;
            if let Some(value) = value.map(str::to_owned).or_else(|| env.var(name)) {
                variables.push((name.to_owned(), value));
            }
        }
        if let Some(dir) = args.workdir.as_deref().filter(|dir| !dir.starts_with('/')) {
            return usage(format!("the working directory '{dir}' is invalid, it needs to be an absolute path"));
        }
        Ok(Self {
            image: args.image.clone(),
            command: args.command.clone(),
            entrypoint: args.entrypoint.clone(),
            env: variables,
            volumes: args.volume.iter().map(|text| volume(text, env)).collect::<Result<_, _>>()?,
            workdir: args.workdir.clone(),
            user: args.user.clone(),
            interactive: args.interactive,
            tty: args.tty,
            network: network(args.network.as_deref())?,
            hostname: args.hostname.clone(),
            add_hosts: steps.add_hosts,
            privileged: args.privileged,
            shm_size: steps.shm_size,
            ulimits: steps.ulimits,
        })
    }
}

/// `HOST:PATH[:ro|rw]`.
fn volume(text: &str, env: &Env) -> Result<Volume, RequestError> {
    let parts: Vec<_> = text.split(':').collect();
    let (host, target, mode) = match parts.as_slice() {
        [host, target] => (*host, *target, "rw"),
        [host, target, mode] => (*host, *target, *mode),
        _ => return usage(format!("invalid volume {text:?}: use HOST:PATH or HOST:PATH:ro")),
    };
    let readonly = match mode {
        "ro" => true,
        "rw" => false,
        other => return usage(format!("invalid mode {other:?} of volume {text:?}: use ro or rw")),
    };
    if host.is_empty() || !target.starts_with('/') {
        return usage(format!("invalid volume {text:?}: the path in the image must be absolute"));
    }
    let host = env.path(host);
    match fs_err::metadata(&host) {
        Ok(_) => Ok(Volume { host, target: target.to_owned(), readonly }),
        Err(error) => usage(format!("invalid volume {text:?}: {}: {}", host.display(), os_words(&error))),
    }
}
