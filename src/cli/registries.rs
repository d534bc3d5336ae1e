//! How registries are reached: credentials from Docker's config, certificates, mirrors and insecure hosts as Docker has them.
//!
//! Read here, at the edge; `registry` gets plain data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::env::Env;
use super::request::RegistryRequest;
use super::{Failure, registries_conf};
use crate::cancel::Cancel;
use crate::event::Progress;
use crate::exec::{Host, HostCommand};
use crate::registry::credentials::{Credentials, Helper};
use crate::registry::{HostOptions, Network, Options, Proxies};

const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const CERTS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// All settings for a client: what is configured, and what `request` puts on top. Helpers are started by `programs`.
pub(super) fn options(
    env: &Env,
    request: &RegistryRequest,
    progress: &Progress,
    programs: &Arc<Host>,
) -> Result<Options, Failure> {
    let (mut hosts, nets) = from_daemon_json(Path::new(DAEMON_JSON))?;
    let own = env.filled("HOME").map(|home| Path::new(&home).join(".config"));
    let own = own.into_iter().flat_map(|dir| [dir.join("docker/certs.d"), dir.join("containers/certs.d")]);
    for dir in CERTS.iter().map(PathBuf::from).chain(own) {
        certificates(&dir, &mut hosts)?;
    }
    let variable = |name: &str| env.filled(name).or_else(|| env.filled(&name.to_ascii_lowercase()));
    let proxies = Proxies { http: variable("HTTP_PROXY"), https: variable("HTTPS_PROXY"), no: variable("NO_PROXY") };
    let mut options = Options {
        hosts,
        insecure_nets: nets,
        rules: registries_conf::rules(env)?,
        credentials: credentials(env, programs)?,
        proxies,
        progress: progress.clone(),
        clock: super::world::now,
        ..Options::default()
    };
    request.apply(&mut options);
    Ok(options)
}

/// Runs `docker-credential-NAME ACTION` as the user who called us, outside of any namespace. Its output, or its complaint.
pub(super) fn run_helper(programs: &Host, name: &str, action: &str, input: &str) -> Result<String, String> {
    let argv = vec![format!("docker-credential-{name}").into(), action.into()];
    let command = HostCommand { argv, stdin: input.as_bytes().to_vec(), ..HostCommand::default() };
    let output = programs.run(&command, &Cancel::new()).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "not found in PATH".to_owned(),
        _ => e.to_string(),
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (output.code, text(&output.stdout)) {
        (0, said) => Ok(said),
        // By their protocol helpers complain on stdout.
        (_, said) if !said.trim().is_empty() => Err(said),
        (code, _) => Err(format!("exit status {code}: {}", text(&output.stderr).trim())),
    }
}

/// `DOCKER_AUTH_CONFIG`, else `config.json`.
fn credentials(env: &Env, programs: &Arc<Host>) -> Result<Credentials, Failure> {
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
    let programs = programs.clone();
    let helper: Helper = Arc::new(move |name: &str, server: &str| run_helper(&programs, name, "get", server));
    Credentials::from_config(&json, Some(helper)).map_err(|e| Failure::of(&e))
}

/// What daemon.json says: treatment by host, and networks whose hosts are insecure.
type Daemon = (BTreeMap<String, HostOptions>, Vec<Network>);

/// `registry-mirrors` and `insecure-registries` of Docker's daemon.json; no such file is no setting.
fn from_daemon_json(path: &Path) -> Result<Daemon, Failure> {
    let (mut hosts, mut nets): Daemon = <_>::default();
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            return Ok((hosts, nets));
        }
        Err(e) => return Err(Failure::of(&e)),
    };
    let json: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| Failure::text(format!("{}: {e}", path.display())))?;
    let texts = |key: &str| -> Vec<String> {
        json[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for host in texts("insecure-registries") {
        match Network::parse(&host) {
            Some(net) => nets.push(net),
            None => hosts.entry(host).or_default().insecure = true,
        }
    }
    let mirrors = texts("registry-mirrors");
    if !mirrors.is_empty() {
        hosts.entry("docker.io".to_owned()).or_default().mirrors = mirrors;
    }
    Ok((hosts, nets))
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
        let text = r#"{"registry-mirrors": ["https://mirror.example"], "insecure-registries": ["reg.example:5000", "10.0.0.0/8"]}"#;
        std::fs::write(&path, text).expect("written");
        let (hosts, nets) = from_daemon_json(&path).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(nets, Network::parse("10.0.0.0/8").into_iter().collect::<Vec<_>>());
        assert_eq!(hosts["docker.io"].mirrors, ["https://mirror.example"]);
        assert!(hosts["reg.example:5000"].insecure);
        std::fs::write(&path, "{").expect("written");
        assert!(from_daemon_json(&path).is_err());
        assert!(from_daemon_json(&dir.path().join("none")).is_ok_and(|(hosts, _)| hosts.is_empty()));
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
