//! Converts a version's configuration into a build request.

use hearth_host::network::Egress;
use hearth_image_builder::build::{BuildRequest, Platform};
use hearth_model::connector::Connector;
use hearth_model::role::RoleUse;
use hearth_model::shape::{Burst, MemoryClass};
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{Capability, MicrovmImageVersion, code_artifact};
use hearth_proto::store::v1::VersionRecord;

use crate::hooks;

/// The build request for a version. The configuration was validated when it was accepted; values that are invalid
/// nevertheless are replaced by their defaults.
#[must_use]
pub fn build_request(record: &VersionRecord, region: &str, burst: Burst) -> BuildRequest {
    let version = record.version.clone().unwrap_or_default();
    let artifact = version.code_artifact.as_ref().and_then(|artifact| artifact.artifact.as_ref());
    let base = version.base_image_version.as_deref().and_then(ImageVersion::parse);
    BuildRequest {
        artifact: artifact.map(|code_artifact::Artifact::Uri(uri)| uri.clone()).unwrap_or_default(),
        build_role: (!version.build_role_arn.is_empty())
            .then(|| RoleUse::new(&record.account, &version.build_role_arn)),
        base: base.map(|version| version.number().into()),
        memory: memory(&version),
        burst,
        hooks: version.hooks.as_ref().map(hooks::enabled).unwrap_or_default(),
        all_capabilities: version.additional_os_capabilities.contains(&i32::from(Capability::All)),
        egress: egress(&version.egress_network_connectors),
        platform: Platform {
            name: record.image_name.clone(),
            arn: version.image_arn,
            version: version.image_version,
            region: region.to_owned(),
            account: record.account.clone(),
        },
        environment: version.environment_variables,
        cache: Some(format!("{}-{}", record.account, record.image_uid)),
    }
}

/// The memory class of a version.
#[must_use]
pub fn memory(version: &MicrovmImageVersion) -> MemoryClass {
    let asked = version.resources.first().and_then(|resources| resources.minimum_memory_in_mib);
    let class = asked.and_then(|mib| u32::try_from(mib).ok()).and_then(|mib| MemoryClass::try_from(mib).ok());
    class.unwrap_or(MemoryClass::DEFAULT)
}

/// The egress of microVMs with these egress connectors.
#[must_use]
pub fn egress(connectors: &[String]) -> Egress {
    let leads_nowhere = |arn: &String| Connector::of_arn(arn) == Some(Connector::NoEgress);
    if connectors.iter().any(leads_nowhere) { Egress::None } else { Egress::Internet }
}

#[cfg(test)]
mod tests {
    use hearth_model::connector;
    use hearth_proto::microvms::v1::{CodeArtifact, HookState, Hooks, MicrovmImageHooks, Resources};

    use super::*;

    fn record(version: MicrovmImageVersion) -> VersionRecord {
        VersionRecord {
            account: "123456789012".into(),
            image_name: "demo".into(),
            image_uid: "uid".into(),
            number: 3,
            version: Some(MicrovmImageVersion { image_version: "3.0".into(), ..version }),
            builds: Vec::new(),
        }
    }

    #[test]
    fn a_version_says_what_is_built() {
        let version = MicrovmImageVersion {
            image_arn: "arn".into(),
            base_image_version: Some("4.0".into()),
            build_role_arn: "role".into(),
            code_artifact: Some(CodeArtifact {
                artifact: Some(code_artifact::Artifact::Uri("s3://bucket/key".into())),
            }),
            resources: vec![Resources { minimum_memory_in_mib: Some(512) }],
            environment_variables: [("A".to_owned(), "b".to_owned())].into(),
            egress_network_connectors: vec![connector::arn("r", Connector::NoEgress.name())],
            additional_os_capabilities: vec![Capability::All.into()],
            ..Default::default()
        };
        let request = build_request(&record(version), "eu-west-1", Burst::NONE);
        assert_eq!((request.artifact.as_str(), request.base), ("s3://bucket/key", Some(4)));
        assert_eq!(request.build_role, Some(RoleUse::new("123456789012", "role")), "for the image's account");
        assert_eq!((request.memory.mib(), request.burst), (512, Burst::NONE));
        assert_eq!((request.egress, request.all_capabilities), (Egress::None, true));
        assert_eq!(request.environment["A"], "b");
        assert_eq!(request.cache.as_deref(), Some("123456789012-uid"));
        let environment = request.platform.environment();
        assert_eq!(environment[2], "AWS_LAMBDA_MICROVM_IMAGE_VERSION=3.0");
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let ready = MicrovmImageHooks { ready: Some(HookState::Enabled.into()), ..Default::default() };
        let hooks = Hooks { port: Some(9000), microvm_image_hooks: Some(ready), ..Default::default() };
        let version = MicrovmImageVersion { hooks: Some(hooks), ..Default::default() };
        let request = build_request(&record(version), "eu-west-1", Burst::AWS);
        assert_eq!(
            (request.hooks.port, request.hooks.ready.map(|hook| hook.timeout_seconds)),
            (9000, Some(60))
        );
        assert_eq!(request.hooks.run, None);
        assert_eq!((request.memory, request.egress), (MemoryClass::DEFAULT, Egress::Internet));
        assert_eq!(request.base, None);
    }
}
