//! Where artifacts may come from, and how much they may be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hearth_host::roles::{Secret, StaticKeys};
use serde::{Deserialize, Serialize};

use super::zip;

/// Where artifacts may come from. The default is AWS: `s3://` URIs only, read from S3 with the build role's credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactConfig {
    /// The object store of all buckets that are not in `buckets`.
    pub s3: S3Config,
    /// Buckets that are local directories: an object's key is its path below the directory. Keys never lead out of it, not
    /// by links either.
    pub buckets: BTreeMap<String, PathBuf>,
    /// Whether `file://` URIs are taken: any file that this process can read becomes an artifact of whoever names it.
    /// Default false.
    pub allow_files: bool,
    /// Registries that images may be pulled from, by `host` or `host:port`. The name `*` stands for all others, over
    /// HTTPS. Without any, image references are refused. Default none.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// How much an artifact may be.
    pub limits: ArtifactLimits,
}

/// An S3-compatible object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// URL of the store, like `https://minio.example:9000`; AWS's for the region when not given.
    pub endpoint: Option<String>,
    /// Region that requests are signed for. Default `us-east-1`.
    pub region: String,
    /// Whether buckets are the first part of a path instead of the host's name. Only looked at with an `endpoint`;
    /// AWS's own gets host names. Default true.
    pub path_style: bool,
    /// Whether the endpoint may be `http://`. Default false.
    pub allow_http: bool,
    /// A PEM file with certificates of authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Keys for build roles that stand for none. Without them, requests of such roles are not signed.
    pub credentials: Option<StaticKeys>,
    /// How many times a request is sent again after a server error or a broken connection. Default 3.
    pub max_retries: usize,
    /// Seconds without a byte after which a transfer has failed. Default 30.
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
    /// Whether it is spoken to over plain HTTP. Not for `*`. Default false.
    pub plain_http: bool,
    /// User to sign in as; anonymous without.
    pub username: Option<String>,
    /// The user's password or token.
    pub password: Option<Secret>,
    /// A PEM file with certificates of authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// How much an artifact may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactLimits {
    /// Bytes of a zip as it is stored. Default 10 GiB.
    pub max_zip_bytes: u64,
    /// What a zip may hold.
    pub zip: zip::Limits,
    /// Bytes of an image's blobs together, compressed as they are. Default 10 GiB.
    pub max_image_bytes: u64,
    /// Layers of an image. Default 256, twice what Docker allows.
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
