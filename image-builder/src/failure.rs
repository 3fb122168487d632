//! Why a build failed, in the sentences that a client sees as the build's `stateReason`.
//!
//! Sentences that AWS is known to use are used word for word, since clients match on them. Of the documented codes only
//! `CONTAINER_BUILD_FAILED` has a known sentence; the others' reasons begin with the code itself. What Hearth knows beyond a
//! sentence follows it.

use std::fmt;
use std::io;
use std::time::Duration;

use hearth_model::hooks::{HookOutcome, ImageHook};

/// Most bytes of a `stateReason`: what the API allows a microVM's, whose bound a client may take for all.
const LONGEST: usize = 2048;

/// A documented failure code of an image build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum FailureCode {
    /// The build role may not read the artifact, or its bucket.
    S3AccessDenied,
    /// The bucket has no such object.
    S3NoSuchKey,
    /// There is no such bucket.
    S3NoSuchBucket,
    /// The object is archived, or changed while it was read.
    S3InvalidObject,
    /// The bucket is in another region.
    S3CrossRegionAccessDenied,
    /// The archive has no regular file `Dockerfile` at its root.
    ArchiveDockerfileNotFound,
    /// The archive is damaged, hostile, or beyond a limit.
    ArchiveInvalid,
    /// A step of the Dockerfile failed, or an image could not be pulled.
    ContainerBuildFailed,
    /// The disk is full: the builder's or the host's.
    DiskStorageFull,
    /// A failure that the user cannot mend.
    InternalPlatformError,
}

impl FailureCode {
    /// All codes.
    pub const ALL: [Self; 10] = [
        Self::S3AccessDenied,
        Self::S3NoSuchKey,
        Self::S3NoSuchBucket,
        Self::S3InvalidObject,
        Self::S3CrossRegionAccessDenied,
        Self::ArchiveDockerfileNotFound,
        Self::ArchiveInvalid,
        Self::ContainerBuildFailed,
        Self::DiskStorageFull,
        Self::InternalPlatformError,
    ];

    /// The code as documented, like `S3_NO_SUCH_KEY`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::S3AccessDenied => "S3_ACCESS_DENIED",
            Self::S3NoSuchKey => "S3_NO_SUCH_KEY",
            Self::S3NoSuchBucket => "S3_NO_SUCH_BUCKET",
            Self::S3InvalidObject => "S3_INVALID_OBJECT",
            Self::S3CrossRegionAccessDenied => "S3_CROSS_REGION_ACCESS_DENIED",
            Self::ArchiveDockerfileNotFound => "ARCHIVE_DOCKERFILE_NOT_FOUND",
            Self::ArchiveInvalid => "ARCHIVE_INVALID",
            Self::ContainerBuildFailed => "CONTAINER_BUILD_FAILED",
            Self::DiskStorageFull => "DISK_STORAGE_FULL",
            Self::InternalPlatformError => "INTERNAL_PLATFORM_ERROR",
        }
    }

    /// The sentence for a `stateReason` with the code only.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::S3AccessDenied => "S3_ACCESS_DENIED: The build role may not read the code artifact.",
            Self::S3NoSuchKey => "S3_NO_SUCH_KEY: The code artifact does not exist.",
            Self::S3NoSuchBucket => "S3_NO_SUCH_BUCKET: The bucket of the code artifact does not exist.",
            Self::S3InvalidObject => "S3_INVALID_OBJECT: The code artifact cannot be read as it is stored.",
            Self::S3CrossRegionAccessDenied => {
                "S3_CROSS_REGION_ACCESS_DENIED: The bucket of the code artifact is in another region."
            }
            Self::ArchiveDockerfileNotFound => {
                "ARCHIVE_DOCKERFILE_NOT_FOUND: The code artifact has no Dockerfile at its root."
            }
            Self::ArchiveInvalid => "ARCHIVE_INVALID: The code artifact is not a valid zip archive.",
            Self::ContainerBuildFailed => "The container image build failed.",
            Self::DiskStorageFull => "DISK_STORAGE_FULL: The build needs more disk space than there is.",
            Self::InternalPlatformError => "INTERNAL_PLATFORM_ERROR: The platform failed.",
        }
    }
}

/// Why a build failed. Its `Display` is the `stateReason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StateReason {
    /// A documented code.
    Code(FailureCode),
    /// A documented code and a detail: `CODE: detail`. The detail contains no host path and no secret.
    Detailed(FailureCode, String),
    /// The sentence of a documented code, and what exactly: `SENTENCE Detail`. The detail is made harmless, and contains no host
    /// path and no secret.
    Explained(FailureCode, String),
    /// An image hook failed.
    Hook {
        /// The hook.
        hook: ImageHook,
        /// What the app did; no success.
        outcome: HookOutcome,
        /// The timeout of the hook, in whole seconds.
        timeout: Duration,
    },
    /// The guest ended while its snapshot was being taken.
    TerminatedDuringSnapshot,
    /// The app's program cannot be executed, or its user or folder does not exist: why, in one line.
    AppNotStarted(String),
    /// The app exited by itself, with this exit status.
    AppExited(u32),
}

impl StateReason {
    /// The documented code; hooks have none.
    #[must_use]
    pub fn code(&self) -> Option<FailureCode> {
        match self {
            Self::Code(code) | Self::Detailed(code, _) | Self::Explained(code, _) => Some(*code),
            Self::Hook { .. } | Self::TerminatedDuringSnapshot | Self::AppExited(_) => None,
            Self::AppNotStarted(_) => None,
        }
    }

    /// The sentence for `stateReason`, of 2 KiB at most.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        sentence.truncate(sentence.floor_char_boundary(LONGEST));
        sentence
    }

    /// The sentence that AWS uses, without what this project adds.
    #[must_use]
    pub fn measured(&self) -> String {
        match self {
            Self::Explained(code, _) => code.sentence().to_owned(),
            // AWS has no sentence of its own for it that is known.
            Self::AppNotStarted(_) => FailureCode::ContainerBuildFailed.sentence().to_owned(),
            other => other.sentence(),
        }
    }
}

impl From<FailureCode> for StateReason {
    fn from(code: FailureCode) -> Self {
        Self::Code(code)
    }
}

impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(code.sentence()),
            Self::Detailed(code, detail) => write!(f, "{}: {detail}", code.code()),
            Self::Explained(code, detail) => write!(f, "{} {detail}", code.sentence()),
            Self::TerminatedDuringSnapshot => {
                f.write_str("MicroVM terminated while its snapshot was being taken")
            }
            Self::AppNotStarted(why) => write!(f, "The app could not be started: {why}"),
            Self::AppExited(code) => write!(f, "Container Stopped with Exit Code: {code}"),
            Self::Hook { hook, outcome: HookOutcome::TimedOut, timeout } => {
                write!(f, "{hook} hook invocation timed out after {}", Iso8601(*timeout))
            }
            Self::Hook { hook, outcome, .. } => {
                write!(f, "{hook} hook check failed: ")?;
                match outcome {
                    HookOutcome::Status(400..=499) => {
                        f.write_str("the application returned a client error (HTTP 4xx) response")
                    }
                    HookOutcome::Status(500..=599) => {
                        f.write_str("the application returned a server error (HTTP 5xx) response")
                    }
                    HookOutcome::Status(status) => {
                        write!(f, "the application returned an unexpected (HTTP {status}) response")
                    }
                    HookOutcome::Refused => f.write_str("the connection was refused by the application"),
                    HookOutcome::Failed(_) | HookOutcome::TimedOut | HookOutcome::Disabled => {
                        f.write_str("the application returned no valid HTTP response")
                    }
                }
            }
        }
    }
}

/// A duration in ISO 8601, as AWS writes timeouts: `PT5M`, `PT1H`, `PT1M30S`. Whole seconds; days are written as hours.
struct Iso8601(Duration);

impl fmt::Display for Iso8601 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
        f.write_str("PT")?;
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        if seconds > 0 || total == 0 {
            write!(f, "{seconds}S")?;
        }
        Ok(())
    }
}

/// Whether the error means that the disk, or this process's quota, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(hook: ImageHook, outcome: HookOutcome, seconds: u64) -> String {
        StateReason::Hook { hook, outcome, timeout: Duration::from_secs(seconds) }.to_string()
    }

    #[test]
    fn hooks_fail_with_the_sentences_that_clients_know() {
        assert_eq!(
            reason(ImageHook::Ready, HookOutcome::TimedOut, 300),
            "Ready hook invocation timed out after PT5M"
        );
        assert_eq!(
            reason(ImageHook::Validate, HookOutcome::TimedOut, 600),
            "Validate hook invocation timed out after PT10M"
        );
        assert_eq!(
            reason(ImageHook::Ready, HookOutcome::Status(404), 1),
            "Ready hook check failed: the application returned a client error (HTTP 4xx) response"
        );
        assert_eq!(
            reason(ImageHook::Validate, HookOutcome::Status(500), 1),
            "Validate hook check failed: the application returned a server error (HTTP 5xx) response"
        );
        assert_eq!(
            StateReason::TerminatedDuringSnapshot.to_string(),
            "MicroVM terminated while its snapshot was being taken"
        );
        assert_eq!(
            StateReason::from(FailureCode::ContainerBuildFailed).to_string(),
            "The container image build failed."
        );
    }

    #[test]
    fn a_detail_follows_the_sentence_that_clients_know_and_is_bounded() {
        let reason = |detail: &str| StateReason::Explained(FailureCode::ContainerBuildFailed, detail.into());
        assert_eq!(
            reason("Step 1/2 failed.").sentence(),
            "The container image build failed. Step 1/2 failed."
        );
        assert_eq!(reason("Step 1/2 failed.").measured(), "The container image build failed.");
        let long = reason(&"ü".repeat(4096)).sentence();
        assert!((LONGEST - 3..=LONGEST).contains(&long.len()), "{}", long.len());
        let other = StateReason::AppExited(3);
        assert_eq!(other.measured(), other.sentence());
    }

    #[test]
    fn timeouts_are_written_as_iso_8601_durations() {
        let cases =
            [(0, "PT0S"), (1, "PT1S"), (90, "PT1M30S"), (1800, "PT30M"), (3600, "PT1H"), (3661, "PT1H1M1S")];
        for (seconds, written) in cases {
            assert_eq!(Iso8601(Duration::from_secs(seconds)).to_string(), written);
        }
    }

    #[test]
    fn every_sentence_but_the_measured_one_begins_with_its_code() {
        for code in FailureCode::ALL {
            let measured = code == FailureCode::ContainerBuildFailed;
            assert_eq!(code.sentence().starts_with(&format!("{}: ", code.code())), !measured, "{code:?}");
        }
    }
}
