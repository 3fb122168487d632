//! The messages between the daemon and a worker: one packet of JSON each, with descriptors beside it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::{fmt, io};

use hearth_host::roles::Secret;
use hearth_model::text::harmless;
use hearth_vmm_api::socket::PacketSocket;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use crate::artifact::config::ArtifactLimits;
use crate::artifact::download::Progress;
use crate::artifact::zip::{self, ZipSummary};
use crate::failure::FailureCode;

/// What a worker is to do. The descriptors that it needs come with the task, in the order that is given.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::artifact) enum Task {
    /// Copy a zip and check it. Descriptors: the file to write, the file to read.
    Copy {
        /// How many bytes of the file are the zip; none for all.
        bytes: Option<u64>,
        limits: ArtifactLimits,
    },
    /// Fetch a zip from an object store and check it. Descriptors: the file to write, and authorities, if there are any.
    Object(ObjectTask),
    /// Pull an image, as the tar of an OCI layout. Descriptors as for an object.
    Image(ImageTask),
    /// Write a zip as a tar. Descriptors: the zip, and where the tar goes.
    Tar { limits: zip::Limits },
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::artifact) struct ObjectTask {
    pub(in crate::artifact) endpoint: Option<String>,
    pub(in crate::artifact) region: String,
    pub(in crate::artifact) path_style: bool,
    pub(in crate::artifact) max_retries: usize,
    pub(in crate::artifact) read_timeout_seconds: u64,
    pub(in crate::artifact) keys: Option<ObjectKeys>,
    pub(in crate::artifact) bucket: String,
    pub(in crate::artifact) key: String,
    pub(in crate::artifact) limits: ArtifactLimits,
}

/// The keys that a request is signed with.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::artifact) struct ObjectKeys {
    pub(in crate::artifact) id: String,
    #[serde(serialize_with = "expose")]
    pub(in crate::artifact) secret: Secret,
    #[serde(serialize_with = "expose_some")]
    pub(in crate::artifact) token: Option<Secret>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::artifact) struct ImageTask {
    /// The image's reference, in full.
    pub(in crate::artifact) image: String,
    pub(in crate::artifact) plain_http: bool,
    pub(in crate::artifact) username: Option<String>,
    #[serde(serialize_with = "expose_some")]
    pub(in crate::artifact) password: Option<Secret>,
    pub(in crate::artifact) limits: ArtifactLimits,
}

/// A secret goes to the worker as it is; everywhere else it is serialized as stars.
fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn expose_some<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(serializer)
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// A connection is needed; it is answered with an [`Answer`].
    Connect(super::Origin),
    Progress(Progress),
    /// The task is done.
    Done(Facts),
    Failed(Failure),
}

/// The answer to a worker that needs a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::artifact) enum Answer {
    /// It comes as the packet's descriptor.
    Connected,
    /// It is not allowed; with the sentence for the user.
    Refused(String),
    /// It could not be made; with the reason.
    Failed(String),
}

/// What is known of an artifact when a task is done.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::artifact) enum Facts {
    Zip { summary: ZipSummary, sha256: String },
    Image { digest: String },
    Sent,
}

/// Why a task failed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// The documented code.
    pub(super) code: FailureCode,
    /// The detail that the user sees.
    pub(super) detail: Option<String>,
    /// The whole error, for the log.
    pub(super) log: String,
}

/// Sends a message, with descriptors that the caller keeps.
pub(super) fn send(
    socket: &PacketSocket,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    socket.send(&serde_json::to_vec(message)?, descriptors)
}

/// Receives a message and its descriptors; none when the other side has closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: &PacketSocket,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some(descriptors) = socket.receive(buffer)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(buffer)?, descriptors)))
}

/// The first bytes of a text that a worker sent, without what moves a cursor, breaks a line or turns its direction.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 1000;
    harmless(text.as_bytes(), MOST)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Refused(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_carries_its_secrets_and_nothing_else_shows_them() {
        let task = ImageTask {
            image: "registry.example/app:1".to_owned(),
            plain_http: false,
            username: Some("builder".to_owned()),
            password: Some(Secret::new("open sesame")),
            limits: ArtifactLimits::default(),
        };
        assert!(!format!("{task:?}").contains("sesame"));
        let text = serde_json::to_string(&task).unwrap();
        let read: ImageTask = serde_json::from_str(&text).unwrap();
        assert_eq!(read.password, task.password);
    }

    #[test]
    fn what_a_worker_says_is_bounded_and_on_one_line() {
        let text = shown(&format!("a\u{1b}[2J\n{}", "b".repeat(5000)));
        assert!(text.starts_with("a b") && text.ends_with('…') && text.len() == 1000);
    }

    #[test]
    fn the_largest_task_fits_a_packet() {
        // Base64 of a session's token, twice what AWS has been seen to give.
        let keys = ObjectKeys {
            id: "A".repeat(128),
            secret: Secret::new("s".repeat(128)),
            token: Some(Secret::new("t".repeat(4096))),
        };
        let task = Task::Object(ObjectTask {
            endpoint: Some("h".repeat(2048)),
            region: "r".repeat(32),
            path_style: true,
            max_retries: 3,
            read_timeout_seconds: 30,
            keys: Some(keys),
            bucket: "b".repeat(255),
            key: "\u{1}".repeat(1024),
            limits: ArtifactLimits::default(),
        });
        let (ours, theirs) = PacketSocket::pair().unwrap();
        send(&ours, &task, &[]).unwrap();
        let received: Option<(Task, _)> = receive(&theirs, &mut Vec::new()).unwrap();
        assert!(matches!(received, Some((Task::Object(_), _))));
    }
}
