//! `--metadata-file`: what a build says about its result, in the keys of Docker's client.
//!
//! Pure; the caller writes the file in one piece.

use serde_json::{Map, Value, json};

use crate::oci::reference::Reference;

/// The manifest, once there is one: layers are only compressed for outputs that need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its media type.
    pub media_type: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
}

/// What is known of the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Digest of the config, the image ID; `None` when no image was made.
    pub config_digest: Option<String>,
    /// The manifest.
    pub manifest: Option<ManifestInfo>,
    /// When the image was made, RFC 3339.
    pub created: Option<String>,
    /// The names it was given.
    pub names: Vec<Reference>,
    /// What the build is called in the history.
    pub build: Option<String>,
}

impl Metadata {
    /// The content of the file: keys in order, indented by two, no line end after it.
    pub fn render(&self) -> String {
        let mut out = Map::new();
        if let Some(build) = &self.build {
            out.insert("buildx.build.ref".to_owned(), json!(build));
        }
        if let Some(digest) = &self.config_digest {
            out.insert("containerimage.config.digest".to_owned(), json!(digest));
        }
        if let Some(manifest) = &self.manifest {
            let mut annotations = Map::new();
            if let Some(digest) = &self.config_digest {
                annotations.insert("config.digest".to_owned(), json!(digest));
            }
            if let Some(created) = &self.created {
                annotations.insert("org.opencontainers.image.created".to_owned(), json!(created));
            }
            let mut descriptor = Map::new();
            descriptor.insert("mediaType".to_owned(), json!(manifest.media_type));
            descriptor.insert("digest".to_owned(), json!(manifest.digest));
            descriptor.insert("size".to_owned(), json!(manifest.size));
            if !annotations.is_empty() {
                descriptor.insert("annotations".to_owned(), Value::Object(annotations));
            }
            out.insert("containerimage.descriptor".to_owned(), Value::Object(descriptor));
            out.insert("containerimage.digest".to_owned(), json!(manifest.digest));
        }
        if !self.names.is_empty() {
            let names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
            out.insert("image.name".to_owned(), json!(names.join(",")));
        }
        format!("{:#}", Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_image() {
        let metadata = Metadata {
            config_digest: Some("sha256:aa".to_owned()),
            manifest: Some(ManifestInfo {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: "sha256:bb".to_owned(),
                size: 506,
            }),
            created: Some("2024-01-01T00:00:00Z".to_owned()),
            names: ["app", "h:5000/b:1"].map(|name| Reference::parse_tagged(name).expect(name)).to_vec(),
            build: Some("rbuild/local/x1".to_owned()),
        };
        insta::assert_snapshot!(metadata.render(), @r#"
        {
          "buildx.build.ref": "rbuild/local/x1",
          "containerimage.config.digest": "sha256:aa",
          "containerimage.descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": "sha256:bb",
            "size": 506,
            "annotations": {
              "config.digest": "sha256:aa",
              "org.opencontainers.image.created": "2024-01-01T00:00:00Z"
            }
          },
          "containerimage.digest": "sha256:bb",
          "image.name": "docker.io/library/app:latest,h:5000/b:1"
        }
        "#);
        assert_eq!(Metadata::default().render(), "{}");
    }
}
