//! The image config as Docker and BuildKit read and write it: the OCI config plus Docker's fields.
//!
//! `oci-spec`'s type lacks HEALTHCHECK, ONBUILD, SHELL and ArgsEscaped, so this is our own. Pure data. `null` is as good as
//! nothing everywhere: tools written in Go write it for what is empty.

use std::collections::BTreeMap;

use rbuild_cache::digest::DiffId;
use serde::{Deserialize, Serialize};

use super::null_is_default;

/// The whole config blob; its SHA-256 is the image ID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// CPU architecture, e.g. `amd64`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// MAINTAINER.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// What a container of it gets.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// One entry an instruction.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// Operating system, e.g. `linux`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// Windows' version.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_version: String,
    /// Windows' features.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_features: Vec<String>,
    /// The layers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// CPU variant, e.g. `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub variant: String,
    /// Fields rbuild does not know, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// `config` of the image config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// USER
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// EXPOSE
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// ENV, `NAME=value` in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// ENTRYPOINT
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// CMD
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// VOLUME
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// WORKDIR
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// LABEL
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// STOPSIGNAL
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// Set by CMD in BuildKit; kept for Windows' sake.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub args_escaped: bool,
    /// HEALTHCHECK
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// ONBUILD
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// SHELL
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// `{}`: the value of Docker's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<BTreeMap<String, serde::de::IgnoredAny>>")]
pub struct Empty {}

impl From<Option<BTreeMap<String, serde::de::IgnoredAny>>> for Empty {
    fn from(_: Option<BTreeMap<String, serde::de::IgnoredAny>>) -> Self {
        Self {}
    }
}

/// HEALTHCHECK; durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// ns
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub interval: i64,
    /// ns
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub timeout: i64,
    /// ns
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub start_period: i64,
    /// ns
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub start_interval: i64,
    /// Failures in a row that count as unhealthy.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// `rootfs`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// From the bottom.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

fn layers() -> String {
    "layers".to_owned()
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// One history entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub created_by: String,
    /// `buildkit.dockerfile.v0`
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub comment: String,
    /// Author.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// No layer belongs to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_default")]
    pub empty_layer: bool,
}
