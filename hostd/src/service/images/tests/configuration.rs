use hearth_base::Catalogue;
use hearth_image_builder::artifact::{ArtifactConfig, RegistryConfig};
use hearth_model::connector::Connector;
use hearth_proto::microvms::v1::{
    Capability, CodeArtifact, CreateMicrovmImageRequest, HookState, Hooks, MicrovmHooks, MicrovmImageHooks,
    MicrovmImageVersion, Resources, UpdateMicrovmImageRequest, code_artifact,
};

use super::super::super::config::{Profile, ServiceConfig};
use super::super::super::error::ServiceError;
use super::super::configuration::{common, configuration};

const ACCOUNT: &str = "123456789012";
const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:microvm-image:demo";

fn config(profile: Profile) -> ServiceConfig {
    ServiceConfig::new("us-east-1", profile)
}

fn uri(uri: &str) -> Option<CodeArtifact> {
    Some(CodeArtifact { artifact: Some(code_artifact::Artifact::Uri(uri.to_owned())) })
}

/// A request with all required members.
fn request() -> UpdateMicrovmImageRequest {
    UpdateMicrovmImageRequest {
        image_identifier: Some(ARN.to_owned()),
        base_image_arn: Some(config(Profile::Default).base_image_arn()),
        build_role_arn: Some("arn:aws:iam::123456789012:role/build".to_owned()),
        code_artifact: uri("s3://bucket/app.zip"),
        ..UpdateMicrovmImageRequest::default()
    }
}

fn configured(
    profile: Profile,
    change: impl FnOnce(&mut UpdateMicrovmImageRequest),
) -> Result<MicrovmImageVersion, ServiceError> {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "2", "10"] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
    }
    let artifacts = ArtifactConfig {
        allow_files: true,
        registries: [("registry.example".to_owned(), RegistryConfig::default().into())].into(),
        ..ArtifactConfig::default()
    };
    let mut request = request();
    change(&mut request);
    let bases = Catalogue::open(folder.path()).unwrap();
    configuration(&config(profile), (&artifacts, ACCOUNT), &bases, ARN.to_owned(), request)
}

fn message(profile: Profile, change: impl FnOnce(&mut UpdateMicrovmImageRequest)) -> String {
    configured(profile, change).unwrap_err().to_string()
}

#[test]
fn what_is_not_given_has_its_default_in_the_echo() {
    let version = configured(Profile::Default, |_| {}).unwrap();
    assert_eq!(version.resources, [Resources { minimum_memory_in_mib: Some(2048) }]);
    let internet = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS";
    assert_eq!(version.egress_network_connectors, [internet]);
    assert_eq!(version.base_image_version.as_deref(), Some("10.0"), "the newest");
    assert_eq!((version.hooks, version.logging, version.description), (None, None, None));
    assert_eq!(version.image_arn, ARN);
}

#[test]
fn a_create_asks_for_what_an_update_does() {
    let update = UpdateMicrovmImageRequest {
        image_identifier: None,
        description: Some("text".into()),
        additional_os_capabilities: vec![Capability::All.into()],
        environment_variables: [("A".to_owned(), "b".to_owned())].into(),
        ..request()
    };
    let create = CreateMicrovmImageRequest {
        name: Some("demo".into()),
        tags: [("a".to_owned(), "b".to_owned())].into(),
        client_token: Some("token".into()),
        base_image_arn: update.base_image_arn.clone(),
        build_role_arn: update.build_role_arn.clone(),
        code_artifact: update.code_artifact.clone(),
        description: update.description.clone(),
        additional_os_capabilities: update.additional_os_capabilities.clone(),
        environment_variables: update.environment_variables.clone(),
        ..CreateMicrovmImageRequest::default()
    };
    assert_eq!(common(&create), update);
}

#[test]
fn a_base_image_is_one_of_the_hosts() {
    let base = config(Profile::Default).base_image_arn();
    let version = |profile, version: &str| {
        configured(profile, |request| request.base_image_version = Some(version.to_owned()))
            .map(|version| version.base_image_version.unwrap())
            .map_err(|error| error.to_string())
    };
    assert_eq!(version(Profile::Default, "2"), Ok("2.0".into()));
    assert_eq!(version(Profile::Default, "2.0"), Ok("2.0".into()), "as it was echoed");
    let unknown =
        |text: &str| Err(format!("No managed MicroVM Image with arn {base} and version {text} is available"));
    assert_eq!(version(Profile::Default, "999"), unknown("999"));
    assert_eq!(version(Profile::AwsStrict, "2"), Ok("2.0".into()));
    assert_eq!(version(Profile::AwsStrict, "2.0"), unknown("2.0"));
    let other = ARN.replace("demo", "other");
    let sentence = message(Profile::Default, |request| request.base_image_arn = Some(other.clone()));
    assert_eq!(
        sentence,
        format!("No managed MicroVM Image with arn {other} and version latest is available")
    );
}

#[test]
fn artifacts_come_from_where_the_host_allows_it() {
    let s3 = "CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>";
    let artifact = |profile, text: &'static str| {
        let asked = configured(profile, |request| request.code_artifact = uri(text));
        asked.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(artifact(Profile::Default, "file:///srv/app.zip"), Ok(()));
    assert_eq!(artifact(Profile::Default, "oci://registry.example/app:1"), Ok(()));
    let other = artifact(Profile::Default, "oci://elsewhere.example/app:1").unwrap_err();
    assert!(other.contains("elsewhere.example"), "{other}");
    assert_eq!(artifact(Profile::Default, "https://example/app.zip"), Err(s3.into()));
    for text in ["file:///srv/app.zip", "oci://registry.example/app:1", "s3://bucket"] {
        assert_eq!(artifact(Profile::AwsStrict, text), Err(s3.into()), "{text}");
    }
    assert_eq!(artifact(Profile::AwsStrict, "s3://bucket/key"), Ok(()));
}

#[test]
fn variables_of_the_platform_and_those_that_no_program_can_get_are_refused() {
    let variable = |name: &str, value: &str| {
        let entry = (name.to_owned(), value.to_owned());
        configured(Profile::Default, |request| request.environment_variables = [entry].into())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    for name in ["AWS_REGION", "AWS_LAMBDA_MICROVM_IMAGE_NAME", "AWS_LAMBDA_MICROVM_X"] {
        assert_eq!(variable(name, ""), Err(format!("Environment variable key '{name}' is reserved")));
    }
    assert_eq!(variable("AWS_REGIONS", "x"), Ok(()));
    assert!(variable("A=B", "x").is_err() && variable("A\0", "x").is_err());
    let error = variable("SECRET", "hush\0").unwrap_err();
    assert!(error.contains("SECRET") && !error.contains("hush"), "{error}");
}

#[test]
fn memory_has_five_sizes() {
    let base = config(Profile::Default).base_image_arn();
    for mib in [0, -512, 600, 16_384] {
        let resources = vec![Resources { minimum_memory_in_mib: Some(mib) }];
        assert_eq!(
            message(Profile::Default, |request| request.resources = resources),
            format!(
                "The requested memory size of {mib} MiB is not supported by base MicroVM image {base}. Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
            )
        );
    }
}

#[test]
fn hooks_need_a_port_and_those_of_microvms_need_ready() {
    let enabled = Some(i32::from(HookState::Enabled));
    let ready = MicrovmImageHooks { ready: enabled, ..Default::default() };
    let run = MicrovmHooks { run: enabled, ..Default::default() };
    let hooks = |port, image, runtime| Hooks { port, microvm_image_hooks: image, microvm_hooks: runtime };
    let asked = |hooks| configured(Profile::Default, |request| request.hooks = Some(hooks));
    let sentence = |hooks| asked(hooks).unwrap_err().to_string();
    assert!(
        sentence(hooks(Some(9000), None, Some(run)))
            .starts_with("The ready (/ready) MicroVM image hook must be")
    );
    let disabled = MicrovmImageHooks { ready: Some(HookState::Disabled.into()), ..Default::default() };
    assert!(sentence(hooks(Some(9000), Some(disabled), Some(run))).starts_with("The ready (/ready)"));
    let port = "The hooks port must be specified when any hook is enabled.";
    assert_eq!(sentence(hooks(None, Some(ready), None)), port);
    assert_eq!(sentence(hooks(None, Some(ready), Some(run))), port);
    let whole = hooks(Some(9000), Some(ready), Some(run));
    assert_eq!(asked(whole).unwrap().hooks, Some(whole), "echoed as it was given");
    assert!(asked(hooks(None, Some(disabled), None)).is_ok());
}

#[test]
fn connectors_lead_out() {
    let config = config(Profile::Default);
    let connector = |arn: String| {
        configured(Profile::Default, |request| request.egress_network_connectors = vec![arn.clone()])
            .map(|version| version.egress_network_connectors)
            .map_err(|error| error.to_string())
    };
    let none = config.connector_arn(Connector::NoEgress);
    assert_eq!(connector(none.clone()), Ok(vec![none.clone()]));
    assert_eq!(connector("INTERNET_EGRESS".into()), Err("Malformed network connector ARN".into()));
    assert!(connector(config.connector_arn(Connector::HttpIngress)).is_err());
    let strict =
        message(Profile::AwsStrict, |request| request.egress_network_connectors = vec![none.clone()]);
    assert_eq!(strict, format!("Unrecognized managed network connector ARN: {none}"));
}
