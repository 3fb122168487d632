//! The calls of each operation, with all that they can name.

use super::*;

impl World {
    /// Calls an operation in every way in which it can name things.
    #[expect(clippy::too_many_lines, reason = "one arm per operation")]
    pub(super) async fn perform(
        &self,
        operation: Operation,
        caller: &Caller,
        things: &Things,
    ) -> Vec<Outcome> {
        use Operation as Op;
        let (image, microvm) = (Some(things.arn.clone()), Some(things.microvm.clone()));
        let version = Some("1.0".to_owned());
        let both = Some(BOTH.to_owned());
        let own_role = role_of(&caller.account);
        let (group, both_group) = (Some(things.group.clone()), Some(GROUP.to_owned()));
        let key = Some(things.key.clone());
        match operation {
            Op::RunMicrovm => {
                let with_role = proto::RunMicrovmRequest {
                    image_identifier: both,
                    execution_role_arn: Some(things.role.clone()),
                    ..Default::default()
                };
                let of_image = proto::RunMicrovmRequest { image_identifier: image, ..Default::default() };
                vec![self.call(caller, of_image).await, self.call(caller, with_role).await]
            }
            Op::GetMicrovm => {
                vec![self.call(caller, proto::GetMicrovmRequest { microvm_identifier: microvm }).await]
            }
            Op::ListMicrovms => {
                let of_image = proto::ListMicrovmsRequest { image_identifier: image, ..Default::default() };
                let all = proto::ListMicrovmsRequest::default();
                vec![self.call(caller, of_image).await, self.list(caller, all, things).await]
            }
            Op::SuspendMicrovm => {
                vec![self.call(caller, proto::SuspendMicrovmRequest { microvm_identifier: microvm }).await]
            }
            Op::ResumeMicrovm => {
                vec![self.call(caller, proto::ResumeMicrovmRequest { microvm_identifier: microvm }).await]
            }
            Op::TerminateMicrovm => {
                vec![self.call(caller, proto::TerminateMicrovmRequest { microvm_identifier: microvm }).await]
            }
            Op::CreateMicrovmAuthToken => {
                let specification = proto::port_specification::Specification::AllPorts(proto::Unit {});
                let request = proto::CreateMicrovmAuthTokenRequest {
                    microvm_identifier: microvm,
                    expiration_in_minutes: Some(5),
                    allowed_ports: vec![proto::PortSpecification { specification: Some(specification) }],
                };
                vec![self.call(caller, request).await]
            }
            Op::CreateMicrovmShellAuthToken => {
                let request = proto::CreateMicrovmShellAuthTokenRequest {
                    microvm_identifier: microvm,
                    expiration_in_minutes: Some(5),
                };
                vec![self.call(caller, request).await]
            }
            Op::CreateMicrovmImage => {
                vec![self.call(caller, create("new", &things.role, "s3://bucket/app.zip")).await]
            }
            Op::UpdateMicrovmImage => vec![
                self.call(caller, update(&things.arn, &own_role, "s3://bucket/app.zip")).await,
                self.call(caller, update(BOTH, &things.role, "s3://bucket/app.zip")).await,
            ],
            Op::GetMicrovmImage => {
                vec![self.call(caller, proto::GetMicrovmImageRequest { image_identifier: image }).await]
            }
            Op::ListMicrovmImages => {
                vec![self.list(caller, proto::ListMicrovmImagesRequest::default(), things).await]
            }
            Op::DeleteMicrovmImage => {
                vec![self.call(caller, proto::DeleteMicrovmImageRequest { image_identifier: image }).await]
            }
            Op::GetMicrovmImageVersion => {
                let request =
                    proto::GetMicrovmImageVersionRequest { image_identifier: image, image_version: version };
                vec![self.call(caller, request).await]
            }
            Op::ListMicrovmImageVersions => {
                let request = |image_identifier| proto::ListMicrovmImageVersionsRequest {
                    image_identifier,
                    ..Default::default()
                };
                vec![self.call(caller, request(image)).await, self.list(caller, request(both), things).await]
            }
            Op::UpdateMicrovmImageVersion => {
                let request = proto::UpdateMicrovmImageVersionRequest {
                    image_identifier: image,
                    image_version: version,
                    status: Some(proto::MicrovmImageVersionStatus::Inactive.into()),
                };
                vec![self.call(caller, request).await]
            }
            Op::DeleteMicrovmImageVersion => {
                let request = proto::DeleteMicrovmImageVersionRequest {
                    image_identifier: image,
                    image_version: version,
                };
                vec![self.call(caller, request).await]
            }
            Op::GetMicrovmImageBuild => {
                let request = proto::GetMicrovmImageBuildRequest {
                    image_identifier: image,
                    image_version: version,
                    build_id: Some("any".into()),
                };
                vec![self.call(caller, request).await]
            }
            Op::ListMicrovmImageBuilds => {
                let request = |image_identifier| proto::ListMicrovmImageBuildsRequest {
                    image_identifier,
                    image_version: version.clone(),
                    ..Default::default()
                };
                vec![self.call(caller, request(image)).await, self.list(caller, request(both), things).await]
            }
            Op::ListManagedMicrovmImages => {
                vec![self.list(caller, proto::ListManagedMicrovmImagesRequest::default(), things).await]
            }
            Op::ListManagedMicrovmImageVersions => {
                let request = proto::ListManagedMicrovmImageVersionsRequest {
                    image_identifier: Some(BASE.into()),
                    ..Default::default()
                };
                vec![self.list(caller, request, things).await]
            }
            Op::ListTags => vec![self.call(caller, proto::ListTagsRequest { resource: image }).await],
            Op::TagResource => {
                let tags = [("taken".to_owned(), "over".to_owned())].into();
                vec![self.call(caller, proto::TagResourceRequest { resource: image, tags }).await]
            }
            Op::UntagResource => {
                let tag_keys = vec!["owners-tag".to_owned()];
                vec![self.call(caller, proto::UntagResourceRequest { resource: image, tag_keys }).await]
            }
            Op::GetHostStatus => vec![self.call(caller, host_api::GetHostStatusRequest {}).await],
            Op::ListLogGroups => {
                let request = host_api::ListLogGroupsRequest { prefix: group, ..Default::default() };
                let all = host_api::ListLogGroupsRequest::default();
                vec![self.call(caller, request).await, self.list(caller, all, things).await]
            }
            Op::ListLogStreams => {
                let request = |log_group| host_api::ListLogStreamsRequest { log_group, ..Default::default() };
                vec![
                    self.call(caller, request(group)).await,
                    self.list(caller, request(both_group), things).await,
                ]
            }
            Op::ReadLogs => {
                let request = |log_group| host_api::ReadLogsRequest { log_group, ..Default::default() };
                vec![
                    self.call(caller, request(group)).await,
                    self.list(caller, request(both_group), things).await,
                ]
            }
            Op::TailLogs => {
                let request = host_api::TailLogsRequest { log_group: group, ..Default::default() };
                vec![self.call(caller, request).await]
            }
            Op::WatchEvents => {
                let of_image = host_api::WatchEventsRequest { resource: image };
                let of_microvm = host_api::WatchEventsRequest { resource: microvm };
                vec![self.call(caller, of_image).await, self.call(caller, of_microvm).await]
            }
            Op::WatchBuild => {
                let request = host_api::WatchBuildRequest { image_identifier: image, image_version: version };
                vec![self.call(caller, request).await]
            }
            Op::PutArtifact => {
                let data = || -> Data {
                    Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"x"))]))
                };
                let (upload, key) = (|| things.upload.clone(), things.key.as_str());
                let parts = vec![PartName { number: 1, etag: "e".repeat(32) }];
                let condition = Condition::default();
                let complete = PutStep::Complete { upload: upload(), parts, verify: None, condition };
                let mut outcomes = Vec::new();
                for step in [
                    PutStep::Part { upload: upload(), number: 1, data: data(), verify: None },
                    complete,
                    PutStep::Abort { upload: upload() },
                ] {
                    outcomes.push(self.call(caller, PutObject::new(key, step)).await);
                }
                outcomes
            }
            Op::ListArtifacts => {
                let request = host_api::ListArtifactsRequest { prefix: key, ..Default::default() };
                let all = host_api::ListArtifactsRequest::default();
                vec![self.call(caller, request).await, self.list(caller, all, things).await]
            }
            Op::GetArtifact => vec![self.call(caller, host_api::GetArtifactRequest { key }).await],
            Op::DeleteArtifact => vec![self.call(caller, host_api::DeleteArtifactRequest { key }).await],
            Op::BackUpStore => vec![self.call(caller, host_api::BackUpStoreRequest {}).await],
        }
    }
}
