//! What the version before an update has, and the next one would not: UpdateMicrovmImage takes nothing over.

use hearth_model::arn::resource_name;
use hearth_model::connector::Connector;
use hearth_proto::microvms::v1::logging::Logging as Destination;
use hearth_proto::microvms::v1::{
    GetMicrovmImageRequest, GetMicrovmImageVersionRequest, HookState, Hooks, MicrovmHooks, MicrovmImageHooks,
    MicrovmImageVersion, UpdateMicrovmImageRequest,
};

use super::super::get::connectors;
use super::hooks::describe;
use crate::connect::Client;
use crate::error::Failure;
use crate::live::{Live, OutputStream};
use crate::names::BUILD_ROLE;
use crate::out::printable;

/// Memory in MiB of a version that says nothing of it.
const MEMORY: i32 = 2048;

/// The version that settings are compared with and taken from: the newest active one, or the newest. None if the caller may not see it,
/// unless it is `needed`.
pub(super) async fn version(
    client: &Client,
    arn: &str,
    needed: bool,
) -> Result<Option<MicrovmImageVersion>, Failure> {
    match find(client, arn).await {
        Err(failure) if failure.is_denied() && !needed => Ok(None),
        found => found,
    }
}

async fn find(client: &Client, arn: &str) -> Result<Option<MicrovmImageVersion>, Failure> {
    let name = resource_name(arn);
    let mut microvms = client.microvms();
    let request = GetMicrovmImageRequest { image_identifier: Some(arn.to_owned()) };
    let image = client.call(format!("get the image {name}"), microvms.get_microvm_image(request)).await?;
    let Some(newest) = image.latest_active_image_version else {
        return Ok(client.versions(arn, Some(1)).await?.into_iter().next());
    };
    let request = GetMicrovmImageVersionRequest {
        image_identifier: Some(arn.to_owned()),
        image_version: Some(newest.clone()),
    };
    let answer = microvms.get_microvm_image_version(request);
    Ok(Some(client.call(format!("get {name} {newest}"), answer).await?))
}

/// Takes over what is not given. Variables and hooks are taken over one by one.
pub(super) fn keep(given: &mut UpdateMicrovmImageRequest, before: &MicrovmImageVersion, has_port: bool) {
    let before = before.clone();
    // The base's version is not taken over: an answer always has one, and the newest has what was mended since.
    given.base_image_arn.get_or_insert(before.base_image_arn);
    given.build_role_arn.get_or_insert(before.build_role_arn);
    given.description = given.description.take().or(before.description);
    given.logging = given.logging.take().or(before.logging);
    given.kms_key_identifier = given.kms_key_identifier.take().or(before.kms_key_identifier);
    keep_list(&mut given.resources, before.resources);
    keep_list(&mut given.cpu_configurations, before.cpu_configurations);
    keep_list(&mut given.egress_network_connectors, before.egress_network_connectors);
    keep_list(&mut given.additional_os_capabilities, before.additional_os_capabilities);
    for (name, value) in before.environment_variables {
        given.environment_variables.entry(name).or_insert(value);
    }
    given.hooks = match (given.hooks.take(), before.hooks) {
        (Some(given), Some(before)) => Some(both(given, before, has_port)),
        (given, before) => given.or(before),
    };
}

fn keep_list<T>(given: &mut Vec<T>, before: Vec<T>) {
    if given.is_empty() {
        *given = before;
    }
}

/// The given hooks, and those of before that are not given.
fn both(given: Hooks, before: Hooks, has_port: bool) -> Hooks {
    let image = given.microvm_image_hooks.unwrap_or_default();
    let image_before = before.microvm_image_hooks.unwrap_or_default();
    let microvm = given.microvm_hooks.unwrap_or_default();
    let microvm_before = before.microvm_hooks.unwrap_or_default();
    // A hook that is given has its own timeout, or the default one.
    let hook = |given: (Option<i32>, Option<i32>), before| if given.0.is_some() { given } else { before };
    let (ready, ready_timeout_in_seconds) = hook(
        (image.ready, image.ready_timeout_in_seconds),
        (image_before.ready, image_before.ready_timeout_in_seconds),
    );
    let (validate, validate_timeout_in_seconds) = hook(
        (image.validate, image.validate_timeout_in_seconds),
        (image_before.validate, image_before.validate_timeout_in_seconds),
    );
    let (run, run_timeout_in_seconds) = hook(
        (microvm.run, microvm.run_timeout_in_seconds),
        (microvm_before.run, microvm_before.run_timeout_in_seconds),
    );
    let (resume, resume_timeout_in_seconds) = hook(
        (microvm.resume, microvm.resume_timeout_in_seconds),
        (microvm_before.resume, microvm_before.resume_timeout_in_seconds),
    );
    let (suspend, suspend_timeout_in_seconds) = hook(
        (microvm.suspend, microvm.suspend_timeout_in_seconds),
        (microvm_before.suspend, microvm_before.suspend_timeout_in_seconds),
    );
    let (terminate, terminate_timeout_in_seconds) = hook(
        (microvm.terminate, microvm.terminate_timeout_in_seconds),
        (microvm_before.terminate, microvm_before.terminate_timeout_in_seconds),
    );
    let image = MicrovmImageHooks { ready, ready_timeout_in_seconds, validate, validate_timeout_in_seconds };
    let microvm = MicrovmHooks {
        run,
        run_timeout_in_seconds,
        resume,
        resume_timeout_in_seconds,
        suspend,
        suspend_timeout_in_seconds,
        terminate,
        terminate_timeout_in_seconds,
    };
    Hooks {
        port: if has_port { given.port } else { before.port.or(given.port) },
        microvm_hooks: (microvm != MicrovmHooks::default()).then_some(microvm),
        microvm_image_hooks: (image != MicrovmImageHooks::default()).then_some(image),
    }
}

/// Says on stderr what is not given again.
pub(super) fn warn(
    image: &str,
    given: &UpdateMicrovmImageRequest,
    before: &MicrovmImageVersion,
) -> Result<(), Failure> {
    let lost = lost(given, before);
    if lost.is_empty() {
        return Ok(());
    }
    let mut live = Live::new(OutputStream::Stderr);
    let version = &before.image_version;
    live.line(&printable(&format!(
        "warning: {} {version} has what the next version will not have, since it is not given again; --keep takes it over:",
        resource_name(image)
    )))?;
    let width = lost.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lost {
        live.line(&printable(&format!("  {name:width$}  {value}")))?;
    }
    Ok(())
}

/// The settings of before that are not given and are not what is there without them.
fn lost(given: &UpdateMicrovmImageRequest, before: &MicrovmImageVersion) -> Vec<(&'static str, String)> {
    let mut lost = Vec::new();
    let memory = before.resources.first().and_then(|resources| resources.minimum_memory_in_mib);
    if let Some(memory) = memory.filter(|memory| *memory != MEMORY && given.resources.is_empty()) {
        lost.push(("memory", format!("{memory} MiB (it becomes {MEMORY} MiB)")));
    }
    if let Some(hooks) = before.hooks.as_ref().map(|hooks| describe(&without(hooks, given.hooks.as_ref())))
        && !hooks.is_empty()
    {
        lost.push(("hooks", hooks));
    }
    // Values may be secret.
    let variables = before.environment_variables.keys();
    let variables = variables.filter(|name| !given.environment_variables.contains_key(*name));
    let variables: Vec<_> = variables.map(String::as_str).collect();
    if !variables.is_empty() {
        lost.push(("variables", variables.join(", ")));
    }
    let egress = &before.egress_network_connectors;
    let is_default = |arn: &String| arn.rsplit(':').next() == Some(Connector::InternetEgress.name());
    if given.egress_network_connectors.is_empty() && !egress.iter().all(is_default) {
        lost.push(("egress", format!("{} (it becomes internet)", connectors(egress))));
    }
    if given.additional_os_capabilities.is_empty() && !before.additional_os_capabilities.is_empty() {
        let names: Vec<_> = before.additional_os_capabilities().map(|one| one.as_str_name()).collect();
        lost.push(("capabilities", names.join(", ")));
    }
    let role = resource_name(&before.build_role_arn);
    if given.build_role_arn.is_none() && !role.is_empty() && role != BUILD_ROLE {
        lost.push(("build role", format!("{role} (it becomes {BUILD_ROLE})")));
    }
    if let (None, Some(text)) = (&given.description, &before.description) {
        lost.push(("description", text.clone()));
    }
    let logging = before.logging.as_ref().and_then(|logging| logging.logging.as_ref());
    if let (None, Some(destination)) = (&given.logging, logging) {
        let text = match destination {
            Destination::Disabled(_) => "disabled".to_owned(),
            Destination::CloudWatch(logs) => {
                logs.log_group.iter().chain(&logs.log_stream).cloned().collect::<Vec<_>>().join(" ")
            }
        };
        lost.push(("logging", text));
    }
    lost
}

/// The hooks that are not given.
fn without(before: &Hooks, given: Option<&Hooks>) -> Hooks {
    let enabled = Some(HookState::Enabled.into());
    let given = given.cloned().unwrap_or_default();
    let (image, microvm) =
        (given.microvm_image_hooks.unwrap_or_default(), given.microvm_hooks.unwrap_or_default());
    let left = |state: Option<i32>, given: Option<i32>| state.filter(|_| given != enabled);
    let mut hooks = *before;
    if let Some(hooks) = &mut hooks.microvm_image_hooks {
        hooks.ready = left(hooks.ready, image.ready);
        hooks.validate = left(hooks.validate, image.validate);
    }
    if let Some(hooks) = &mut hooks.microvm_hooks {
        hooks.run = left(hooks.run, microvm.run);
        hooks.resume = left(hooks.resume, microvm.resume);
        hooks.suspend = left(hooks.suspend, microvm.suspend);
        hooks.terminate = left(hooks.terminate, microvm.terminate);
    }
    hooks
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::{Capability, Logging, LoggingDisabled, Resources};

    use super::*;

    const ENABLED: i32 = HookState::Enabled as i32;

    fn before() -> MicrovmImageVersion {
        MicrovmImageVersion {
            image_version: "1.0".into(),
            base_image_arn: "arn:aws:lambda:r:aws:microvm-image:al2023-1".into(),
            base_image_version: Some("3.0".into()),
            build_role_arn: "arn:aws:iam::1:role/special".into(),
            description: Some("mine".into()),
            resources: vec![Resources { minimum_memory_in_mib: Some(512) }],
            hooks: Some(Hooks {
                port: Some(8080),
                microvm_hooks: Some(MicrovmHooks {
                    run: Some(ENABLED),
                    run_timeout_in_seconds: Some(5),
                    ..MicrovmHooks::default()
                }),
                microvm_image_hooks: Some(MicrovmImageHooks {
                    ready: Some(ENABLED),
                    ..MicrovmImageHooks::default()
                }),
            }),
            environment_variables: [("A".into(), "1".into()), ("B".into(), "secret".into())].into(),
            egress_network_connectors: vec![
                "arn:aws:lambda:r:aws:network-connector:aws-network-connector:NO_EGRESS".into(),
            ],
            additional_os_capabilities: vec![Capability::All.into()],
            logging: Some(Logging { logging: Some(Destination::Disabled(LoggingDisabled {})) }),
            ..MicrovmImageVersion::default()
        }
    }

    #[test]
    fn what_is_not_given_again_is_listed_and_no_value_of_a_variable() {
        let lost = lost(&UpdateMicrovmImageRequest::default(), &before());
        let names: Vec<_> = lost.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "memory",
                "hooks",
                "variables",
                "egress",
                "capabilities",
                "build role",
                "description",
                "logging"
            ]
        );
        let text = format!("{lost:?}");
        assert!(text.contains("512 MiB (it becomes 2048 MiB)") && text.contains("A, B"), "{text}");
        assert!(text.contains("ready, run (5 s) on port 8080") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn what_is_given_again_or_was_the_default_is_not_listed() {
        let plain = MicrovmImageVersion {
            build_role_arn: "arn:aws:iam::1:role/hearth-build".into(),
            resources: vec![Resources { minimum_memory_in_mib: Some(2048) }],
            egress_network_connectors: vec![
                "arn:aws:lambda:r:aws:network-connector:aws-network-connector:INTERNET_EGRESS".into(),
            ],
            ..MicrovmImageVersion::default()
        };
        assert_eq!(lost(&UpdateMicrovmImageRequest::default(), &plain), []);
        let mut given = UpdateMicrovmImageRequest {
            resources: vec![Resources { minimum_memory_in_mib: Some(1024) }],
            environment_variables: [("A".into(), "2".into())].into(),
            hooks: before().hooks,
            ..UpdateMicrovmImageRequest::default()
        };
        if let Some(hooks) = &mut given.hooks {
            hooks.microvm_hooks = None;
        }
        let text = format!("{:?}", lost(&given, &before()));
        assert!(text.contains("\"B\"") && text.contains("\"run (5 s) on port 8080\""), "{text}");
        assert!(!text.contains("memory"), "{text}");
    }

    #[test]
    fn what_is_kept_loses_nothing_and_what_is_given_comes_first() {
        let mut given = UpdateMicrovmImageRequest {
            environment_variables: [("A".into(), "2".into())].into(),
            hooks: Some(Hooks {
                port: Some(9000),
                microvm_hooks: None,
                microvm_image_hooks: Some(MicrovmImageHooks {
                    ready: Some(ENABLED),
                    ready_timeout_in_seconds: Some(60),
                    ..MicrovmImageHooks::default()
                }),
            }),
            ..UpdateMicrovmImageRequest::default()
        };
        let mut with_port = given.clone();
        keep(&mut with_port, &before(), true);
        assert_eq!(with_port.hooks.unwrap().port, Some(9000));
        keep(&mut given, &before(), false);
        assert_eq!(lost(&given, &before()), []);
        assert_eq!(given.base_image_version, None, "the newest");
        assert_eq!(given.base_image_arn, Some(before().base_image_arn));
        assert_eq!(given.environment_variables["A"], "2");
        assert_eq!(given.environment_variables["B"], "secret");
        let text = describe(&given.hooks.unwrap());
        assert_eq!(text, "ready (60 s), run (5 s) on port 8080");
    }
}
