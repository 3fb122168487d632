//! Tests of reads of images, base images and tags.

use std::collections::BTreeMap;

use hearth_proto::microvms::v1 as proto;

use super::*;

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Host {
    async fn tag(&self, resource: &str, tags: BTreeMap<String, String>) -> Result<(), ServiceError> {
        let request = proto::TagResourceRequest { resource: some(resource), tags };
        self.service.call_as(&self.caller, request).await.map(drop)
    }

    async fn tags(&self, resource: &str) -> Result<BTreeMap<String, String>, ServiceError> {
        let request = proto::ListTagsRequest { resource: some(resource) };
        self.service.call_as(&self.caller, request).await.map(|answer| answer.tags)
    }
}

#[tokio::test]
async fn an_image_and_its_versions_are_read() {
    let host = host(Profile::Default).await;
    host.build("demo").await;
    let (service, caller) = (&host.service, &host.caller);
    let get = |image: &str| proto::GetMicrovmImageRequest { image_identifier: some(image) };
    let image = service.call_as(caller, get("demo")).await.unwrap();
    assert_eq!(
        (image.image_arn.as_str(), image.state()),
        (arn("demo").as_str(), proto::MicrovmImageState::Updated)
    );
    assert_eq!(image.latest_active_image_version.as_deref(), Some("2.0"));
    let error = service.call_as(caller, get(&arn("gone"))).await.unwrap_err();
    assert_eq!(error.to_string(), format!("MicroVMImage not found for MicroVMImageID: {}", arn("gone")));

    host.tag(&arn("demo"), tags(&[("team", "web")])).await.unwrap();
    let list =
        proto::ListMicrovmImageVersionsRequest { image_identifier: some("demo"), ..Default::default() };
    let versions = service.call_as(caller, list).await.unwrap().items;
    let numbers: Vec<&str> = versions.iter().map(|version| version.image_version.as_str()).collect();
    assert_eq!(numbers, ["2.0", "1.0"]);
    let get = |version: &str| proto::GetMicrovmImageVersionRequest {
        image_identifier: some("demo"),
        image_version: some(version),
    };
    let version = service.call_as(caller, get("1")).await.unwrap();
    assert_eq!((&version, &version.tags), (&versions[1], &tags(&[("team", "web")])));
    let error = service.call_as(caller, get("9.0")).await.unwrap_err();
    assert_eq!(error.exception().name, "ResourceNotFoundException");
}

#[tokio::test]
async fn builds_are_read_and_filtered() {
    let host = host(Profile::Default).await;
    let (service, caller) = (&host.service, &host.caller);
    let list = proto::ListMicrovmImageBuildsRequest {
        image_identifier: some("demo"),
        image_version: some("1"),
        ..Default::default()
    };
    let builds = service.call_as(caller, list.clone()).await.unwrap().items;
    assert_eq!(builds.len(), 1);
    let intel = proto::ListMicrovmImageBuildsRequest { chipset: Some(proto::Chipset::Intel.into()), ..list };
    assert!(service.call_as(caller, intel).await.unwrap().items.is_empty());
    let get = |id: &str| proto::GetMicrovmImageBuildRequest {
        image_identifier: some("demo"),
        image_version: some("1.0"),
        build_id: some(id),
    };
    let build = service.call_as(caller, get(&builds[0].build_id)).await.unwrap();
    assert_eq!(build.snapshot_build.unwrap().code_install_size_in_bytes, Some(77));
    let error = service.call_as(caller, get("none")).await.unwrap_err();
    assert_eq!(error.exception().name, "ResourceNotFoundException");
}

#[tokio::test]
async fn base_images_are_those_of_the_catalogue() {
    let host = host(Profile::Default).await;
    let (service, caller) = (&host.service, &host.caller);
    let list = |image: &str| proto::ListManagedMicrovmImageVersionsRequest {
        image_identifier: some(image),
        ..Default::default()
    };
    let images = proto::ListManagedMicrovmImagesRequest::default();
    assert!(service.call_as(caller, images).await.unwrap().items.is_empty());
    let base = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
    assert!(service.call_as(caller, list(base)).await.unwrap().items.is_empty());
    let error = service.call_as(caller, list(&arn("demo"))).await.unwrap_err();
    assert_eq!(error.exception().name, "ResourceNotFoundException");
    // A folder without a manifest is not a version.
    std::fs::create_dir(host.bases.path().join("1")).unwrap();
    assert!(service.call_as(caller, list("al2023-1")).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn tags_are_added_replaced_and_removed() {
    let host = host(Profile::Default).await;
    let demo = arn("demo");
    host.tag(&demo, tags(&[("a", "1"), ("b", "2")])).await.unwrap();
    host.tag(&demo, tags(&[("b", "3"), ("c", "")])).await.unwrap();
    assert_eq!(host.tags(&demo).await.unwrap(), tags(&[("a", "1"), ("b", "3"), ("c", "")]));
    let untag =
        proto::UntagResourceRequest { resource: some(&demo), tag_keys: vec!["a".into(), "none".into()] };
    host.service.call_as(&host.caller, untag).await.unwrap();
    assert_eq!(host.tags(&demo).await.unwrap(), tags(&[("b", "3"), ("c", "")]));
    let many: BTreeMap<String, String> =
        (0..49).map(|number| (format!("k{number}"), String::new())).collect();
    let error = host.tag(&demo, many).await.unwrap_err();
    assert_eq!(error.exception().name, "InvalidParameterValueException");
    assert_eq!(host.tags(&demo).await.unwrap().len(), 2);
}

#[tokio::test]
async fn tag_operations_have_exceptions_of_their_own() {
    let host = host(Profile::Default).await;
    let error = host.tags(&arn("gone")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("MicroVMImage not found for MicroVMImageID: {}", arn("gone")));
    assert_eq!(error.exception().name, "ResourceNotFoundException");
    for bad in ["arn:aws:lambda:us-east-1:123456789012:microvm:x", ""] {
        assert_eq!(host.tags(bad).await.unwrap_err().exception().name, "InvalidParameterValueException");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_are_set_at_a_time_are_all_there() {
    let host = host(Profile::Default).await;
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let (service, caller) = (host.service.clone(), host.caller.clone());
            let request = proto::TagResourceRequest {
                resource: some(&arn("demo")),
                tags: tags(&[(&format!("k{number}"), "")]),
            };
            tokio::spawn(async move { service.call_as(&caller, request).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(host.tags(&arn("demo")).await.unwrap().len(), 8);
}
