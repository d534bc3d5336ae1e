//! The ssh agents of a build, as `--ssh` asks for them: sockets in a directory of the build's own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Failure;
use super::request::{BuildRequest, SshSource};
use super::world::Opened;
use crate::agent::Agent;

/// Longest path that a socket can be bound to, with room for the zero behind it.
const MAX_SOCKET_PATH: usize = 107;

/// They answer until this is dropped.
#[derive(Default)]
pub(super) struct Agents {
    /// Where, by ID.
    pub(super) sockets: BTreeMap<String, PathBuf>,
    running: Vec<Agent>,
    directory: Option<Directory>,
}

/// Where the sockets are.
enum Directory {
    /// With the store's other passing things.
    InStore(#[expect(dead_code, reason = "kept for its end")] rbuild_cache::TempDir),
    /// Where paths are short.
    Elsewhere(#[expect(dead_code, reason = "kept for its end")] tempfile::TempDir),
}

impl Agents {
    /// Starts what was asked for.
    pub(super) fn start(request: &BuildRequest, opened: &Opened) -> Result<Self, Failure> {
        let mut agents = Self::default();
        if request.ssh.values().any(|source| matches!(source, SshSource::Agent(_))) {
            let in_store = opened.store.temp_dir("agents").map_err(|e| Failure::of(&e))?;
            let longest = request.ssh.len().to_string().len() + 1;
            let (path, directory) = if in_store.path().as_os_str().len() + longest <= MAX_SOCKET_PATH {
                (in_store.path().to_owned(), Directory::InStore(in_store))
            } else {
                let short = tempfile::Builder::new().prefix("rbuild-agents-").tempdir().map_err(|e| Failure::of(&e))?;
                (short.path().to_owned(), Directory::Elsewhere(short))
            };
            agents.directory = Some(directory);
            for (number, (id, source)) in request.ssh.iter().enumerate() {
                if let SshSource::Agent(source) = source {
                    let agent = Agent::start(path.join(number.to_string()), source.clone())
                        .map_err(|e| Failure::of(&e).named(&format!("start the ssh agent {id}")))?;
                    agents.sockets.insert(id.clone(), agent.path().to_owned());
                    agents.running.push(agent);
                }
            }
        }
        for (id, source) in &request.ssh {
            if let SshSource::Raw(path) = source {
                agents.sockets.insert(id.clone(), path.clone());
            }
        }
        Ok(agents)
    }
}
