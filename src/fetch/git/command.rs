//! How git is called: what it may read, where it may connect to, and how it gets credentials.
//!
//! Talking to a remote uses the user's own configuration (credential helpers, proxies, `insteadOf`, ssh), reading what came does
//! not: a checkout must be the same for everybody. Neither runs hooks or helpers of a repository. Secrets go through the
//! environment, never onto a command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Git, GitError, remote};
use crate::cancel::Cancel;
use crate::fetch::program::{Ended, Program};

/// What the remote is called in git's configuration, so that its address is on no command line.
pub(super) const NAME: &str = "rbuild";

/// Configuration for every call: nothing that runs programs, nothing that goes on in the background.
const CONFIG: [&str; 12] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.logAllRefUpdates=false",
    "protocol.file.allow=never",
    "protocol.ext.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "transfer.bundleURI=false",
    "init.defaultBranch=master",
    "advice.detachedHead=false",
];

/// Configuration for reading what came: nothing of it depends on whose machine this is.
const PLAIN_CONFIG: [&str; 5] = [
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.fileMode=true",
    "checkout.workers=0",
];

/// Variables that would point git at some other repository, or change what it reads there.
const UNSET: [&str; 22] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_TEMPLATE_DIR",
    "GIT_QUARANTINE_PATH",
    "GIT_DEFAULT_HASH",
    "GIT_ATTR_SOURCE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_EXTERNAL_DIFF",
];

/// One call of git.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    args: Vec<OsString>,
    repository: Option<&'a Path>,
    env: Vec<(OsString, OsString)>,
    config: Vec<(String, String)>,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// To a remote, as the user.
    Remote,
    /// Nowhere.
    Plain,
    /// From one repository of ours to another.
    Copy,
}

impl<'a> Call<'a> {
    /// Reads a repository on this machine.
    pub(super) fn plain(repository: &'a Path, args: &[&str]) -> Self {
        Self::new(How::Plain, Some(repository), args)
    }

    /// Copies from another repository of ours.
    pub(super) fn copy(repository: &'a Path, args: &[&str]) -> Self {
        Self::new(How::Copy, Some(repository), args)
    }

    fn new(how: How, repository: Option<&'a Path>, args: &[&str]) -> Self {
        let args = args.iter().map(OsString::from).collect();
        Self { args, repository, env: Vec::new(), config: Vec::new(), how }
    }

    pub(super) fn work_tree(self, path: &Path) -> Self {
        self.with("GIT_WORK_TREE", path)
    }

    pub(super) fn index(self, path: &Path) -> Self {
        self.with("GIT_INDEX_FILE", path)
    }

    fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// The remote of a call and the remote of the source it belongs to, which its credentials are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote<'a> {
    pub(super) address: &'a str,
    pub(super) main: &'a str,
}

impl Git {
    /// A call that talks to a remote, known to it as [`NAME`].
    pub(super) fn remote<'a>(
        &self,
        remote: Remote<'_>,
        repository: Option<&'a Path>,
        args: &[&str],
        cancel: &Cancel,
    ) -> Result<Call<'a>, GitError> {
        let mut call = Call::new(How::Remote, repository, args);
        call.config.push((format!("remote.{NAME}.url"), remote.address.to_owned()));
        call.config.extend(self.credentials(remote)?);
        if remote::is_ssh(remote.address) {
            if let Some(agent) = &self.access.ssh_agent {
                call = call.with("SSH_AUTH_SOCK", agent);
            }
            if let Some(command) = self.ssh_command(cancel)? {
                call = call.with("GIT_SSH_COMMAND", command);
            }
        }
        Ok(call)
    }

    /// `Authorization` headers by the addresses they may be sent to. A secret named after a host is for all of that host, one
    /// without a host only for the source's own repository (on GitHub, for all of GitHub).
    fn credentials(&self, remote: Remote<'_>) -> Result<Option<(String, String)>, GitError> {
        let Some(host) = remote::http_host(remote.address) else { return Ok(None) };
        let scope = remote::origin(remote.address);
        let own = remote::http_host(remote.main).map(|_| remote::token_scope(remote.main));
        let names = [
            (format!("GIT_AUTH_HEADER.{host}"), false, &scope),
            (format!("GIT_AUTH_TOKEN.{host}"), true, &scope),
            ("GIT_AUTH_HEADER".to_owned(), false, &own),
            ("GIT_AUTH_TOKEN".to_owned(), true, &own),
        ];
        for (name, is_token, scope) in names {
            let (Some(secret), Some(scope)) = (self.access.secrets.get(&name), scope) else { continue };
            let value = crate::fetch::header_value(secret)
                .ok_or_else(|| GitError::Invalid(format!("secret {name} cannot be sent in a header")))?;
            let value = if is_token {
                format!("basic {}", BASE64_STANDARD.encode(format!("x-access-token:{value}")))
            } else {
                value
            };
            return Ok(Some((format!("http.{scope}.extraheader"), format!("Authorization: {value}"))));
        }
        Ok(None)
    }

    /// ssh that never asks, unless the user has said how git is to call it. A host that is not known yet is taken as it is and
    /// remembered, unless the user's configuration says otherwise: a build cannot be asked.
    fn ssh_command(&self, cancel: &Cancel) -> Result<Option<OsString>, GitError> {
        if self.access.own_ssh {
            return Ok(None);
        }
        let own = self.run(&Call::new(How::Remote, None, &["config", "--get", "core.sshCommand"]), cancel)?;
        if own.code == 0 {
            return Ok(None);
        }
        let config = self.ssh_config()?;
        // git hands it to a shell.
        let quoted = config.display().to_string().replace('\'', r"'\''");
        Ok(Some(format!("ssh -F '{quoted}' -o BatchMode=yes").into()))
    }

    /// A configuration file for ssh: the user's and the system's, and after them, so that they come first, what we want.
    fn ssh_config(&self) -> Result<PathBuf, GitError> {
        const TEXT: &str = "Include ~/.ssh/config\nMatch all\nInclude /etc/ssh/ssh_config\nMatch all\n    StrictHostKeyChecking accept-new\n";
        let mut made = self.ssh_config.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(directory) = made.as_ref() {
            return Ok(directory.path().join("config"));
        }
        let store = |reason: String| GitError::Store { doing: "write the configuration of ssh".to_owned(), reason };
        let directory = self.store.temp_dir("ssh").map_err(|e| store(e.to_string()))?;
        let path = directory.path().join("config");
        fs_err::write(&path, TEXT).map_err(|e| store(e.to_string()))?;
        *made = Some(directory);
        Ok(path)
    }

    /// Runs git to its end, whatever that is.
    pub(super) fn run(&self, call: &Call<'_>, cancel: &Cancel) -> Result<Ended, GitError> {
        cancel.check()?;
        let ended = (self.runner)(&self.program(call), cancel);
        cancel.check()?;
        match ended {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(GitError::NoGit),
            Err(error) => Err(GitError::Start(error)),
            Ok(ended) => Ok(ended),
        }
    }

    /// Runs git, which must succeed; its output. `doing` says what failed if it does not.
    pub(super) fn output(&self, call: &Call<'_>, doing: &str, cancel: &Cancel) -> Result<Vec<u8>, GitError> {
        let ended = self.run(call, cancel)?;
        if ended.code == 0 {
            return Ok(ended.stdout);
        }
        let mut stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        for (name, value) in &call.config {
            let shown = if name.starts_with("remote.") { remote::redacted(value) } else { "****".to_owned() };
            stderr = stderr.replace(value, &shown);
        }
        Err(GitError::Failed { doing: doing.to_owned(), stderr, code: ended.code })
    }

    fn program(&self, call: &Call<'_>) -> Program {
        let mut argv: Vec<OsString> = vec!["git".into()];
        let plain: &[&str] = if call.how == How::Remote { &[] } else { &PLAIN_CONFIG };
        for setting in CONFIG.iter().chain(plain) {
            // A copy from one repository of ours to another is the one use of local paths.
            if call.how == How::Copy && *setting == "protocol.file.allow=never" {
                continue;
            }
            argv.extend(["-c".into(), setting.into()]);
        }
        argv.extend(call.args.iter().cloned());
        let allowed = match call.how {
            How::Remote => remote::ALLOWED,
            How::Plain => "",
            How::Copy => "file",
        };
        let mut env: Vec<(OsString, OsString)> = vec![
            ("LC_ALL".into(), "C".into()),
            ("GIT_TERMINAL_PROMPT".into(), "0".into()),
            ("GIT_ALLOW_PROTOCOL".into(), allowed.into()),
            ("GIT_NO_REPLACE_OBJECTS".into(), "1".into()),
        ];
        env.extend(call.repository.map(|path| ("GIT_DIR".into(), path.into())));
        let first = match call.how {
            How::Remote => self.access.config_entries,
            How::Plain | How::Copy => {
                for name in ["GIT_CONFIG_NOSYSTEM", "GIT_ATTR_NOSYSTEM"] {
                    env.push((name.into(), "1".into()));
                }
                for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "HOME", "XDG_CONFIG_HOME"] {
                    env.push((name.into(), "/dev/null".into()));
                }
                0
            }
        };
        for (at, (name, value)) in call.config.iter().enumerate() {
            env.push((format!("GIT_CONFIG_KEY_{}", first + at).into(), name.into()));
            env.push((format!("GIT_CONFIG_VALUE_{}", first + at).into(), value.into()));
        }
        env.push(("GIT_CONFIG_COUNT".into(), (first + call.config.len()).to_string().into()));
        env.extend(call.env.iter().cloned());
        Program { argv, env, unset: UNSET.iter().map(OsString::from).collect(), cwd: "/".into(), stdin: Vec::new() }
    }
}
