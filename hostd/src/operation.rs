//! The request messages of operations.

use hearth_proto::{host::v1 as host, microvms::v1 as microvms};

pub use hearth_model::operation::Operation;

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
        ListArtifacts ListArtifactsRequest,
        GetArtifact GetArtifactRequest,
        DeleteArtifact DeleteArtifactRequest,
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
        let mut operations: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        methods.sort_unstable();
        operations.sort_unstable();
        assert_eq!(methods, operations);
    }
}
