//! Configuration of artifacts: their permitted sources, and limits of their size.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hearth_host::roles::{Secret, StaticKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::owners::{ALL, BucketConfig, Registries};
use super::worker::Origin;
use super::zip;

/// Where artifacts may come from. `PutArtifact` (`hearth image create NAME FOLDER`) works beside it.
///
/// While all callers have one account, buckets, registries, files and keys are this account's. As soon as several accounts
/// are configured – `access.local_account` counts where there is a Unix socket, and so does each account of `access.keys` and
/// `access.certificates` –, each needs the list of its accounts, or the daemon does not start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactConfig {
    /// The object store of all buckets that are not in `buckets`.
    pub s3: S3Config,
    /// Buckets that are folders of this host: `NAME = "/FOLDER"`, or `NAME = { folder = "/FOLDER", accounts = ["ACCOUNT"] }`.
    #[schemars(extend("x-name" = "NAME"))]
    pub buckets: BTreeMap<String, BucketConfig>,
    /// Whether `file://` URIs are taken: then every file that root can read can become somebody's artifact.
    pub allow_files: bool,
    /// Accounts (12 digits) that may name files, where `allow_files` allows it; `["*"]` for all. Needed as soon as several
    /// accounts are configured.
    pub files_accounts: Option<Vec<String>>,
    /// Registries that images may be pulled from, by host: `[artifacts.registries."HOST:PORT"]`, or
    /// `[[artifacts.registries."HOST:PORT"]]` for several accounts with users of their own; `"*"` stands for all that are
    /// not named, over TLS, at addresses that guests may reach, and without a user. Without any, image references are refused.
    /// A Dockerfile's `FROM` is pulled in the builder microVM, without a user, whatever is here.
    #[schemars(extend("x-name" = "HOST"))]
    pub registries: BTreeMap<String, Registries>,
    /// Days after which an artifact in the daemon's own bucket is removed, unless a version of an image names it; 0 keeps
    /// it for ever.
    pub uploads_retention_days: u32,
    /// Limits of an artifact's size.
    pub limits: ArtifactLimits,
}

impl Default for ArtifactConfig {
    fn default() -> Self {
        Self {
            s3: S3Config::default(),
            buckets: BTreeMap::new(),
            allow_files: false,
            files_accounts: None,
            registries: BTreeMap::new(),
            uploads_retention_days: 30,
            limits: ArtifactLimits::default(),
        }
    }
}

impl ArtifactConfig {
    /// Checks everything but files. The error is the key below `artifacts`, and what is wrong.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        self.check_owners()?;
        for (host, entries) in &self.registries {
            for entry in entries.iter() {
                entry.check(host).map_err(|why| (format!("registries.\"{host}\""), why))?;
            }
        }
        Ok(())
    }

    /// How long artifacts in the daemon's own bucket are kept; `None` for ever.
    #[must_use]
    pub fn kept_uploads(&self) -> Option<Duration> {
        const DAY: u64 = 24 * 60 * 60;
        let days = u64::from(self.uploads_retention_days);
        (days > 0).then(|| Duration::from_secs(days * DAY))
    }
}

/// The object store of all buckets that are not in `buckets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// URL of the store; AWS's for the region unless given. It may have an address that guests do not reach.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Whether buckets are the first part of a path instead of the host's name; only with an `endpoint`.
    pub path_style: bool,
    /// Whether the endpoint may be `http://`.
    pub allow_http: bool,
    /// PEM file with authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Keys for build roles that stand for none.
    pub credentials: Option<StaticKeys>,
    /// Accounts (12 digits) whose builds may use `credentials`; `["*"]` for all. Needed with `credentials` as soon as several
    /// accounts are configured. Other builds have the keys of their roles, or none.
    pub accounts: Option<Vec<String>>,
    /// How many times a request is sent again after a server's error or a broken connection.
    pub max_retries: usize,
    /// Seconds without a byte after which a transfer has failed.
    #[schemars(range(min = 1, max = 170))]
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
            accounts: None,
            max_retries: 3,
            read_timeout_seconds: 30,
        }
    }
}

/// A registry. One that is named may have an address that guests do not reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Whether it is spoken to without TLS; not for `"*"`.
    pub plain_http: bool,
    /// Further servers, like `https://HOST:PORT`, that the registry may lead to although guests do not reach their addresses, or
    /// without TLS: for tokens and for blobs that it has elsewhere; not for `"*"`.
    pub endpoints: Vec<String>,
    /// User to sign in as; anonymous unless given; not for `"*"`.
    pub username: Option<String>,
    /// The user's password or token; not for `"*"`.
    pub password: Option<Secret>,
    /// PEM file with authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Accounts (12 digits) whose builds may pull from it, as this user; `["*"]` for all. Needed as soon as several accounts are
    /// configured.
    pub accounts: Option<Vec<String>>,
}

impl RegistryConfig {
    fn check(&self, host: &str) -> Result<(), String> {
        if host == ALL {
            let given = [
                (self.plain_http, "plain_http"),
                (self.username.is_some(), "username"),
                (self.password.is_some(), "password"),
                (!self.endpoints.is_empty(), "endpoints"),
            ];
            if let Some((_, key)) = given.into_iter().find(|(is_given, _)| *is_given) {
                return Err(format!(
                    "{key} is for registries that are named, not for \"*\", which any host of the internet can be: write \
                     [artifacts.registries.\"HOST\"] with it"
                ));
            }
        }
        if self.username.is_some() != self.password.is_some() {
            return Err("username and password belong together: write both, or none".to_owned());
        }
        self.servers().map(drop)
    }

    /// The further servers.
    pub(super) fn servers(&self) -> Result<Vec<Origin>, String> {
        let servers = self.endpoints.iter().map(|text| Origin::parse(text));
        servers.collect::<Result<_, _>>().map_err(|why| format!("endpoints: {why}"))
    }
}

/// Limits of an artifact's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactLimits {
    /// Bytes of a zip as it is stored.
    pub max_zip_bytes: u64,
    /// Limits of a zip's content.
    pub zip: zip::Limits,
    /// Bytes of a container image's blobs together, compressed as they are.
    pub max_image_bytes: u64,
    /// Layers of a container image.
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

    #[test]
    fn what_belongs_to_a_registry_is_not_for_all() {
        let named = |host: &str, text: &str| {
            let config: ArtifactConfig = toml::from_str(&format!("[registries.\"{host}\"]\n{text}")).unwrap();
            config.check()
        };
        for (text, key) in [
            ("username = \"builder\"\npassword = \"open sesame\"", "username"),
            ("password = \"open sesame\"", "password"),
            ("plain_http = true", "plain_http"),
            ("endpoints = [\"https://tokens.example\"]", "endpoints"),
        ] {
            let (at, why) = named("*", text).unwrap_err();
            assert_eq!(at, "registries.\"*\"");
            assert!(why.starts_with(&format!("{key} is for registries that are named")), "{why}");
        }
        named("*", "accounts = [\"*\"]").unwrap();
        named("r.example", "username = \"builder\"\npassword = \"open sesame\"").unwrap();
        named("r.example", "endpoints = [\"https://tokens.example\", \"http://10.0.0.5:9000\"]").unwrap();
        for (text, word) in [
            ("endpoints = [\"tokens.example\"]", "https://HOST:PORT"),
            ("username = \"builder\"", "belong together"),
            ("password = \"open sesame\"", "belong together"),
        ] {
            let (_, why) = named("r.example", text).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
