//! What AWS's own tools would use for a bucket when the option does not say it: variables, then a profile below `~/.aws`, then
//! the endpoint that gives keys to a container. What of it rbuild does not do is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::RequestError;
use crate::cli::env::Env;
use crate::registry::{Credentials, KeyEndpoint};

/// Where containers of ECS find what is given as a path only.
const RELATIVE_TO: &str = "http://169.254.170.2";
/// Plain http is for addresses that do not leave the machine, and these two.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
/// Ways to get keys that are not gone.
const REFUSED: [&str; 9] = [
    "role_arn",
    "source_profile",
    "credential_source",
    "credential_process",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "sso_account_id",
    "login_session",
];

type Settings = BTreeMap<String, String>;

/// Adds to the attributes of a bucket what variables and the profile say. Keys belong together: given ones are not mixed with
/// others.
pub(super) fn complete(attributes: &mut Vec<(String, String)>, env: &Env) -> Result<(), RequestError> {
    let given = |attributes: &[(String, String)], name: &str| attributes.iter().any(|(key, _)| key == name);
    let mut add = |name: &str, variables: &[&str]| {
        if !given(attributes, name)
            && let Some(value) = variables.iter().find_map(|variable| env.filled(variable))
        {
            attributes.push((name.to_owned(), value));
        }
    };
    add("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
    add("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    add("bucket", &["AWS_BUCKET"]);
    let mut wants_keys = !given(attributes, "access_key_id") && !given(attributes, "secret_access_key");
    if wants_keys && env.filled("AWS_ACCESS_KEY_ID").is_some() {
        for (name, variable) in KEYS {
            attributes.extend(env.filled(variable).map(|value| (name.to_owned(), value)));
        }
        wants_keys = false;
    }
    let profile = Profile::read(env)?;
    for (name, setting) in [("region", "region"), ("endpoint_url", "endpoint_url")] {
        if !given(attributes, name) {
            attributes.extend(profile.settings.get(setting).map(|value| (name.to_owned(), value.clone())));
        }
    }
    if wants_keys {
        if env.filled("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            return refused("AWS_WEB_IDENTITY_TOKEN_FILE");
        }
        for (name, variable) in KEYS {
            let value = profile.settings.get(&variable.to_lowercase());
            attributes.extend(value.map(|value| (name.to_owned(), value.clone())));
        }
        let has_keys = profile.settings.contains_key("aws_access_key_id");
        if let Some(way) = REFUSED.iter().find(|way| !has_keys && profile.settings.contains_key(**way)) {
            return refused(&format!("{way} of AWS profile {:?}", profile.name));
        }
    }
    Ok(())
}

/// Attributes of keys, and the variables that say the same; in files they are in lower case.
const KEYS: [(&str, &str); 3] = [
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
];

fn refused<T>(what: &str) -> Result<T, RequestError> {
    let text = format!(
        "{what} is not supported: give access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    );
    Err(RequestError::Usage(text))
}

/// The endpoint that gives keys to this container, for a bucket that has none.
pub(super) fn container(env: &Env) -> Result<Credentials, RequestError> {
    let invalid = |variable: &str, why: &str| RequestError::Usage(format!("invalid {variable}: {why}"));
    let (variable, text) = match (env.filled(RELATIVE), env.filled(FULL)) {
        (Some(path), _) => (RELATIVE, format!("{RELATIVE_TO}{path}")),
        (None, Some(url)) => (FULL, url),
        (None, None) => return Ok(Credentials::Anonymous),
    };
    let url = Url::parse(&text).map_err(|error| invalid(variable, &error.to_string()))?;
    let host = url.host_str().unwrap_or_default();
    let local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if !(url.scheme() == "https" || (url.scheme() == "http" && (local || CONTAINER_HOSTS.contains(&host)))) {
        return Err(invalid(variable, "expected https, or an address of this machine"));
    }
    let from_file = |path: String| {
        let path = env.path(path);
        fs_err::read_to_string(&path)
            .map_err(|error| invalid("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &error.to_string()))
    };
    let file = env.filled("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(from_file).transpose()?;
    let authorization = file.or_else(|| env.filled("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
    let authorization = authorization.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(Credentials::Endpoint(KeyEndpoint { url, authorization }))
}

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";

/// What the two files say about one profile; of the same setting that for credentials counts.
struct Profile {
    name: String,
    settings: Settings,
}

impl Profile {
    fn read(env: &Env) -> Result<Self, RequestError> {
        let named = env.filled("AWS_PROFILE").or_else(|| env.filled("AWS_DEFAULT_PROFILE"));
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let home = env.filled("HOME").map(PathBuf::from);
        let file = |variable: &str, usual: &str| -> Result<String, RequestError> {
            let path = env.filled(variable).map(|path| env.path(path));
            let path = path.or_else(|| Some(home.as_ref()?.join(".aws").join(usual)));
            path.map_or_else(|| Ok(String::new()), |path| text(&path))
        };
        let config = file("AWS_CONFIG_FILE", "config")?;
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
        let of_profile = |section: &str| match section.strip_prefix("profile") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim() == name,
            Some(_) | None => section == "default" && name == "default",
        };
        let found = [settings(&config, of_profile), settings(&credentials, |section| section == name)];
        if found.iter().all(Option::is_none) && named.is_some() {
            return Err(RequestError::Usage(format!(
                "AWS profile {name:?} is neither in the config nor in the credentials file"
            )));
        }
        Ok(Self { name, settings: found.into_iter().flatten().flatten().collect() })
    }
}

/// A file that may be missing.
fn text(path: &Path) -> Result<String, RequestError> {
    match fs_err::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| RequestError::Usage(error.to_string())),
    }
}

/// The settings of the sections that are wanted; `None` if there is no such section. Indented lines belong to a setting of
/// other services.
fn settings(text: &str, wanted: impl Fn(&str) -> bool) -> Option<Settings> {
    let mut found: Option<Settings> = None;
    let mut inside = false;
    for line in text.lines() {
        let plain = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| line.find(mark)).min();
        let line = plain.map_or(line, |end| &line[..end]).trim_end();
        if line.is_empty() || line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = wanted(section.trim());
            if inside {
                found.get_or_insert_default();
            }
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            found.get_or_insert_default().insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str, credentials: &str) -> Self {
            let home = tempfile::tempdir().expect("temp");
            fs_err::create_dir(home.path().join(".aws")).expect("made");
            fs_err::write(home.path().join(".aws/config"), config).expect("written");
            fs_err::write(home.path().join(".aws/credentials"), credentials).expect("written");
            Self(home)
        }

        fn env(&self, vars: &[(&str, &str)]) -> Env {
            let home = self.0.path().display().to_string();
            let mut all = vec![("HOME", home.as_str())];
            all.extend(vars);
            Env::test(Path::new("/work"), &all)
        }

        /// The attributes after `given`, in order, or the error.
        fn attributes(&self, given: &[(&str, &str)], vars: &[(&str, &str)]) -> String {
            let mut attributes: Vec<_> = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            match complete(&mut attributes, &self.env(vars)) {
                Ok(()) => attributes[given.len()..]
                    .iter()
                    .map(|(k, v)| format!("{k}={v} "))
                    .collect::<String>()
                    .trim()
                    .to_owned(),
                Err(error) => error.to_string(),
            }
        }
    }

    const CONFIG: &str = "[default]\nregion = eu-west-1 # near\n\n[profile ci]\nregion=us-east-2\nendpoint_url = http://s3\n\
        s3 =\n  max_concurrent_requests = 20\n[profile role]\nrole_arn = arn\nsource_profile = ci\n";
    const CREDENTIALS: &str = "; keys\n[default]\naws_access_key_id = A\naws_secret_access_key = B\n\
        [ci]\naws_access_key_id=C\naws_secret_access_key=D=\naws_session_token = T\n[plain]\n";

    #[test]
    fn options_come_before_variables_and_those_before_profiles() {
        let home = Home::new(CONFIG, CREDENTIALS);
        let keys = "access_key_id=A secret_access_key=B";
        assert_eq!(home.attributes(&[], &[]), format!("region=eu-west-1 {keys}"));
        let ci = "region=us-east-2 endpoint_url=http://s3 access_key_id=C secret_access_key=D= session_token=T";
        assert_eq!(home.attributes(&[], &[("AWS_PROFILE", "ci")]), ci);
        assert_eq!(home.attributes(&[("region", "r")], &[("AWS_REGION", "x")]), keys);
        let vars =
            [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "F"), ("AWS_REGION", "x"), ("AWS_PROFILE", "ci")];
        assert_eq!(
            home.attributes(&[], &vars),
            "region=x access_key_id=E secret_access_key=F endpoint_url=http://s3",
            "no token of somebody else"
        );
        assert_eq!(
            home.attributes(&[("access_key_id", "G")], &[]),
            "region=eu-west-1",
            "what is missing is told later"
        );
        assert_eq!(Home::new("", "").attributes(&[], &[]), "");
        let nowhere = Env::test(Path::new("/work"), &[]);
        assert!(complete(&mut Vec::new(), &nowhere).is_ok());
    }

    #[test]
    fn what_is_not_done_is_named() {
        let home = Home::new(CONFIG, CREDENTIALS);
        let error = home.attributes(&[], &[("AWS_PROFILE", "role")]);
        assert!(error.starts_with("role_arn of AWS profile \"role\" is not supported"), "{error}");
        let error = home.attributes(&[], &[("AWS_PROFILE", "nobody")]);
        assert!(error.contains("AWS profile \"nobody\" is neither in"), "{error}");
        let error = home.attributes(&[], &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")]);
        assert!(error.starts_with("AWS_WEB_IDENTITY_TOKEN_FILE is not supported"), "{error}");
        assert_eq!(home.attributes(&[], &[("AWS_PROFILE", "plain")]), "");
        let keys = [("access_key_id", "A"), ("secret_access_key", "B")];
        assert_eq!(home.attributes(&keys, &[("AWS_PROFILE", "role")]), "", "keys that were given need no role");
    }

    #[test]
    fn containers_have_an_endpoint() {
        let home = Home::new("", "");
        let found = |vars: &[(&str, &str)]| match container(&home.env(vars)) {
            Ok(Credentials::Endpoint(KeyEndpoint { url, authorization })) => format!("{url} {authorization:?}"),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(found(&[]), "Anonymous");
        assert_eq!(found(&[(RELATIVE, "/v2/x")]), "http://169.254.170.2/v2/x None");
        let token = fs_err::write(home.0.path().join("token"), "secret\n").map(|()| home.0.path().join("token"));
        let token = token.expect("written").display().to_string();
        let vars = [(FULL, "http://127.0.0.1:81/c"), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str())];
        assert_eq!(found(&vars), "http://127.0.0.1:81/c Some(\"secret\")");
        assert_eq!(found(&[(FULL, "https://keys.example/")]), "https://keys.example/ None");
        assert!(found(&[(FULL, "http://keys.example/")]).contains("expected https, or an address of this machine"));
        assert!(found(&[(FULL, "keys")]).starts_with("invalid AWS_CONTAINER_CREDENTIALS_FULL_URI"));
    }
}
