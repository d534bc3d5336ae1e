//! `--registry-mirror`, `--insecure-registry`, `--registry-ca`, `--registry-timeout` and `--offline` as decided: the files
//! are read here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{RequestError, os_words, usage};
use crate::cli::args_registry::RegistryArgs;
use crate::cli::env::Env;
use crate::registry::{HostOptions, Options};

/// What the command line says of registries; goes on top of what is configured.
#[derive(Clone, Debug, Default)]
pub struct RegistryRequest {
    hosts: BTreeMap<String, HostOptions>,
    ca: Vec<Vec<u8>>,
    /// How long nothing may move.
    timeout: Option<Duration>,
    /// Ask nobody.
    pub offline: bool,
}

impl RegistryRequest {
    /// Decides on everything `args` leaves open.
    pub fn new(args: &RegistryArgs, env: &Env) -> Result<Self, RequestError> {
        let timeout = args.registry_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let mut request = Self { offline: args.offline, timeout, ..Self::default() };
        for text in &args.registry_mirror {
            let (host, mirror) = match text.split_once('=') {
                Some((host, mirror)) => (self::host("--registry-mirror", host)?, mirror),
                None => ("docker.io".to_owned(), text.as_str()),
            };
            let bare = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://")).unwrap_or(mirror);
            self::host("--registry-mirror", bare.split('/').next().unwrap_or_default())?;
            request.hosts.entry(host).or_default().mirrors.push(mirror.to_owned());
        }
        for text in &args.insecure_registry {
            let host = host("--insecure-registry", text)?;
            request.hosts.entry(host).or_default().insecure = true;
        }
        for text in &args.registry_ca {
            let (host, file) = match text.split_once('=') {
                Some((host, file)) => (Some(self::host("--registry-ca", host)?), file),
                None => (None, text.as_str()),
            };
            let fault = |words: String| RequestError::Usage(format!("--registry-ca {file}: {words}"));
            let pem = fs_err::read(env.path(file)).map_err(|error| fault(os_words(&error)))?;
            if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(fault("no certificate in PEM form in it".to_owned()));
            }
            match host {
                Some(host) => request.hosts.entry(host).or_default().ca.push(pem),
                None => request.ca.push(pem),
            }
        }
        Ok(request)
    }

    /// Puts it on top of `options`.
    pub fn apply(&self, options: &mut Options) {
        for (host, wanted) in &self.hosts {
            let known = options.hosts.entry(host.clone()).or_default();
            known.insecure |= wanted.insecure;
            known.ca.extend(wanted.ca.iter().cloned());
            // What is typed comes before what is configured.
            known.mirrors.splice(0..0, wanted.mirrors.iter().cloned());
        }
        options.ca.extend(self.ca.iter().cloned());
        options.retry.silence = self.timeout.unwrap_or(options.retry.silence);
        options.offline |= self.offline;
    }
}

/// A registry as references name it; a scheme and a path are what people paste.
pub(in crate::cli) fn host(option: &str, text: &str) -> Result<String, RequestError> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let plausible = !bare.is_empty()
        && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'));
    match bare.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "hub.docker.com" => Ok("docker.io".to_owned()),
        _ if plausible => Ok(bare),
        _ => usage(format!("{option}: {text:?} is not a registry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn flags_go_on_top_of_what_is_configured() {
        let dir = tempfile::tempdir().expect("temp dir");
        let pem = "-----BEGIN CERTIFICATE-----\nx\n";
        std::fs::write(dir.path().join("ca.pem"), pem).expect("written");
        std::fs::write(dir.path().join("key.pem"), "-----BEGIN KEY-----").expect("written");
        let env = Env::test(dir.path(), &[]);
        let args = RegistryArgs {
            registry_mirror: texts(&["m.example", "a.example:5000=http://m.example/a"]),
            insecure_registry: texts(&["https://b.example/"]),
            registry_ca: texts(&["ca.pem", "b.example=ca.pem"]),
            registry_timeout: Some(7),
            offline: false,
        };
        let mut options = Options::default();
        options.hosts.entry("docker.io".to_owned()).or_default().mirrors = texts(&["old.example"]);
        RegistryRequest::new(&args, &env).expect("valid").apply(&mut options);
        assert_eq!(options.hosts["docker.io"].mirrors, ["m.example", "old.example"]);
        assert_eq!(options.hosts["a.example:5000"].mirrors, ["http://m.example/a"]);
        assert!(options.hosts["b.example"].insecure);
        assert_eq!(options.retry.silence, Duration::from_secs(7));
        assert_eq!((options.ca.len(), options.hosts["b.example"].ca.len()), (1, 1));

        let error = |args: RegistryArgs| RegistryRequest::new(&args, &env).expect_err("refused").to_string();
        let with_ca = |file: &str| RegistryArgs { registry_ca: texts(&[file]), ..RegistryArgs::default() };
        assert_eq!(error(with_ca("none.pem")), "--registry-ca none.pem: no such file or directory");
        assert_eq!(error(with_ca("key.pem")), "--registry-ca key.pem: no certificate in PEM form in it");
        let mirror = RegistryArgs { registry_mirror: texts(&["x=/"]), ..RegistryArgs::default() };
        assert_eq!(error(mirror), "--registry-mirror: \"\" is not a registry");
        assert!(host("login", "https://index.docker.io/v1/").is_ok_and(|host| host == "docker.io"));
    }
}
