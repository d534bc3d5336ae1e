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
        certificates(&dir, &mut hosts);
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

/// `certs.d/HOST/{*.crt,*.cert,*.key}`. What is wrong there concerns only those who talk to that host.
fn certificates(dir: &Path, hosts: &mut BTreeMap<String, HostOptions>) {
    let Ok(entries) = fs_err::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(host) = entry.file_name().into_string() else { continue };
        if !entry.path().is_dir() {
            continue;
        }
        match host_certificates(&entry.path()) {
            Ok((ca, None)) if ca.is_empty() => {}
            Ok((ca, identity)) => {
                let options = hosts.entry(host).or_default();
                options.ca.extend(ca);
                options.identity = identity.or(options.identity.take());
            }
            Err(message) => hosts.entry(host).or_default().fault = Some(message),
        }
    }
}

/// Authorities, and perhaps a certificate of our own with its key.
type Certificates = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// One host's directory. Of several certificates of our own the first by name counts.
fn host_certificates(dir: &Path) -> Result<Certificates, String> {
    let (mut ca, mut identity) = (Vec::new(), None);
    let entries = fs_err::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|e| e.to_string())?;
    let mut paths: Vec<_> = entries.iter().map(fs_err::DirEntry::path).collect();
    paths.sort();
    let read = |path: &Path| fs_err::read(path).map_err(|e| e.to_string());
    for path in &paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => ca.push(read(path)?),
            Some("cert") if identity.is_none() => {
                let key = path.with_extension("key");
                if !paths.contains(&key) {
                    let (cert, key) = (path.display(), key.display());
                    return Err(format!("{cert} has no {key}; certificates of authorities end in .crt"));
                }
                identity = Some([read(path)?, b"\n".to_vec(), read(&key)?].concat());
            }
            Some("key") if !paths.contains(&path.with_extension("cert")) => {
                return Err(format!("{} has no {}", path.display(), path.with_extension("cert").display()));
            }
            Some(_) | None => {}
        }
    }
    Ok((ca, identity))
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
        for (name, text) in [("ca.crt", "CA"), ("client.cert", "CERT"), ("client.key", "KEY"), ("readme", "x")] {
            std::fs::write(host.join(name), text).expect("written");
        }
        std::fs::write(host.join("second.cert"), "2").expect("written");
        std::fs::write(host.join("second.key"), "2").expect("written");
        let read = || {
            let mut hosts = BTreeMap::new();
            certificates(dir.path(), &mut hosts);
            hosts["reg.example:5000"].clone()
        };
        assert_eq!(
            (read().ca, read().identity, read().fault),
            (vec![b"CA".to_vec()], Some(b"CERT\nKEY".to_vec()), None)
        );
        std::fs::remove_file(host.join("client.key")).expect("removed");
        let fault = read().fault.expect("half a pair");
        assert!(fault.contains("client.cert has no ") && fault.contains("client.key"), "{fault}");
        std::fs::remove_file(host.join("client.cert")).expect("removed");
        std::fs::remove_file(host.join("second.cert")).expect("removed");
        assert!(read().fault.is_some_and(|fault| fault.contains("second.key has no ")));
    }
}
