//! The operations of the API.

use std::fmt;

/// An operation of the API, as the unit of permissions, rate limits and audit events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are documented in microvms.proto and host.proto")]
pub enum Operation {
    RunMicrovm,
    GetMicrovm,
    ListMicrovms,
    SuspendMicrovm,
    ResumeMicrovm,
    TerminateMicrovm,
    CreateMicrovmAuthToken,
    CreateMicrovmShellAuthToken,
    CreateMicrovmImage,
    UpdateMicrovmImage,
    GetMicrovmImage,
    ListMicrovmImages,
    DeleteMicrovmImage,
    GetMicrovmImageVersion,
    ListMicrovmImageVersions,
    UpdateMicrovmImageVersion,
    DeleteMicrovmImageVersion,
    GetMicrovmImageBuild,
    ListMicrovmImageBuilds,
    ListManagedMicrovmImages,
    ListManagedMicrovmImageVersions,
    ListTags,
    TagResource,
    UntagResource,
    GetHostStatus,
    ListLogGroups,
    ListLogStreams,
    ReadLogs,
    TailLogs,
    WatchEvents,
    WatchBuild,
    PutArtifact,
    ListArtifacts,
    GetArtifact,
    DeleteArtifact,
    BackUpStore,
}

impl Operation {
    /// All operations: AWS's 24, then Hearth's own.
    pub const ALL: [Self; 36] = [
        Self::RunMicrovm,
        Self::GetMicrovm,
        Self::ListMicrovms,
        Self::SuspendMicrovm,
        Self::ResumeMicrovm,
        Self::TerminateMicrovm,
        Self::CreateMicrovmAuthToken,
        Self::CreateMicrovmShellAuthToken,
        Self::CreateMicrovmImage,
        Self::UpdateMicrovmImage,
        Self::GetMicrovmImage,
        Self::ListMicrovmImages,
        Self::DeleteMicrovmImage,
        Self::GetMicrovmImageVersion,
        Self::ListMicrovmImageVersions,
        Self::UpdateMicrovmImageVersion,
        Self::DeleteMicrovmImageVersion,
        Self::GetMicrovmImageBuild,
        Self::ListMicrovmImageBuilds,
        Self::ListManagedMicrovmImages,
        Self::ListManagedMicrovmImageVersions,
        Self::ListTags,
        Self::TagResource,
        Self::UntagResource,
        Self::GetHostStatus,
        Self::ListLogGroups,
        Self::ListLogStreams,
        Self::ReadLogs,
        Self::TailLogs,
        Self::WatchEvents,
        Self::WatchBuild,
        Self::PutArtifact,
        Self::ListArtifacts,
        Self::GetArtifact,
        Self::DeleteArtifact,
        Self::BackUpStore,
    ];

    /// Name of the operation, as in policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RunMicrovm => "RunMicrovm",
            Self::GetMicrovm => "GetMicrovm",
            Self::ListMicrovms => "ListMicrovms",
            Self::SuspendMicrovm => "SuspendMicrovm",
            Self::ResumeMicrovm => "ResumeMicrovm",
            Self::TerminateMicrovm => "TerminateMicrovm",
            Self::CreateMicrovmAuthToken => "CreateMicrovmAuthToken",
            Self::CreateMicrovmShellAuthToken => "CreateMicrovmShellAuthToken",
            Self::CreateMicrovmImage => "CreateMicrovmImage",
            Self::UpdateMicrovmImage => "UpdateMicrovmImage",
            Self::GetMicrovmImage => "GetMicrovmImage",
            Self::ListMicrovmImages => "ListMicrovmImages",
            Self::DeleteMicrovmImage => "DeleteMicrovmImage",
            Self::GetMicrovmImageVersion => "GetMicrovmImageVersion",
            Self::ListMicrovmImageVersions => "ListMicrovmImageVersions",
            Self::UpdateMicrovmImageVersion => "UpdateMicrovmImageVersion",
            Self::DeleteMicrovmImageVersion => "DeleteMicrovmImageVersion",
            Self::GetMicrovmImageBuild => "GetMicrovmImageBuild",
            Self::ListMicrovmImageBuilds => "ListMicrovmImageBuilds",
            Self::ListManagedMicrovmImages => "ListManagedMicrovmImages",
            Self::ListManagedMicrovmImageVersions => "ListManagedMicrovmImageVersions",
            Self::ListTags => "ListTags",
            Self::TagResource => "TagResource",
            Self::UntagResource => "UntagResource",
            Self::GetHostStatus => "GetHostStatus",
            Self::ListLogGroups => "ListLogGroups",
            Self::ListLogStreams => "ListLogStreams",
            Self::ReadLogs => "ReadLogs",
            Self::TailLogs => "TailLogs",
            Self::WatchEvents => "WatchEvents",
            Self::WatchBuild => "WatchBuild",
            Self::PutArtifact => "PutArtifact",
            Self::ListArtifacts => "ListArtifacts",
            Self::GetArtifact => "GetArtifact",
            Self::DeleteArtifact => "DeleteArtifact",
            Self::BackUpStore => "BackUpStore",
        }
    }

    /// The operation with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// Whether errors of the operation use the exception names of the tag operations.
    #[must_use]
    pub fn is_of_tags(self) -> bool {
        matches!(self, Self::ListTags | Self::TagResource | Self::UntagResource)
    }

    /// Whether the operation shows or changes what belongs to no account: a grant of its own.
    #[must_use]
    pub fn is_of_host(self) -> bool {
        matches!(self, Self::GetHostStatus | Self::BackUpStore)
    }

    /// Whether the operation only reads.
    #[must_use]
    pub fn is_read(self) -> bool {
        let name = self.name();
        ["Get", "List", "Read", "Tail", "Watch"].iter().any(|prefix| name.starts_with(prefix))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        for operation in Operation::ALL {
            assert_eq!(Operation::named(operation.name()), Some(operation));
            assert_eq!(operation.to_string(), operation.name());
        }
        assert_eq!(Operation::named("runmicrovm"), None);
    }

    #[test]
    fn operations_that_only_read_are_known_by_their_names() {
        assert!(Operation::ListTags.is_read() && Operation::TailLogs.is_read());
        assert!(!Operation::RunMicrovm.is_read() && !Operation::TagResource.is_read());
    }
}
