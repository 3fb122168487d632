//! Configuration of artifacts: their permitted sources, and limits of their size.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hearth_host::roles::{Secret, StaticKeys};
use serde::{Deserialize, Serialize};

use super::zip;

/// Permitted sources of artifacts. The default is AWS: `s3://` URIs only, read from S3 with the build role's credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactConfig {
    /// The object store of all buckets that are not in `buckets`.
    pub s3: S3Config,
    /// Buckets that are local directories: an object's key is its path below the directory. Keys never lead out of it, also not
    /// through links.
    pub buckets: BTreeMap<String, PathBuf>,
    /// Whether `file://` URIs are accepted: any file that this process can read may then be used as an artifact by any client.
    /// Default false.
    pub allow_files: bool,
    /// Registries from which images may be pulled, by `host` or `host:port`. The name `*` stands for all others, over
    /// HTTPS. If empty, image references are refused. Default empty.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Limits of an artifact's size.
    pub limits: ArtifactLimits,
}

/// An S3-compatible object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// URL of the store, like `https://minio.example:9000`; by default AWS's for the region.
    pub endpoint: Option<String>,
    /// Region that requests are signed for. Default `us-east-1`.
    pub region: String,
    /// Whether the bucket is the first part of the path instead of part of the host name. Only used with an `endpoint`;
    /// AWS's own store is addressed by host names. Default true.
    pub path_style: bool,
    /// Whether the endpoint may be `http://`. Default false.
    pub allow_http: bool,
    /// A PEM file with certificates of authorities to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Keys for build roles without credentials. Without these keys, requests for such roles are not signed.
    pub credentials: Option<StaticKeys>,
    /// How many times a request is repeated after a server error or a broken connection. Default 3.
    pub max_retries: usize,
    /// Seconds without a byte after which a transfer fails. Default 30.
    pub read_timeout_seconds: u64,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: true,
            allow_http: false,
            ca_file: None,
            credentials: None,
            max_retries: 3,
            read_timeout_seconds: 30,
        }
    }
}

/// A registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Whether the registry is accessed over plain HTTP. Not for `*`. Default false.
    pub plain_http: bool,
    /// User to sign in as; without one, access is anonymous.
    pub username: Option<String>,
    /// The user's password or token.
    pub password: Option<Secret>,
    /// A PEM file with certificates of authorities to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// Limits of an artifact's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactLimits {
    /// Most bytes of a zip as it is stored. Default 10 GiB.
    pub max_zip_bytes: u64,
    /// Limits of a zip's content.
    pub zip: zip::Limits,
    /// Most bytes of all blobs of an image, compressed as they are. Default 10 GiB.
    pub max_image_bytes: u64,
    /// Most layers of an image. Default 256, twice what Docker allows.
    pub max_layers: usize,
}

impl Default for ArtifactLimits {
    fn default() -> Self {
        Self {
            max_zip_bytes: 10 << 30,
            zip: zip::Limits::default(),
            max_image_bytes: 10 << 30,
            max_layers: 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_and_what_it_misspells_is_refused() {
        let config: ArtifactConfig = serde_json::from_str(
            r#"{
                "s3": {"endpoint": "http://127.0.0.1:9000", "allow_http": true,
                       "credentials": {"access_key_id": "id", "secret_access_key": "hush"}},
                "buckets": {"local": "/srv/artifacts"},
                "registries": {"127.0.0.1:5000": {"plain_http": true}, "*": {}},
                "limits": {"max_zip_bytes": 1000, "zip": {"max_entries": 5}}
            }"#,
        )
        .unwrap();
        assert!(config.s3.path_style && !config.allow_files);
        assert_eq!(config.limits.zip.max_entries, 5);
        assert_eq!(config.limits.zip.max_ratio, zip::Limits::default().max_ratio);
        assert!(serde_json::from_str::<ArtifactConfig>(r#"{"allow_file": true}"#).is_err());
        assert!(serde_json::from_str::<ArtifactConfig>(r#"{"s3": {"end_point": "x"}}"#).is_err());
    }
}
