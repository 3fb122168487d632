//! Converts a container image's configuration to the app's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::BuildError;
use super::request::BuildRequest;
use crate::failure::FailureCode;
use crate::image::App;

/// Most bytes of a description that are read: more than any reasonable Dockerfile causes.
pub(super) const MAX: usize = 4 << 20;
/// Most arguments and variables of an app; the next constant is the longest of each in bytes.
const COUNT_MAX: usize = 4096;
const LENGTH_MAX: usize = 128 << 10;
/// Fields of a container's configuration that are kept, in addition to those that start the app.
const KEPT: [&str; 7] =
    ["ExposedPorts", "Healthcheck", "Labels", "OnBuild", "Shell", "StopSignal", "Volumes"];

/// The used part of the output of `docker image inspect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Description {
    architecture: String,
    os: String,
    config: Option<BTreeMap<String, Value>>,
}

fn strings(config: &BTreeMap<String, Value>, name: &str) -> Vec<String> {
    let list = config.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The app of the image that `text` describes, with the variables that the request and the platform add.
pub(super) fn app(text: &[u8], request: &BuildRequest) -> Result<App, BuildError> {
    let failed = |detail: String| BuildError::explained(FailureCode::ContainerBuildFailed, &detail);
    let description: Description = serde_json::from_slice(text).map_err(|error| {
        BuildError::Platform(format!("dockerd describes the image in an unknown way: {error}"))
    })?;
    if (description.os.as_str(), description.architecture.as_str()) != ("linux", "arm64") {
        let (os, architecture) = (description.os, description.architecture);
        return Err(failed(format!("The image is for {os}/{architecture}, and microVMs are linux/arm64.")));
    }
    let config = description.config.unwrap_or_default();
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let arguments = [strings(&config, "Entrypoint"), strings(&config, "Cmd")].concat();
    if arguments.is_empty() {
        return Err(failed("The image has neither ENTRYPOINT nor CMD, so there is nothing to start.".into()));
    }
    let given = request.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let own = strings(&config, "Env").into_iter().chain(given).chain(request.platform.environment());
    let environment = last_wins(own);
    for (what, list) in [("arguments", &arguments), ("variables", &environment)] {
        if list.len() > COUNT_MAX || list.iter().any(|entry| entry.len() > LENGTH_MAX || entry.contains('\0'))
        {
            return Err(failed(format!(
                "The image has more or longer {what} than an app can be started with."
            )));
        }
    }
    let container = config.iter().filter(|(name, value)| KEPT.contains(&name.as_str()) && !is_empty(value));
    Ok(App {
        arguments,
        environment,
        working_directory: text("WorkingDir"),
        user: text("User"),
        container: container.map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

/// Whether a field says nothing. Docker's format has some fields in every image, empty where the Dockerfile does not set them.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Keeps the last variable of each name, in the order in which names first appear.
fn last_wins(variables: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for variable in variables {
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        match kept.iter_mut().find(|other| name(other) == name(&variable)) {
            Some(other) => *other = variable,
            None => kept.push(variable),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use hearth_host::network::Egress;
    use hearth_model::shape::{Burst, MemoryClass};

    use super::*;
    use crate::build::Platform;

    fn request() -> BuildRequest {
        BuildRequest {
            artifact: "s3://bucket/app.zip".into(),
            build_role: None,
            base: None,
            memory: MemoryClass::DEFAULT,
            burst: Burst::NONE,
            environment: [("LANG".to_owned(), "C".to_owned())].into(),
            hooks: hearth_model::hooks::Hooks::default(),
            all_capabilities: false,
            egress: Egress::Internet,
            platform: Platform {
                name: "app".into(),
                arn: "arn:aws:lambda:eu-west-1:111122223333:microvm-image:app".into(),
                version: "1.0".into(),
                region: "eu-west-1".into(),
                account: "111122223333".into(),
            },
            cache: None,
        }
    }

    const DESCRIPTION: &str = r#"{"Id":"sha256:0","Architecture":"arm64","Os":"linux","Config":{
        "Entrypoint":["/app"],"Cmd":["--port","8080"],"Env":["PATH=/bin","LANG=de","AWS_REGION=mars"],
        "WorkingDir":"/srv","User":"app:app","Healthcheck":{"Test":["CMD","true"]},"Volumes":{"/data":{}},
        "Hostname":"x","Labels":null}}"#;

    #[test]
    fn entrypoint_and_cmd_start_the_app_and_the_platforms_variables_win() {
        let app = app(DESCRIPTION.as_bytes(), &request()).unwrap();
        assert_eq!(app.arguments, ["/app", "--port", "8080"]);
        assert_eq!(app.environment.first().unwrap(), "PATH=/bin");
        assert!(app.environment.contains(&"LANG=C".to_owned()), "the build's wins over the Dockerfile's");
        assert!(app.environment.contains(&"AWS_REGION=eu-west-1".to_owned()));
        assert!(app.environment.contains(&"AWS_LAMBDA_MICROVM_IMAGE_VERSION=1.0".to_owned()));
        assert_eq!(app.environment.iter().filter(|entry| entry.starts_with("AWS_REGION=")).count(), 1);
        assert_eq!((app.working_directory.as_str(), app.user.as_str()), ("/srv", "app:app"));
        assert_eq!(app.container.keys().collect::<Vec<_>>(), ["Healthcheck", "Volumes"]);
    }

    #[test]
    fn a_field_that_is_there_and_empty_says_nothing() {
        let text = DESCRIPTION
            .replace("\"Labels\":null", "\"Labels\":{},\"OnBuild\":[],\"Shell\":[],\"StopSignal\":\"\"");
        assert!(text.contains("OnBuild"));
        let app = app(text.as_bytes(), &request()).unwrap();
        assert_eq!(app.container.keys().collect::<Vec<_>>(), ["Healthcheck", "Volumes"]);
    }

    #[test]
    fn an_image_that_cannot_run_here_is_refused_with_the_reason() {
        for (text, word) in [
            (DESCRIPTION.replace("arm64", "amd64"), "linux/amd64"),
            (r#"{"Architecture":"arm64","Os":"linux","Config":{}}"#.to_owned(), "ENTRYPOINT"),
            (DESCRIPTION.replace("--port", "a\\u0000b"), "arguments"),
        ] {
            let error = app(text.as_bytes(), &request()).unwrap_err();
            let reason = error.state_reason();
            assert!(reason.starts_with("The container image build failed. The image "), "{reason}");
            assert!(reason.contains(word) && error.to_string().contains(word), "{error}");
            assert_eq!(error.measured_reason(), "The container image build failed.");
        }
        assert!(matches!(app(b"null", &request()), Err(BuildError::Platform(_) | BuildError::Failed { .. })));
    }
}
