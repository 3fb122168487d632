//! Errors about the configuration of a version that a request asks for.

use super::exception::{Family, Kind};

/// Errors about the configuration of a version that a request asks for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigurationError {
    /// The artifact's URI is no S3 URI, where only S3 is allowed.
    #[error("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")]
    CodeArtifactUri,
    /// The base image, or this version of it, does not exist.
    #[error("No managed MicroVM Image with arn {arn} and version {version} is available")]
    NoManagedVersion {
        /// The ARN that was given.
        arn: String,
        /// The version that was given, or `latest`.
        version: String,
    },
    /// The name of the environment variable is reserved for the platform.
    #[error("Environment variable key '{0}' is reserved")]
    ReservedVariable(String),
    /// No memory class has this size.
    #[error(
        "The requested memory size of {mib} MiB is not supported by base MicroVM image {base_arn}. Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )]
    MemorySize {
        /// The requested size, in MiB.
        mib: i32,
        /// The base image.
        base_arn: String,
    },
    /// The host has no processors of this architecture.
    #[error(
        "The requested CPU architecture {name} is not supported by base MicroVM image {base_arn}. Supported CPU architectures are: [ARM_64]."
    )]
    Architecture {
        /// The requested architecture.
        name: &'static str,
        /// The base image.
        base_arn: String,
    },
    /// A key is given, and nothing on the host could encrypt with it.
    #[error("The kmsKeyIdentifier cannot be used because this host has no key provider")]
    NoKeyProvider,
    /// A runtime hook is enabled without the `ready` hook.
    #[error(
        "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook (run, resume, suspend, or terminate) is enabled. The ready hook signals when the application has finished initializing so the snapshot is taken in a ready state."
    )]
    ReadyHookNeeded,
    /// Hooks are enabled without a port.
    #[error("The hooks port must be specified when any hook is enabled.")]
    HooksPortNeeded,
}

impl Family for ConfigurationError {
    fn kind(&self) -> Kind {
        Kind::Validation
    }

    fn field(&self) -> Option<&str> {
        Some(match self {
            Self::CodeArtifactUri => "codeArtifact.uri",
            Self::NoManagedVersion { .. } => "baseImageVersion",
            Self::ReservedVariable(_) => "environmentVariables",
            Self::MemorySize { .. } => "resources.1.member.minimumMemoryInMiB",
            Self::Architecture { .. } => "cpuConfigurations",
            Self::NoKeyProvider => "kmsKeyIdentifier",
            Self::ReadyHookNeeded => "hooks.microvmImageHooks.ready",
            Self::HooksPortNeeded => "hooks.port",
        })
    }
}
