//! Uploads folders and zips to the host's own bucket; artifacts with a URI stay where they are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_proto::host::v1::put_artifact_request::Part;
use hearth_proto::host::v1::{PutArtifactRequest, PutArtifactResponse};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::Client;
use crate::error::Failure;
use crate::live::{Live, OutputStream};
use crate::out::bytes;

/// Bytes per message.
const CHUNK: usize = 256 << 10;
/// Messages that are queued for the network.
const AHEAD: usize = 4;
/// Interval at which the progress is updated.
const TICK: Duration = Duration::from_millis(100);
/// Width of the progress bar in characters.
const BAR: usize = 24;
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
        let zip = match self {
            Self::Uri(uri) => return Ok(uri),
            Self::Zip(path) => File::open(&path).map_err(|error| unreadable(&path, &error))?,
            Self::Folder(folder) => {
                let zipped = tokio::task::spawn_blocking(move || {
                    let zip = tempfile::tempfile()?;
                    hearth_artifact::pack(&folder, zip.try_clone()?)?;
                    let mut zip = zip;
                    std::io::Seek::rewind(&mut zip)?;
                    Ok::<_, std::io::Error>(zip)
                });
                let zipped = zipped.await.map_err(|error| Failure::failed(format!("cannot zip: {error}")))?;
                zipped.map_err(|error| Failure::failed(format!("cannot zip the folder: {error}")))?
            }
        };
        put(client, zip, name, quiet).await.map(|answer| answer.uri)
    }
}

/// Uploads a zip. `name` is for people.
async fn put(client: &Client, zip: File, name: &str, quiet: bool) -> Result<PutArtifactResponse, Failure> {
    let total =
        zip.metadata().map_err(|error| Failure::failed(format!("cannot read the zip: {error}")))?.len();
    let sent = Arc::new(AtomicU64::new(0));
    let (sender, messages) = mpsc::channel(AHEAD);
    let reader =
        tokio::spawn(send(tokio::fs::File::from_std(zip), artifact_name(name), sender, Arc::clone(&sent)));
    let mut host = client.host();
    let answer = host.put_artifact(ReceiverStream::new(messages));
    tokio::pin!(answer);
    let mut live = Live::new(OutputStream::Stderr);
    let mut tick = tokio::time::interval(TICK);
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            _ = tick.tick(), if live.is_terminal() && !quiet => {
                live.show(&bar(sent.load(Ordering::Relaxed), total))?;
            }
        }
    };
    live.clear()?;
    let answer = answer.map_err(|status| client.failure("upload the artifact", status));
    // If the file cannot be read, the stream ends early, and the daemon may accept the part as complete.
    match reader.await {
        Ok(Err(error)) => Err(Failure::failed(format!("cannot read the zip: {error}"))),
        _ => answer.map(tonic::Response::into_inner),
    }
}

/// Sends the name and all bytes; stops when the receiver is gone.
async fn send(
    mut zip: tokio::fs::File,
    name: String,
    sender: mpsc::Sender<PutArtifactRequest>,
    sent: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut part = Part::Name(name);
    while sender.send(PutArtifactRequest { part: Some(part) }).await.is_ok() {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = (&mut zip).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if count == 0 {
            break;
        }
        sent.fetch_add(count as u64, Ordering::Relaxed);
        part = Part::Data(chunk);
    }
    Ok(())
}

/// A name that the daemon accepts: 1 to 128 of a-z A-Z 0-9 . _ -
fn artifact_name(name: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String =
        name.chars().map(|character| if allowed(character) { character } else { '-' }).collect();
    format!("{}.zip", name.get(..name.len().min(124)).unwrap_or("artifact"))
}

fn bar(sent: u64, total: u64) -> String {
    let filled = sent.saturating_mul(BAR as u64).checked_div(total).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(BAR).min(BAR);
    let size = |count: u64| bytes(i64::try_from(count).unwrap_or(i64::MAX));
    format!("uploading [{:<BAR$}] {} of {}", "=".repeat(filled), size(sent), size(total))
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

    #[test]
    fn the_bar_is_full_at_the_end_and_nothing_is_no_failure() {
        assert_eq!(
            bar(512, 1024),
            format!("uploading [{}] 512 B of 1.0 KiB", "=".repeat(12) + &" ".repeat(12))
        );
        assert_eq!(bar(0, 0), format!("uploading [{}] 0 B of 0 B", " ".repeat(24)));
        assert_eq!(artifact_name("my app/é"), "my-app--.zip");
    }
}
