//! Uploads folders and zips to the host's own bucket; artifacts with a URI stay where they are.
//!
//! * [`folder`] – a folder becomes a zip, within the host's limits
//! * [`put`] – the zip is sent
//! * [`progress`] – the bar

mod folder;
mod progress;
mod put;

use std::fs::File;
use std::path::{Path, PathBuf};

use hearth_proto::host::v1::ArtifactLimits;

use crate::connect::Client;
use crate::error::Failure;
use crate::live::{Live, OutputStream};
use crate::out::bytes;

/// First bytes of a zip.
const ZIP: [u8; 2] = *b"PK";

/// The artifact of an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Artifact {
    /// A URI from which the daemon fetches.
    Uri(String),
    Folder(PathBuf),
    Zip(PathBuf),
}

impl Artifact {
    /// Interprets `text`: a URI, a folder, a zip, or the name of a container image.
    pub(crate) fn find(text: &str) -> Result<Self, Failure> {
        if text.contains("://") {
            return Ok(Self::Uri(text.to_owned()));
        }
        let path = PathBuf::from(text);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                if !path.join("Dockerfile").is_file() {
                    return Err(Failure::usage(format!("the folder {text} has no Dockerfile")));
                }
                Ok(Self::Folder(path))
            }
            Ok(metadata) if metadata.is_file() => {
                if begins_with(&path, &ZIP)? {
                    Ok(Self::Zip(path))
                } else {
                    Err(no_zip(text))
                }
            }
            Ok(_) => Err(no_zip(text)),
            // Like docker, the presence of a host name distinguishes registries from folders.
            Err(_) if text.split_once('/').is_some_and(|(host, _)| is_registry(host)) => {
                Ok(Self::Uri(text.to_owned()))
            }
            Err(error) => Err(Failure::usage(format!(
                "cannot read {text}: {error}; write a folder, a zip, s3://BUCKET/KEY or the name of a container image"
            ))),
        }
    }

    /// The URI to build from, after an upload if necessary.
    pub(crate) async fn uri(self, client: &Client, name: &str, quiet: bool) -> Result<String, Failure> {
        let mut live = Live::new(OutputStream::Stderr);
        let (zip, path, limits) = match self {
            Self::Uri(uri) => return Ok(uri),
            Self::Zip(path) => {
                let zip = File::open(&path).map_err(|error| unreadable(&path, &error))?;
                (zip, path, limits(client).await?)
            }
            Self::Folder(folder) => {
                let limits = limits(client).await?;
                (folder::zip(&folder, limits.as_ref(), &mut live, quiet).await?, folder, limits)
            }
        };
        let size = zip.metadata().map_err(|error| unreadable(&path, &error))?.len();
        let limit = limits.map(|limits| limits.max_zip_bytes).filter(|limit| *limit > 0);
        if let Some(limit) = limit.filter(|limit| i64::try_from(size).is_ok_and(|size| size > *limit)) {
            return Err(Failure::failed(format!(
                "the zip of {} has {}, and the host accepts {}; leave out what the build does not need",
                path.display(),
                bytes(i64::try_from(size).unwrap_or(i64::MAX)),
                bytes(limit)
            )));
        }
        put::put(client, zip, name, &mut live, quiet).await.map(|answer| answer.uri)
    }
}

/// What the host accepts, if it says so and the caller may know it.
async fn limits(client: &Client) -> Result<Option<ArtifactLimits>, Failure> {
    match client.host_status().await {
        Ok(status) => Ok(status.artifact_limits),
        Err(failure) if failure.is_denied() => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn begins_with(path: &Path, magic: &[u8]) -> Result<bool, Failure> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut begin = vec![0; magic.len()];
    Ok(std::io::Read::read_exact(&mut file, &mut begin).is_ok() && begin == magic)
}

fn is_registry(host: &str) -> bool {
    !host.starts_with('.') && (host.contains('.') || host.contains(':') || host == "localhost")
}

fn no_zip(text: &str) -> Failure {
    Failure::usage(format!("{text} is neither a folder nor a zip"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn kinds_of_artifacts_are_distinguished() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("app.zip"), "PK\x03\x04").unwrap();
        fs::write(path("app.txt"), "text").unwrap();
        let find = |text: &str| Artifact::find(text);
        assert_eq!(find("s3://b/k.zip").unwrap(), Artifact::Uri("s3://b/k.zip".into()));
        let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1";
        assert_eq!(find(image).unwrap(), Artifact::Uri(image.into()));
        assert_eq!(find(&path("app.zip")).unwrap(), Artifact::Zip(path("app.zip").into()));
        for wrong in [path("app.txt"), path("absent"), path(""), "./absent/app".into()] {
            assert!(matches!(find(&wrong), Err(Failure::Usage(_))), "{wrong}");
        }
        fs::write(path("Dockerfile"), "FROM scratch\n").unwrap();
        assert_eq!(find(&path("")).unwrap(), Artifact::Folder(path("").into()));
    }
}
