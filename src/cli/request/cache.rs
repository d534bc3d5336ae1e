//! `--cache-from`, `--cache-to` and `BUILDKIT_INLINE_CACHE`: which caches are read and written.
//!
//! Splits options into attributes; which attributes there are is known to `exchange::spec`.

use super::{RequestError, usage};
use crate::cli::env::Env;
use crate::cli::fields;
use crate::exchange::spec::{From, Place, Source, Target};

/// Type and attributes of an option.
type Parts = (String, Vec<(String, String)>);

/// The caches to look into.
pub(super) fn sources(texts: &[String], env: &Env) -> Result<Vec<Source>, RequestError> {
    let mut sources = Vec::new();
    for (kind, attributes) in parts(texts, env)? {
        let mut source = Source::parse(&kind, &attributes).map_err(|error| RequestError::Usage(error.to_string()))?;
        if let From::Local { src, .. } = &mut source.from {
            *src = env.path(&*src);
        }
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// The caches to write; `inline` adds one inside the image.
pub(super) fn targets(texts: &[String], inline: bool, env: &Env) -> Result<Vec<Target>, RequestError> {
    let mut targets: Vec<Target> = Vec::new();
    for (kind, attributes) in parts(texts, env)? {
        let mut target = Target::parse(&kind, &attributes).map_err(|error| RequestError::Usage(error.to_string()))?;
        if let Place::Local { dest, .. } = &mut target.place {
            *dest = env.path(&*dest);
        }
        if targets.iter().any(|other| other.place == target.place) {
            return usage(format!(
                "two --cache-to have the same destination: the second would replace the first ({kind})"
            ));
        }
        targets.push(target);
    }
    if inline && !targets.iter().any(|target| target.place == Place::Inline) {
        targets.push(Target::inline());
    }
    Ok(targets)
}

/// Each option's type and attributes. A value without any `=` is a list of names in registries.
fn parts(texts: &[String], env: &Env) -> Result<Vec<Parts>, RequestError> {
    let mut out = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let parsed = fields::csv(text).map_err(RequestError::Usage)?;
        if parsed.iter().all(|field| !field.contains('=')) {
            let name = |name: String| ("registry".to_owned(), vec![("ref".to_owned(), name)]);
            out.extend(parsed.into_iter().map(name));
            continue;
        }
        let (mut kind, mut attributes) = (String::new(), Vec::new());
        for field in parsed {
            let Some((key, value)) = field.split_once('=') else {
                return usage(format!("invalid value {field}"));
            };
            match key.trim().to_lowercase().as_str() {
                "type" => value.clone_into(&mut kind),
                key => attributes.push((key.to_owned(), value.to_owned())),
            }
        }
        if kind.is_empty() {
            return usage(format!("type required form> {text:?}"));
        }
        if kind == "s3" {
            from_environment(&mut attributes, env);
        }
        out.push((kind, attributes));
    }
    Ok(out)
}

/// Adds what the variables of AWS's own tools say and the option does not. Keys belong together: given ones are not mixed with
/// others.
fn from_environment(attributes: &mut Vec<(String, String)>, env: &Env) {
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
    if !given(attributes, "access_key_id") && !given(attributes, "secret_access_key") {
        let mut add = |name: &str, variable: &str| {
            let value = env.filled(variable).map(|value| (name.to_owned(), value));
            attributes.extend(value);
        };
        add("access_key_id", "AWS_ACCESS_KEY_ID");
        add("secret_access_key", "AWS_SECRET_ACCESS_KEY");
        add("session_token", "AWS_SESSION_TOKEN");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn bare_names_are_of_registries_and_paths_are_where_we_are() {
        let env = Env::test(Path::new("/work"), &[]);
        let texts = ["a,b:2".to_owned(), "type=local,src=c".to_owned(), String::new()];
        let sources = sources(&texts, &env).expect("valid");
        let shown: Vec<_> = sources.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["docker.io/library/a:latest", "docker.io/library/b:2", "local:/work/c:latest"]);
        let targets = targets(&["type=local,dest=c".to_owned()], true, &env).expect("valid");
        assert_eq!(targets.iter().filter(|target| target.place == Place::Inline).count(), 1);
        let twice = ["type=local,dest=c".to_owned(), "type=local,dest=./c".to_owned()];
        assert!(super::targets(&twice, true, &env).is_err());
        assert!(super::targets(&["a".to_owned(), "a:latest".to_owned()], true, &env).is_err());
        assert!(super::sources(&["ref=a".to_owned()], &env).is_err());
    }
}
