//! URIs of artifacts.

use std::path::PathBuf;

use hearth_model::account::is_account;
use oci_client::Reference;

use super::config::ArtifactConfig;
use crate::failure::FailureCode;

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
    /// The configuration does not permit the registry for the account.
    #[error(
        "CodeArtifact URI names the registry {registry}, which this installation does not allow for the account {account}"
    )]
    RegistryNotAllowed {
        /// The registry.
        registry: String,
        /// The account.
        account: String,
    },
    /// The bucket is a folder of this host, and for other accounts.
    #[error(
        "CodeArtifact URI names the bucket {bucket}, which this installation does not allow for the account {account}"
    )]
    BucketNotAllowed {
        /// The bucket.
        bucket: String,
        /// The account.
        account: String,
    },
}

impl ArtifactUriError {
    /// The code of a build that has to fetch such a URI, since the configuration has changed after it was accepted.
    #[must_use]
    pub fn failure(&self) -> FailureCode {
        match self {
            Self::BucketNotAllowed { .. } => FailureCode::S3AccessDenied,
            _ => FailureCode::ArchiveInvalid,
        }
    }
}

impl ArtifactSource {
    /// Parses a URI: `s3://bucket/key`; if the configuration permits them for the account, `file:///path`, and image
    /// references with a registry as `oci://registry/repository:tag@digest` or as ECR's host without a scheme.
    ///
    /// # Errors
    ///
    /// The error's message is shown to the client. If only `s3://` is permitted, it is always AWS's.
    pub fn parse(uri: &str, config: &ArtifactConfig, account: &str) -> Result<Self, ArtifactUriError> {
        if uri.starts_with("s3://") {
            return Self::parse_s3(uri, config, account);
        }
        if let Some(path) = uri.strip_prefix("file://").filter(|_| config.may_use_files(account)) {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(ArtifactUriError::NotAbsolute);
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        let reference = uri.strip_prefix("oci://").or_else(|| is_ecr(uri).then_some(uri));
        if let Some(reference) = reference.filter(|_| config.has_registries(account)) {
            return image(reference, config, account);
        }
        Err(ArtifactUriError::NotS3)
    }

    /// Parses a URI that has to be `s3://bucket/key`.
    ///
    /// # Errors
    ///
    /// The error's message is shown to the client.
    pub fn parse_s3(uri: &str, config: &ArtifactConfig, account: &str) -> Result<Self, ArtifactUriError> {
        let rest = uri.strip_prefix("s3://").ok_or(ArtifactUriError::NotS3)?;
        let (bucket, key) = rest.split_once('/').ok_or(ArtifactUriError::NotS3)?;
        if !is_bucket(bucket) || key.is_empty() || key.len() > 1024 || key.contains('\0') {
            return Err(ArtifactUriError::NotS3);
        }
        if !config.may_use_bucket(bucket, account) {
            let (bucket, account) = (bucket.to_owned(), account.to_owned());
            return Err(ArtifactUriError::BucketNotAllowed { bucket, account });
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

fn image(
    reference: &str,
    config: &ArtifactConfig,
    account: &str,
) -> Result<ArtifactSource, ArtifactUriError> {
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
    match config.registry(parsed.registry(), account) {
        Some(_) => Ok(ArtifactSource::Image(parsed)),
        None => Err(ArtifactUriError::RegistryNotAllowed {
            registry: parsed.registry().to_owned(),
            account: account.to_owned(),
        }),
    }
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
    use super::super::config::RegistryConfig;
    use super::super::owners::BucketConfig;
    use super::*;

    const ACCOUNT: &str = "111122223333";
    const OTHER: &str = "444455556666";
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn everything() -> ArtifactConfig {
        ArtifactConfig {
            allow_files: true,
            registries: [("*".to_owned(), RegistryConfig::default().into())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn s3_uris_have_a_bucket_and_a_key() {
        let parsed =
            ArtifactSource::parse("s3://my-bucket/a dir/app%20.zip", &ArtifactConfig::default(), ACCOUNT);
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
            let error = ArtifactSource::parse(uri, &ArtifactConfig::default(), ACCOUNT).unwrap_err();
            assert_eq!(
                error.to_string(),
                "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>",
                "{uri}"
            );
        }
        let long = format!("s3://bucket/{}", "k".repeat(1025));
        assert_eq!(
            ArtifactSource::parse(&long, &ArtifactConfig::default(), ACCOUNT),
            Err(ArtifactUriError::NotS3)
        );
    }

    #[test]
    fn files_and_images_are_taken_where_the_configuration_allows_them() {
        let config = everything();
        assert_eq!(
            ArtifactSource::parse("file:///srv/app.zip", &config, ACCOUNT),
            Ok(ArtifactSource::File("/srv/app.zip".into()))
        );
        assert_eq!(
            ArtifactSource::parse("file://app.zip", &config, ACCOUNT),
            Err(ArtifactUriError::NotAbsolute)
        );
        for uri in [
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app:1".to_owned(),
            format!("oci://registry.example:5000/team/app:1@{DIGEST}"),
            format!("oci://localhost/app@{DIGEST}"),
        ] {
            let Ok(ArtifactSource::Image(reference)) = ArtifactSource::parse(&uri, &config, ACCOUNT) else {
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
            let error = ArtifactSource::parse(uri, &config, ACCOUNT).unwrap_err();
            assert!(matches!(error, ArtifactUriError::NotAReference(_)), "{uri}: {error}");
        }
    }

    #[test]
    fn a_registry_that_is_not_named_is_refused() {
        let mut config = everything();
        config.registries = [("registry.example".to_owned(), RegistryConfig::default().into())].into();
        assert!(ArtifactSource::parse("oci://registry.example/app", &config, ACCOUNT).is_ok());
        assert_eq!(
            ArtifactSource::parse("oci://169.254.169.254/app", &config, ACCOUNT),
            Err(ArtifactUriError::RegistryNotAllowed {
                registry: "169.254.169.254".to_owned(),
                account: ACCOUNT.to_owned()
            })
        );
    }

    #[test]
    fn what_is_another_accounts_is_refused_as_if_it_were_not_there() {
        let registry = RegistryConfig { accounts: Some(vec![ACCOUNT.into()]), ..RegistryConfig::default() };
        let bucket = BucketConfig { folder: "/srv".into(), accounts: registry.accounts.clone() };
        let mut config = ArtifactConfig {
            buckets: [("builds".to_owned(), bucket)].into(),
            registries: [("registry.example".to_owned(), registry.clone().into())].into(),
            files_accounts: registry.accounts.clone(),
            ..everything()
        };
        let uris = ["s3://builds/app.zip", "oci://registry.example/app", "file:///srv/app.zip"];
        for uri in uris {
            assert!(ArtifactSource::parse(uri, &config, ACCOUNT).is_ok(), "{uri}");
        }
        let refused = |uri: &str, config: &ArtifactConfig| {
            ArtifactSource::parse(uri, config, OTHER).unwrap_err().to_string()
        };
        assert_eq!(
            refused(uris[0], &config),
            "CodeArtifact URI names the bucket builds, which this installation does not allow for the account \
             444455556666"
        );
        // It does not even show that another account has files and registries.
        assert_eq!(refused(uris[1], &config), refused("oci:x", &ArtifactConfig::default()));
        assert_eq!(refused(uris[2], &config), refused("oci:x", &ArtifactConfig::default()));
        let own = RegistryConfig { accounts: Some(vec![OTHER.into()]), ..RegistryConfig::default() };
        config.registries.insert("own.example".to_owned(), own.into());
        let (known, unknown) = (refused(uris[1], &config), refused("oci://nowhere.example/app", &config));
        assert_eq!(known.replace("registry.example", "nowhere.example"), unknown);
        assert_eq!(
            ArtifactSource::parse_s3(uris[0], &config, OTHER).unwrap_err().failure(),
            FailureCode::S3AccessDenied
        );
    }
}
