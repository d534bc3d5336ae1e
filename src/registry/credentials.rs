//! Credentials out of Docker's `config.json`, handed in as data; helper programs run through a closure.
//!
//! Reads no file, no environment and starts no process itself: who may do that differs between rootless and root
//! (design.md 4.6), so `cli` decides.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;

/// The key Docker uses for Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// What a helper returns as user name when the secret is an identity token.
pub const TOKEN_USER: &str = "<token>";

/// How to prove who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity {
        /// Whose, if that is known.
        username: String,
        /// The token.
        token: String,
    },
    /// A bearer token to send as it is.
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Self::Identity { .. } => f.write_str("Identity(…)"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

/// Runs `docker-credential-<first> get` with the second argument on stdin; returns stdout, or the text of its failure.
pub type Helper = Arc<dyn Fn(&str, &str) -> Result<String, String> + Send + Sync>;

/// Credentials could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// `config.json` is not what it should be.
    #[error("Docker config: {0}")]
    Config(String),
    /// A helper failed.
    #[error("credential helper docker-credential-{helper} for {server}: {message}")]
    Helper {
        /// Its name without prefix.
        helper: String,
        /// What it was asked for.
        server: String,
        /// What it said.
        message: String,
    },
}

/// The credentials of one user.
#[derive(Clone, Default)]
pub struct Credentials {
    config: DockerConfig,
    helper: Option<Helper>,
    /// For every host, whatever the config says.
    only: Option<Credential>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("hosts", &self.config.auths.keys()).finish_non_exhaustive()
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Credentials {
    /// Nobody's: everything is asked for anonymously.
    pub fn none() -> Self {
        Self::default()
    }

    /// One credential for whoever asks: to find out whether it is good.
    pub fn only(credential: Credential) -> Self {
        Self { only: Some(credential), ..Self::default() }
    }

    /// The credentials of a `config.json`. Without `helper`, helpers it names are errors when they are needed.
    pub fn from_config(json: &[u8], helper: Option<Helper>) -> Result<Self, CredentialError> {
        let config = if json.iter().all(u8::is_ascii_whitespace) {
            DockerConfig::default()
        } else {
            serde_json::from_slice(json).map_err(|error| CredentialError::Config(error.to_string()))?
        };
        Ok(Self { config, helper, only: None })
    }

    /// The credential for a registry host (`docker.io`, `localhost:5000`); may run a helper, so it can take a while.
    pub fn lookup(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(only) = &self.only {
            return Ok(Some(only.clone()));
        }
        let server = server_key(host);
        let config = &self.config;
        let named = config.cred_helpers.iter().find(|(key, _)| same_host(key, host)).map(|(_, name)| name);
        let store = config.creds_store.as_ref().filter(|name| !name.is_empty());
        if let Some(name) = named.or(store)
            && let Some(found) = self.ask(name, server)?
        {
            return Ok(Some(found));
        }
        let exact = config.auths.get(server).or_else(|| config.auths.get(host));
        exact
            .or_else(|| config.auths.iter().find(|(key, _)| same_host(key, host)).map(|(_, entry)| entry))
            .map_or(Ok(None), |entry| entry.credential(host))
    }

    fn ask(&self, name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
        let fail = |message: String| CredentialError::Helper {
            helper: name.to_owned(),
            server: server.to_owned(),
            message: message.trim().to_owned(),
        };
        let helper = self.helper.as_ref().ok_or_else(|| fail("helpers cannot be run here".to_owned()))?;
        let answer = match helper(name, server) {
            Ok(answer) => answer,
            // The words every helper uses for "no".
            Err(message) if message.contains("credentials not found") => return Ok(None),
            Err(message) => return Err(fail(message)),
        };
        let answer: HelperAnswer = serde_json::from_str(&answer).map_err(|error| fail(error.to_string()))?;
        Ok(match answer {
            HelperAnswer { secret, .. } if secret.is_empty() => None,
            HelperAnswer { username, secret } if username == TOKEN_USER => {
                Some(Credential::Identity { username: String::new(), token: secret })
            }
            HelperAnswer { username, secret } => Some(Credential::Basic { username, password: secret }),
        })
    }
}

impl AuthEntry {
    fn credential(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = text(&self.identitytoken) {
            let username = text(&self.username).unwrap_or_default();
            return Ok(Some(Credential::Identity { username, token }));
        }
        if let Some(token) = text(&self.registrytoken) {
            return Ok(Some(Credential::Bearer(token)));
        }
        if let Some(auth) = text(&self.auth) {
            let bad = || CredentialError::Config(format!("invalid auth configuration of {host}"));
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).map_err(|_| bad())?;
            let pair = String::from_utf8(bytes).map_err(|_| bad())?;
            let (username, password) = pair.split_once(':').ok_or_else(bad)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credential::Basic { username: username.to_owned(), password }));
        }
        Ok(text(&self.username)
            .map(|username| Credential::Basic { username, password: text(&self.password).unwrap_or_default() }))
    }
}

/// The key of a registry in `auths`, and its name for helpers.
pub fn server_key(host: &str) -> &str {
    if is_hub(host) { HUB_KEY } else { host }
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Whether a key of `auths` (perhaps a URL) is about this host.
fn same_host(key: &str, host: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.split('/').next().unwrap_or_default();
    bare == host || (is_hub(bare) && is_hub(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    fn identity(token: &str) -> Credential {
        Credential::Identity { username: String::new(), token: token.to_owned() }
    }

    #[test]
    fn every_form_of_auths_is_understood() {
        let json = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"bWU6c2VjOnJldA=="},
            "https://reg.example/v2/":{"username":"u","password":"p"},
            "token.example:5000":{"auth":"eDp5","identitytoken":"abc"},
            "bearer.example":{"registrytoken":"t"},
            "bad.example":{"auth":"!"},
            "empty.example":{}},"HttpHeaders":{"X":"y"}}"#;
        let credentials = Credentials::from_config(json, None).expect("valid");
        let get = |host: &str| credentials.lookup(host);
        assert_eq!(get("docker.io"), Ok(Some(basic("me", "sec:ret"))));
        assert_eq!(get("reg.example"), Ok(Some(basic("u", "p"))));
        assert_eq!(get("token.example:5000"), Ok(Some(identity("abc"))));
        assert_eq!(get("bearer.example"), Ok(Some(Credential::Bearer("t".to_owned()))));
        assert_eq!(get("empty.example"), Ok(None));
        assert_eq!(get("token.example"), Ok(None), "the port is part of the host");
        assert!(get("bad.example").is_err());
        assert!(!format!("{:?}", get("docker.io")).contains("sec"), "secrets are not printed");
        assert_eq!(Credentials::from_config(b" \n", None).expect("empty").lookup("docker.io"), Ok(None));
    }

    #[test]
    fn helpers_come_first_and_may_say_no() {
        let helper: Helper = Arc::new(|name, server| match (name, server) {
            ("store", HUB_KEY) => Ok(r#"{"ServerURL":"x","Username":"hub","Secret":"s"}"#.to_owned()),
            ("ecr", "a.example") => Ok(r#"{"Username":"<token>","Secret":"refresh"}"#.to_owned()),
            ("store", "plain.example") => Err("credentials not found in native keychain\n".to_owned()),
            _ => Err("exec: not found\n".to_owned()),
        });
        let json =
            br#"{"credsStore":"store","credHelpers":{"a.example":"ecr"},"auths":{"plain.example":{"auth":"dTpw"}}}"#;
        let credentials = Credentials::from_config(json, Some(helper)).expect("valid");
        assert_eq!(credentials.lookup("docker.io"), Ok(Some(basic("hub", "s"))));
        assert_eq!(credentials.lookup("a.example"), Ok(Some(identity("refresh"))));
        assert_eq!(credentials.lookup("plain.example"), Ok(Some(basic("u", "p"))));
        let error = credentials.lookup("other.example").expect_err("the helper is broken");
        assert_eq!(error.to_string(), "credential helper docker-credential-store for other.example: exec: not found");
    }
}
