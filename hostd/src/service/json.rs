//! Messages as JSON with AWS's names.

use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value;

use super::constraints::descriptors;

/// A message as JSON; `null` if the descriptors do not contain it. `name` is its full name.
pub(super) fn to_json(name: &str, message: &impl Message) -> Value {
    dynamic(name, message).and_then(|message| serde_json::to_value(message).ok()).unwrap_or(Value::Null)
}

/// A message with its descriptor; `None` if the descriptors do not contain it. `name` is its full name.
pub(crate) fn dynamic(name: &str, message: &impl Message) -> Option<DynamicMessage> {
    let descriptor = descriptors()?.get_message_by_name(name)?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::{Resources, RunMicrovmRequest, UntagResourceRequest};

    use super::*;

    #[test]
    fn members_have_the_names_of_aws() {
        let run = RunMicrovmRequest { image_identifier: Some("demo".into()), ..Default::default() };
        let json = to_json("hearth.microvms.v1.RunMicrovmRequest", &run);
        assert_eq!(json, serde_json::json!({ "imageIdentifier": "demo" }));
        let resources = Resources { minimum_memory_in_mib: Some(512) };
        let json = to_json("hearth.microvms.v1.Resources", &resources);
        assert_eq!(json, serde_json::json!({ "minimumMemoryInMiB": 512 }));
        let untag = UntagResourceRequest { resource: Some("arn".into()), tag_keys: vec!["a".into()] };
        let json = to_json("hearth.microvms.v1.UntagResourceRequest", &untag);
        assert_eq!(json, serde_json::json!({ "Resource": "arn", "TagKeys": ["a"] }));
    }
}
