//! Configuration of a version: checks and defaults (docs/behaviour.md, "Code artifacts", "Base image", "Configuration
//! of a version", "Memory classes", "Environment of the app").

use std::collections::BTreeMap;

use hearth_base::Catalogue;
use hearth_image_builder::artifact::{ArtifactConfig, ArtifactSource, ArtifactUriError};
use hearth_model::connector::Connector;
use hearth_model::shape::MemoryClass;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1::{
    Architecture, CodeArtifact, CpuConfiguration, CreateMicrovmImageRequest, HookState, Hooks,
    MicrovmImageVersion, Resources, UpdateMicrovmImageRequest, code_artifact,
};

use super::super::config::{Profile, ServiceConfig};
use super::super::error::{ConfigurationError, ServiceError};

/// Environment variables that the platform sets itself: one full name, and a prefix of other names.
const RESERVED: &str = "AWS_REGION";
const RESERVED_PREFIX: &str = "AWS_LAMBDA_MICROVM_";

/// Converts a create request to an update request with the members that both have in common.
pub(super) fn common(request: &CreateMicrovmImageRequest) -> UpdateMicrovmImageRequest {
    let CreateMicrovmImageRequest {
        name: _,
        tags: _,
        client_token: _,
        base_image_arn,
        base_image_version,
        build_role_arn,
        code_artifact,
        description,
        resources,
        cpu_configurations,
        hooks,
        environment_variables,
        egress_network_connectors,
        additional_os_capabilities,
        logging,
        kms_key_identifier,
    } = request.clone();
    UpdateMicrovmImageRequest {
        image_identifier: None,
        base_image_arn,
        base_image_version,
        build_role_arn,
        code_artifact,
        description,
        resources,
        cpu_configurations,
        hooks,
        environment_variables,
        egress_network_connectors,
        additional_os_capabilities,
        logging,
        client_token: None,
        kms_key_identifier,
    }
}

/// The requested configuration, with defaults filled in; the artifact's source has to be one of the `account`'s. The request has
/// passed the constraints.
///
/// # Errors
///
/// The errors that a client of AWS receives.
pub(super) fn configuration(
    config: &ServiceConfig,
    (artifacts, account): (&ArtifactConfig, &str),
    bases: &Catalogue,
    image_arn: String,
    request: UpdateMicrovmImageRequest,
) -> Result<MicrovmImageVersion, ServiceError> {
    let base_image_arn = request.base_image_arn.unwrap_or_default();
    let base = base_version(config, bases, &base_image_arn, request.base_image_version.as_deref())?;
    check_artifact(config, (artifacts, account), request.code_artifact.as_ref())?;
    check_variables(&request.environment_variables)?;
    let memory = memory(&base_image_arn, &request.resources)?;
    check_architectures(&base_image_arn, &request.cpu_configurations)?;
    if request.kms_key_identifier.is_some() {
        return Err(ConfigurationError::NoKeyProvider.into());
    }
    if let Some(hooks) = &request.hooks {
        check_hooks(hooks)?;
    }
    let mut connectors = request.egress_network_connectors;
    config.connectors(&connectors, "egressNetworkConnectors", false)?;
    if connectors.is_empty() {
        connectors.push(config.connector_arn(Connector::InternetEgress));
    }
    let mut cpus = request.cpu_configurations;
    cpus.dedup();
    let mut capabilities = request.additional_os_capabilities;
    capabilities.dedup();
    Ok(MicrovmImageVersion {
        image_arn,
        base_image_arn,
        base_image_version: Some(ImageVersion::from(base).to_string()),
        build_role_arn: request.build_role_arn.unwrap_or_default(),
        code_artifact: request.code_artifact,
        description: request.description,
        resources: vec![Resources { minimum_memory_in_mib: Some(memory) }],
        cpu_configurations: cpus,
        hooks: request.hooks,
        environment_variables: request.environment_variables,
        egress_network_connectors: connectors,
        additional_os_capabilities: capabilities,
        logging: request.logging,
        ..MicrovmImageVersion::default()
    })
}

/// The version of the base image: the requested one, or the newest.
fn base_version(
    config: &ServiceConfig,
    bases: &Catalogue,
    arn: &str,
    asked: Option<&str>,
) -> Result<u32, ServiceError> {
    let none = || ConfigurationError::NoManagedVersion {
        arn: arn.to_owned(),
        version: asked.unwrap_or("latest").to_owned(),
    };
    if !config.is_base_image(arn) {
        return Err(none().into());
    }
    let versions = bases.versions().map_err(|error| ServiceError::internal(error.to_string()))?;
    let number = match asked {
        // AWS responds with `1.0` but accepts only `1` in requests.
        Some(text) if config.profile == Profile::AwsStrict && text.contains('.') => None,
        Some(text) => ImageVersion::parse(text)
            .map(ImageVersion::number)
            .filter(|number| versions.contains(&u64::from(*number))),
        None => versions.first().and_then(|newest| u32::try_from(*newest).ok()),
    };
    Ok(number.ok_or_else(none)?)
}

fn check_artifact(
    config: &ServiceConfig,
    (artifacts, account): (&ArtifactConfig, &str),
    artifact: Option<&CodeArtifact>,
) -> Result<(), ServiceError> {
    let uri = match artifact.and_then(|artifact| artifact.artifact.as_ref()) {
        Some(code_artifact::Artifact::Uri(uri)) => uri,
        None => return Err(ConfigurationError::CodeArtifactUri.into()),
    };
    let parsed = match config.profile {
        Profile::Default => ArtifactSource::parse(uri, artifacts, account),
        Profile::AwsStrict => ArtifactSource::parse_s3(uri, artifacts, account),
    };
    match parsed {
        Ok(_) => Ok(()),
        Err(ArtifactUriError::NotS3) => Err(ConfigurationError::CodeArtifactUri.into()),
        Err(other) => Err(ServiceError::invalid("codeArtifact.uri", other.to_string())),
    }
}

fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), ServiceError> {
    for (name, value) in variables {
        if name == RESERVED || name.starts_with(RESERVED_PREFIX) {
            return Err(ConfigurationError::ReservedVariable(name.clone()).into());
        }
        // A program receives each variable as NAME=value, terminated by a NUL.
        if name.contains(['=', '\0']) {
            let name = name.replace('\0', "\u{fffd}");
            let message = format!("Environment variable key '{name}' must not contain '=' or NUL");
            return Err(ServiceError::invalid("environmentVariables", message));
        }
        if value.contains('\0') {
            let message = format!("The value of the environment variable '{name}' must not contain NUL");
            return Err(ServiceError::invalid("environmentVariables", message));
        }
    }
    Ok(())
}

fn memory(base_arn: &str, resources: &[Resources]) -> Result<i32, ConfigurationError> {
    let asked = resources.first().and_then(|resources| resources.minimum_memory_in_mib);
    let mib = asked.map_or(Ok(MemoryClass::DEFAULT), |mib| {
        let class = u32::try_from(mib).ok().and_then(|mib| MemoryClass::try_from(mib).ok());
        class.ok_or_else(|| ConfigurationError::MemorySize { mib, base_arn: base_arn.to_owned() })
    });
    mib.map(|class| i32::try_from(class.mib()).unwrap_or(i32::MAX))
}

fn check_architectures(base_arn: &str, cpus: &[CpuConfiguration]) -> Result<(), ConfigurationError> {
    let other = cpus.iter().map(CpuConfiguration::architecture).find(|name| *name != Architecture::Arm64);
    other.map_or(Ok(()), |name| {
        let base_arn = base_arn.to_owned();
        Err(ConfigurationError::Architecture { name: name.as_str_name(), base_arn })
    })
}

fn check_hooks(hooks: &Hooks) -> Result<(), ConfigurationError> {
    let (image, runtime) =
        (hooks.microvm_image_hooks.unwrap_or_default(), hooks.microvm_hooks.unwrap_or_default());
    let enabled = |states: &[HookState]| states.contains(&HookState::Enabled);
    let in_microvms = enabled(&[runtime.run(), runtime.resume(), runtime.suspend(), runtime.terminate()]);
    if in_microvms && image.ready() != HookState::Enabled {
        return Err(ConfigurationError::ReadyHookNeeded);
    }
    if (in_microvms || enabled(&[image.ready(), image.validate()])) && hooks.port.is_none() {
        return Err(ConfigurationError::HooksPortNeeded);
    }
    Ok(())
}
