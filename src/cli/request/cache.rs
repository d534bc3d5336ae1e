//! `--cache-from`, `--cache-to` and `BUILDKIT_INLINE_CACHE`: which caches are read and written.
//!
//! Splits options into attributes; which attributes there are is known to `exchange::spec`.

use super::{RequestError, aws, usage};
use crate::cli::env::Env;
use crate::cli::fields;
use crate::exchange::spec::{From, Place, Source, Target};
use crate::registry::{BucketName, Credentials};

/// Type and attributes of an option.
type Parts = (String, Vec<(String, String)>);

/// The caches to look into.
pub(super) fn sources(texts: &[String], env: &Env) -> Result<Vec<Source>, RequestError> {
    let mut sources = Vec::new();
    for (kind, attributes) in parts(texts, env)? {
        let mut source = Source::parse(&kind, &attributes).map_err(|error| RequestError::Usage(error.to_string()))?;
        match &mut source.from {
            From::Local { src, .. } => *src = env.path(&*src),
            From::Bucket { bucket, .. } => keyed(bucket, env)?,
            From::Registry { .. } => {}
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
        match &mut target.place {
            Place::Local { dest, .. } => *dest = env.path(&*dest),
            Place::Bucket { bucket, .. } => keyed(bucket, env)?,
            Place::Registry { .. } | Place::Inline => {}
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
            aws::complete(&mut attributes, env)?;
        }
        out.push((kind, attributes));
    }
    Ok(out)
}

/// A bucket without keys may be read from a container that is given some.
fn keyed(bucket: &mut BucketName, env: &Env) -> Result<(), RequestError> {
    if bucket.credentials == Credentials::Anonymous {
        bucket.credentials = aws::container(env)?;
    }
    Ok(())
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
