//! How registries are reached: credentials from Docker's config, certificates, mirrors and insecure hosts as Docker has them.
//!
//! Read here, at the edge; `registry` gets plain data.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::env::Env;
use crate::cancel::Cancel;
use crate::event::Progress;
use crate::exec::{HostCommand, Session};
use crate::registry::credentials::{Credentials, Helper};
use crate::registry::{HostOptions, Options, Proxies};

const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const CERTS: &str = "/etc/docker/certs.d";

/// All settings for a client.
pub(super) fn options(env: &Env, progress: &Progress, session: &Session) -> Result<Options, Failure> {
    let mut hosts = from_daemon_json(Path::new(DAEMON_JSON))?;
    certificates(Path::new(CERTS), &mut hosts)?;
    let variable = |name: &str| env.filled(name).or_else(|| env.filled(&name.to_ascii_lowercase()));
    let proxies = Proxies { http: variable("HTTP_PROXY"), https: variable("HTTPS_PROXY"), no: variable("NO_PROXY") };
    Ok(Options {
        hosts,
        credentials: credentials(env, session)?,
        proxies,
        progress: progress.clone(),
        clock: super::world::now,
        ..Options::default()
    })
}

/// `DOCKER_AUTH_CONFIG`, else `config.json`; helpers are run as the user who called us, outside of any namespace.
fn credentials(env: &Env, session: &Session) -> Result<Credentials, Failure> {
    let json = match env.filled("DOCKER_AUTH_CONFIG") {
        Some(text) => text.into_bytes(),
        None => {
            let Some(path) = env.docker_config().map(|dir| dir.join("config.json")) else {
                return Ok(Credentials::none());
            };
            match fs_err::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::none()),
                Err(e) => return Err(Failure::of(&e)),
            }
        }
    };
    let host = session.host().clone();
    let helper: Helper = Arc::new(move |program: &str, input: &str| {
        let argv = vec![format!("docker-credential-{program}").into(), "get".into()];
        let command = HostCommand { argv, stdin: input.as_bytes().to_vec(), ..HostCommand::default() };
        let output = host.run(&command, &Cancel::new()).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.code == 0 { Ok(text) } else { Err(text) }
    });
    Credentials::from_config(&json, Some(helper)).map_err(|e| Failure::of(&e))
}

/// `registry-mirrors` and `insecure-registries` of Docker's daemon.json; no such file is no setting.
fn from_daemon_json(path: &Path) -> Result<BTreeMap<String, HostOptions>, Failure> {
    let mut hosts: BTreeMap<String, HostOptions> = BTreeMap::new();
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            return Ok(hosts);
        }
        Err(e) => return Err(Failure::of(&e)),
    };
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| Failure::text(format!("{}: {e}", path.display())))?;
    let texts = |key: &str| -> Vec<String> {
        json[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for host in texts("insecure-registries") {
        hosts.entry(host).or_default().insecure = true;
    }
    let mirrors = texts("registry-mirrors");
    if !mirrors.is_empty() {
        hosts.entry("docker.io".to_owned()).or_default().mirrors = mirrors;
    }
    Ok(hosts)
}

/// `certs.d/HOST/{*.crt,*.cert,*.key}`.
fn certificates(dir: &Path, hosts: &mut BTreeMap<String, HostOptions>) -> Result<(), Failure> {
    let Ok(entries) = fs_err::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|e| Failure::of(&e))?;
        let Ok(host) = entry.file_name().into_string() else { continue };
        let (mut ca, mut identity) = (Vec::new(), Vec::new());
        let Ok(files) = fs_err::read_dir(entry.path()) else { continue };
        for file in files {
            let path = file.map_err(|e| Failure::of(&e))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => ca.push(fs_err::read(&path).map_err(|e| Failure::of(&e))?),
                Some("cert" | "key") => identity.extend(fs_err::read(&path).map_err(|e| Failure::of(&e))?),
                Some(_) | None => {}
            }
        }
        if ca.is_empty() && identity.is_empty() {
            continue;
        }
        let options = hosts.entry(host).or_default();
        options.ca.extend(ca);
        options.identity = Some(identity).filter(|pem| !pem.is_empty()).or(options.identity.take());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_json_gives_mirrors_and_insecure_hosts() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("daemon.json");
        let text = r#"{"registry-mirrors": ["https://mirror.example"], "insecure-registries": ["reg.example:5000"]}"#;
        std::fs::write(&path, text).expect("written");
        let hosts = from_daemon_json(&path).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(hosts["docker.io"].mirrors, ["https://mirror.example"]);
        assert!(hosts["reg.example:5000"].insecure);
        std::fs::write(&path, "{").expect("written");
        assert!(from_daemon_json(&path).is_err());
        assert!(from_daemon_json(&dir.path().join("none")).is_ok_and(|hosts| hosts.is_empty()));
    }

    #[test]
    fn certificates_are_found_by_host() {
        let dir = tempfile::tempdir().expect("temp dir");
        let host = dir.path().join("reg.example:5000");
        std::fs::create_dir(&host).expect("made");
        std::fs::write(host.join("ca.crt"), "CA").expect("written");
        std::fs::write(host.join("client.cert"), "CERT").expect("written");
        std::fs::write(host.join("client.key"), "KEY").expect("written");
        let mut hosts = BTreeMap::new();
        certificates(dir.path(), &mut hosts).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(hosts["reg.example:5000"].ca, [b"CA".to_vec()]);
        assert_eq!(hosts["reg.example:5000"].identity.as_deref().map(<[u8]>::len), Some(7));
    }
}
