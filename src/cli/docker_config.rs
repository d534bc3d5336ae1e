//! Docker's `config.json` as it is written: who is logged in where. Everything else in the file stays as it was.
//!
//! The file is replaced as a whole and only its owner may read it. A lock on its directory keeps two logins of ours apart;
//! Docker's own has none.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::registry::credentials::{Credential, TOKEN_USER, server_key};

/// Programs that keep credentials: name without prefix, `store`, `get` or `erase`, and what they read. Their output.
pub(super) type Program<'a> = &'a dyn Fn(&str, &str, &str) -> Result<String, String>;

/// Where a credential is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// In the file itself, readable for whoever can read the file.
    InFile,
    /// By a helper.
    By(String),
}

/// The file.
pub(super) struct DockerConfig {
    path: PathBuf,
    value: Value,
    _lock: std::fs::File,
}

impl DockerConfig {
    /// Opens the one in `dir`, which is made if missing.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        if !dir.exists() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|e| Failure::of(&e).named(&format!("make {}", dir.display())))?;
        }
        let lock = fs_err::File::open(dir).map_err(|e| Failure::of(&e))?.into_parts().0;
        lock.lock().map_err(|e| Failure::of(&e).named(&format!("lock {}", dir.display())))?;
        let path = dir.join("config.json");
        // A link stays one: it may lead to where somebody keeps dot files.
        let path = fs_err::canonicalize(&path).unwrap_or(path);
        let value = match fs_err::read(&path) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => json!({}),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Failure::of(&e).named(&path.display().to_string()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(e) => return Err(Failure::of(&e)),
        };
        if !value.is_object() {
            return Err(Failure::text(format!("{}: not a JSON object", path.display())));
        }
        Ok(Self { path, value, _lock: lock })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Who keeps credentials for `host`.
    fn keeper(&self, host: &str) -> Kept {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let helpers = &self.value["credHelpers"];
        let named = [host, server_key(host)].into_iter().find_map(|key| text(&helpers[key]));
        named.or_else(|| text(&self.value["credsStore"])).map_or(Kept::InFile, Kept::By)
    }

    /// Keeps a credential.
    pub(super) fn keep(&mut self, host: &str, credential: &Credential, run: Program<'_>) -> Result<Kept, Failure> {
        let server = server_key(host);
        let (username, secret, identity) = match credential {
            Credential::Basic { username, password } => (username.as_str(), password.as_str(), None),
            Credential::Identity { username, token } => (username.as_str(), "", Some(token.as_str())),
            Credential::Bearer(_) => return Err(Failure::text("a bare bearer token cannot be kept")),
        };
        let keeper = self.keeper(host);
        let entry = match &keeper {
            Kept::By(name) => {
                let (username, secret) = identity.map_or((username, secret), |token| (TOKEN_USER, token));
                let input = json!({"ServerURL": server, "Username": username, "Secret": secret}).to_string();
                run(name, "store", &input).map_err(|e| helper_failure(name, &e))?;
                json!({})
            }
            Kept::InFile => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{secret}"));
                match identity {
                    Some(token) => json!({"auth": pair, "identitytoken": token}),
                    None => json!({"auth": pair}),
                }
            }
        };
        self.auths()?.insert(server.to_owned(), entry);
        self.write()?;
        Ok(keeper)
    }

    /// Forgets the credential for a host; false if there was none.
    pub(super) fn forget(&mut self, host: &str, run: Program<'_>) -> Result<bool, Failure> {
        let server = server_key(host);
        let mut known = false;
        if let Kept::By(name) = self.keeper(host) {
            match run(&name, "erase", server) {
                Ok(_) => known = true,
                Err(message) if message.contains("credentials not found") => {}
                Err(message) => return Err(helper_failure(&name, &message)),
            }
        }
        let auths = self.auths()?;
        // Older tools wrote addresses.
        let keys = [server.to_owned(), host.to_owned(), format!("https://{host}"), format!("http://{host}")];
        let mut listed = false;
        for key in keys.iter().chain([&format!("https://{host}/v1/"), &format!("https://{host}/v2/")]) {
            listed |= auths.shift_remove(key).is_some();
        }
        if listed {
            self.write()?;
        }
        Ok(known || listed)
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, Failure> {
        let path = self.path.display().to_string();
        let auths = &mut self.value["auths"];
        if auths.is_null() {
            *auths = json!({});
        }
        auths.as_object_mut().ok_or_else(|| Failure::text(format!("{path}: auths is not an object")))
    }

    fn write(&self) -> Result<(), Failure> {
        let failed = |e: &dyn std::error::Error| Failure::of(e).named(&format!("write {}", self.path.display()));
        let mut text = serde_json::to_vec_pretty(&self.value).map_err(|e| failed(&e))?;
        text.push(b'\n');
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".config.json-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .tempfile_in(dir)
            .map_err(|e| failed(&e))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
        file.persist(&self.path).map_err(|e| failed(&e.error))?;
        Ok(())
    }
}

fn helper_failure(name: &str, message: &str) -> Failure {
    Failure::text(format!("credential helper docker-credential-{name}: {}", message.trim()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::registry::credentials::Credentials;

    fn basic() -> Credential {
        Credential::Basic { username: "me".to_owned(), password: "s:3".to_owned() }
    }

    fn nobody(name: &str, _: &str, _: &str) -> Result<String, String> {
        Err(format!("{name} is not asked"))
    }

    #[test]
    fn what_is_kept_is_found_again_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("d/config.json");
        let mut config = DockerConfig::open(&dir.path().join("d")).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(config.keep("docker.io", &basic(), &nobody).unwrap_or_else(|f| panic!("{f}")), Kept::InFile);
        drop(config);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text.replacen('{', "{\"proxies\":{\"x\":1},", 1)).expect("written");
        let token = Credential::Identity { username: "me".to_owned(), token: "t".to_owned() };
        let mut config = DockerConfig::open(&dir.path().join("d")).unwrap_or_else(|f| panic!("{f}"));
        config.keep("a.example:5000", &token, &nobody).unwrap_or_else(|f| panic!("{f}"));
        drop(config);
        let text = std::fs::read(&path).expect("text");
        let known = Credentials::from_config(&text, None).expect("valid");
        assert_eq!(known.lookup("docker.io"), Ok(Some(basic())));
        assert!(matches!(known.lookup("a.example:5000"), Ok(Some(Credential::Identity { token, .. })) if token == "t"));
        let mut config = DockerConfig::open(&dir.path().join("d")).unwrap_or_else(|f| panic!("{f}"));
        assert!(config.forget("docker.io", &nobody).is_ok_and(|known| known));
        assert!(config.forget("docker.io", &nobody).is_ok_and(|known| !known));
        drop(config);
        let value: Value = serde_json::from_slice(&std::fs::read(&path).expect("text")).expect("JSON");
        assert_eq!((&value["proxies"]["x"], value["auths"].as_object().map(Map::len)), (&json!(1), Some(1)));
    }

    #[test]
    fn helpers_keep_what_they_are_configured_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let text = r#"{"credsStore": "all", "credHelpers": {"a.example": "one"}}"#;
        std::fs::write(dir.path().join("real.json"), text).expect("written");
        std::os::unix::fs::symlink("real.json", dir.path().join("config.json")).expect("linked");
        let said = RefCell::new(Vec::new());
        let run = |name: &str, action: &str, input: &str| {
            said.borrow_mut().push(format!("{name} {action} {input}"));
            Ok(String::new())
        };
        let mut config = DockerConfig::open(dir.path()).unwrap_or_else(|f| panic!("{f}"));
        let kept = config.keep("a.example", &basic(), &run).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(kept, Kept::By("one".to_owned()));
        assert!(config.forget("docker.io", &run).is_ok_and(|known| known));
        assert_eq!(
            said.into_inner(),
            [
                r#"one store {"ServerURL":"a.example","Username":"me","Secret":"s:3"}"#,
                "all erase https://index.docker.io/v1/"
            ]
        );
        let text = std::fs::read_to_string(dir.path().join("real.json")).expect("text");
        assert!(text.contains(r#""a.example": {}"#) && !text.contains("s:3"), "{text}");
        assert!(dir.path().join("config.json").is_symlink(), "a link stays one");
    }
}
