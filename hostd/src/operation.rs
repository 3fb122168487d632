//! The operations, and their request messages.

use std::fmt;

use hearth_proto::{host::v1 as host, microvms::v1 as microvms};

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
    BackUpStore,
}

impl Operation {
    /// All operations: AWS's 24, then Hearth's own.
    pub const ALL: [Self; 33] = [
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
            Self::BackUpStore => "BackUpStore",
        }
    }

    /// The operation with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
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

/// The request message of an operation.
pub trait Request: prost::Message + Default + Clone {
    /// The operation.
    const OPERATION: Operation;
    /// Full name of the message.
    const MESSAGE: &'static str;
}

macro_rules! requests {
    ($($module:ident $package:literal: $($operation:ident $request:ident),+;)+) => {
        $($(
            impl Request for $module::$request {
                const OPERATION: Operation = Operation::$operation;
                const MESSAGE: &'static str = concat!($package, ".", stringify!($request));
            }
        )+)+

        /// Full names of all request messages.
        pub(crate) const MESSAGES: &[&str] = &[$($(concat!($package, ".", stringify!($request))),+),+];
    };
}

requests! {
    microvms "hearth.microvms.v1":
        RunMicrovm RunMicrovmRequest,
        GetMicrovm GetMicrovmRequest,
        ListMicrovms ListMicrovmsRequest,
        SuspendMicrovm SuspendMicrovmRequest,
        ResumeMicrovm ResumeMicrovmRequest,
        TerminateMicrovm TerminateMicrovmRequest,
        CreateMicrovmAuthToken CreateMicrovmAuthTokenRequest,
        CreateMicrovmShellAuthToken CreateMicrovmShellAuthTokenRequest,
        CreateMicrovmImage CreateMicrovmImageRequest,
        UpdateMicrovmImage UpdateMicrovmImageRequest,
        GetMicrovmImage GetMicrovmImageRequest,
        ListMicrovmImages ListMicrovmImagesRequest,
        DeleteMicrovmImage DeleteMicrovmImageRequest,
        GetMicrovmImageVersion GetMicrovmImageVersionRequest,
        ListMicrovmImageVersions ListMicrovmImageVersionsRequest,
        UpdateMicrovmImageVersion UpdateMicrovmImageVersionRequest,
        DeleteMicrovmImageVersion DeleteMicrovmImageVersionRequest,
        GetMicrovmImageBuild GetMicrovmImageBuildRequest,
        ListMicrovmImageBuilds ListMicrovmImageBuildsRequest,
        ListManagedMicrovmImages ListManagedMicrovmImagesRequest,
        ListManagedMicrovmImageVersions ListManagedMicrovmImageVersionsRequest,
        ListTags ListTagsRequest,
        TagResource TagResourceRequest,
        UntagResource UntagResourceRequest;
    host "hearth.host.v1":
        GetHostStatus GetHostStatusRequest,
        ListLogGroups ListLogGroupsRequest,
        ListLogStreams ListLogStreamsRequest,
        ReadLogs ReadLogsRequest,
        TailLogs TailLogsRequest,
        WatchEvents WatchEventsRequest,
        WatchBuild WatchBuildRequest,
        PutArtifact PutArtifactRequest,
        BackUpStore BackUpStoreRequest;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_services_is_an_operation() {
        let pool = prost_reflect::DescriptorPool::decode(hearth_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods: Vec<String> = Vec::new();
        for service in pool.services() {
            for method in service.methods() {
                methods.push(method.name().to_owned());
                assert!(MESSAGES.contains(&method.input().full_name()), "{}", method.input().full_name());
            }
        }
        let operations: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        methods.sort_unstable();
        let mut sorted = operations.clone();
        sorted.sort_unstable();
        assert_eq!(methods, sorted);
        assert!(operations.iter().all(|name| Operation::named(name).map(Operation::name) == Some(*name)));
    }
}
