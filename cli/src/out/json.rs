//! Messages as JSON: the member names of the AWS API, enumerations by name, moments as RFC 3339.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::error::Failure;

static DESCRIPTORS: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(hearth_proto::FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())
});

/// A message as JSON. Optional fields without a value are absent, lists and numbers are always present.
pub(crate) fn value<M: Message + Name>(message: &M) -> Result<serde_json::Value, Failure> {
    let unknown = |why: &str| Failure::failed(format!("cannot write {} as JSON: {why}", M::full_name()));
    let pool = DESCRIPTORS.as_ref().map_err(|why| unknown(why))?;
    let name = M::full_name();
    let descriptor = pool.get_message_by_name(&name).ok_or_else(|| unknown("it has no descriptor"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| unknown(&error.to_string()))?;
    let options = SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| unknown(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::{
        IdlePolicy, ListTagsResponse, Microvm, MicrovmState, Resources, SnapshotBuild,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn members_have_the_names_that_aws_gives_them() {
        let microvm = Microvm {
            microvm_id: "microvm-1".into(),
            state: MicrovmState::Running.into(),
            idle_policy: Some(IdlePolicy { auto_resume_enabled: Some(false), ..IdlePolicy::default() }),
            started_at: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            ..Microvm::default()
        };
        assert_eq!(
            value(&microvm).unwrap(),
            json!({
                "microvmId": "microvm-1", "state": "RUNNING", "endpoint": "", "imageArn": "", "imageVersion": "",
                "idlePolicy": {"autoResumeEnabled": false}, "maximumDurationInSeconds": 0,
                "startedAt": "1970-01-01T00:00:01.500Z",
                "ingressNetworkConnectors": [], "egressNetworkConnectors": []
            })
        );
        let resources = Resources { minimum_memory_in_mib: Some(512) };
        assert_eq!(value(&resources).unwrap(), json!({"minimumMemoryInMiB": 512}));
        let sizes =
            SnapshotBuild { memory_snapshot_size_in_bytes: Some(1 << 40), ..SnapshotBuild::default() };
        assert_eq!(value(&sizes).unwrap(), json!({"memorySnapshotSizeInBytes": 1_u64 << 40}));
        let tags = ListTagsResponse { tags: [("a".into(), "b".into())].into() };
        assert_eq!(value(&tags).unwrap(), json!({"Tags": {"a": "b"}}));
    }
}
