//! Proxies of Docker's `config.json`, which become build-args.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cli::env::Env;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    proxies: BTreeMap<String, Proxy>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Proxy {
    #[serde(rename = "httpProxy")]
    http: String,
    #[serde(rename = "httpsProxy")]
    https: String,
    #[serde(rename = "ftpProxy")]
    ftp: String,
    #[serde(rename = "noProxy")]
    no: String,
    #[serde(rename = "allProxy")]
    all: String,
}

/// The build-args, each in both letter cases. A file that cannot be read as it should is worth a note, not an error.
pub(super) fn from_docker_config(env: &Env, notes: &mut Vec<String>) -> Vec<(String, String)> {
    let Some(path) = env.docker_config().map(|dir| dir.join("config.json")) else { return Vec::new() };
    let text = match fs_err::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            notes.push(format!("no proxies taken: {error}"));
            return Vec::new();
        }
    };
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => build_args(&config, env),
        Err(error) => {
            notes.push(format!("no proxies taken from {}: {error}", path.display()));
            Vec::new()
        }
    }
}

fn build_args(config: &Config, env: &Env) -> Vec<(String, String)> {
    let host = env.filled("DOCKER_HOST").and_then(|host| config.proxies.get(&host));
    let Some(proxy) = host.or_else(|| config.proxies.get("default")) else { return Vec::new() };
    let values = [
        ("HTTP_PROXY", &proxy.http),
        ("HTTPS_PROXY", &proxy.https),
        ("FTP_PROXY", &proxy.ftp),
        ("NO_PROXY", &proxy.no),
        ("ALL_PROXY", &proxy.all),
    ];
    let set = values.into_iter().filter(|(_, value)| !value.is_empty());
    set.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value.clone())]).collect()
}
