//! URIs of artifacts.

use std::path::PathBuf;

use hearth_model::account::is_account;
use oci_client::Reference;

use super::config::{ArtifactConfig, RegistryConfig};

/// An artifact's location, from its URI. [`ArtifactSource::parse`] accepts only what the configuration permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactSource {
    /// A zip in a bucket.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The object's key, 1 to 1024 bytes.
        key: String,
    },
    /// A zip in a file of this host.
    File(PathBuf),
    /// An image in a registry.
    Image(Reference),
}

/// Error: the URI names no artifact that is permitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactUriError {
    /// AWS's answer, word for word, to every URI that is no `s3://` URI.
    #[error("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")]
    NotS3,
    /// A `file://` URI that names no absolute path.
    #[error("CodeArtifact URI must name an absolute path in the format: file:///<path>")]
    NotAbsolute,
    /// The image reference is invalid.
    #[error("CodeArtifact URI is not a valid image reference: {0}")]
    NotAReference(String),
    /// The configuration does not permit the registry.
    #[error("CodeArtifact URI names the registry {0}, which this installation does not allow")]
    RegistryNotAllowed(String),
}

impl ArtifactSource {
    /// Parses a URI: `s3://bucket/key`; if the configuration permits them, `file:///path`, and image references with a
    /// registry as `oci://registry/repository:tag@digest` or as ECR's host without a scheme.
    ///
    /// # Errors
    ///
    /// The error's message is shown to the client. If only `s3://` is permitted, it is always AWS's.
    pub fn parse(uri: &str, config: &ArtifactConfig) -> Result<Self, ArtifactUriError> {
        if let Some(rest) = uri.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').ok_or(ArtifactUriError::NotS3)?;
            if !is_bucket(bucket) || key.is_empty() || key.len() > 1024 || key.contains('\0') {
                return Err(ArtifactUriError::NotS3);
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() });
        }
        if let Some(path) = uri.strip_prefix("file://").filter(|_| config.allow_files) {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(ArtifactUriError::NotAbsolute);
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        let reference = uri.strip_prefix("oci://").or_else(|| is_ecr(uri).then_some(uri));
        if let Some(reference) = reference.filter(|_| !config.registries.is_empty()) {
            return image(reference, config);
        }
        Err(ArtifactUriError::NotS3)
    }
}

fn image(reference: &str, config: &ArtifactConfig) -> Result<ArtifactSource, ArtifactUriError> {
    let refuse = |why: &str| Err(ArtifactUriError::NotAReference(why.to_owned()));
    // Without a registry, a reference would stand for Docker's; the registry has to be explicit here.
    let has_registry =
        reference.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
    if !has_registry {
        return refuse("it names no registry");
    }
    let Ok(parsed) = reference.parse::<Reference>() else {
        return refuse("it has not the form registry/repository:tag or registry/repository@digest");
    };
    if parsed.digest().is_some_and(|digest| !digest.starts_with("sha256:")) {
        return refuse("digests other than sha256 are not supported");
    }
    match registry_config(config, parsed.registry()) {
        Some(_) => Ok(ArtifactSource::Image(parsed)),
        None => Err(ArtifactUriError::RegistryNotAllowed(parsed.registry().to_owned())),
    }
}

/// The configuration of a registry: its own, or that of `*`.
pub(super) fn registry_config<'c>(config: &'c ArtifactConfig, registry: &str) -> Option<&'c RegistryConfig> {
    config.registries.get(registry).or_else(|| config.registries.get("*"))
}

/// Whether a bucket can have this name, by AWS's rule for existing names, old ones included.
fn is_bucket(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
}

/// Whether this begins with the host of a registry of ECR.
fn is_ecr(uri: &str) -> bool {
    let Some((host, _)) = uri.split_once('/') else { return false };
    let mut labels = host.split('.');
    let account = labels.next().unwrap_or_default();
    is_account(account)
        && labels.next() == Some("dkr")
        && labels.next() == Some("ecr")
        && (host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn everything() -> ArtifactConfig {
        ArtifactConfig {
            allow_files: true,
            registries: [("*".to_owned(), RegistryConfig::default())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn s3_uris_have_a_bucket_and_a_key() {
        let parsed = ArtifactSource::parse("s3://my-bucket/a dir/app%20.zip", &ArtifactConfig::default());
        let expected = ArtifactSource::S3 { bucket: "my-bucket".into(), key: "a dir/app%20.zip".into() };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn everything_but_s3_is_refused_with_the_sentence_of_aws() {
        let ecr = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1";
        let oci = "oci://registry.example/app:1";
        for uri in [
            "",
            "s3://",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "s3://b/key",
            "s3://a_b c/key",
            "s3://..x/key",
            "S3://bucket/key",
            "https://bucket.s3.amazonaws.com/key",
            "file:///etc/passwd",
            ecr,
            oci,
            "arn:aws:s3:::bucket/key",
        ] {
            let error = ArtifactSource::parse(uri, &ArtifactConfig::default()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>",
                "{uri}"
            );
        }
        let long = format!("s3://bucket/{}", "k".repeat(1025));
        assert_eq!(ArtifactSource::parse(&long, &ArtifactConfig::default()), Err(ArtifactUriError::NotS3));
    }

    #[test]
    fn files_and_images_are_taken_where_the_configuration_allows_them() {
        let config = everything();
        assert_eq!(
            ArtifactSource::parse("file:///srv/app.zip", &config),
            Ok(ArtifactSource::File("/srv/app.zip".into()))
        );
        assert_eq!(ArtifactSource::parse("file://app.zip", &config), Err(ArtifactUriError::NotAbsolute));
        for uri in [
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app:1".to_owned(),
            format!("oci://registry.example:5000/team/app:1@{DIGEST}"),
            format!("oci://localhost/app@{DIGEST}"),
        ] {
            let Ok(ArtifactSource::Image(reference)) = ArtifactSource::parse(&uri, &config) else {
                panic!("{uri}");
            };
            assert!(uri.ends_with(&reference.whole()), "{uri} became {reference}");
        }
        for uri in [
            "oci://app",
            "oci://library/app:1",
            "oci://registry.example/UPPER",
            "oci://registry.example/a@sha256:1",
        ] {
            let error = ArtifactSource::parse(uri, &config).unwrap_err();
            assert!(matches!(error, ArtifactUriError::NotAReference(_)), "{uri}: {error}");
        }
    }

    #[test]
    fn a_registry_that_is_not_named_is_refused() {
        let mut config = everything();
        config.registries = [("registry.example".to_owned(), RegistryConfig::default())].into();
        assert!(ArtifactSource::parse("oci://registry.example/app", &config).is_ok());
        assert_eq!(
            ArtifactSource::parse("oci://169.254.169.254/app", &config),
            Err(ArtifactUriError::RegistryNotAllowed("169.254.169.254".to_owned()))
        );
    }
}
