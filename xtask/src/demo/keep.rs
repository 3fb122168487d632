//! The daemon that runs on (`--keep`): its clients for a user who continues in a shell, in the cache's folder `demo`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::access::Access;
use crate::cache::Cache;
use crate::parts::{self, Executable, Parts};
use crate::toolchain;

const CLIENT: &str = "hearth";
const PROFILE: &str = "config.toml";
/// The AWS CLI, beside the client, and the file with its environment.
const AWS: &str = "aws";
const AWS_ENVIRONMENT: &str = "aws.sh";

/// Variables of a user that go before those of the file.
const OVERRIDES: [&str; 9] = [
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_ENDPOINT_URL_LAMBDA_MICROVMS",
    "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
];

/// Adds `hearth` and the AWS CLI to the folder of the credentials, with their configuration, and gives the metal the instructions that
/// the demo ends with.
pub(super) fn prepare(cache: &Cache, access: &Access, python: &Path, parts: &mut Parts) -> Result<()> {
    let folder = access.folder();
    access.write(PROFILE, &access.profile())?;
    let mut cargo = toolchain::native(cache)?;
    cargo.args(["build", "--package", "hearth-cli", "--bin", CLIENT]);
    let client = parts::executable_of(&mut cargo, "hearth-cli", Executable::Binary(CLIENT))?;
    fs::copy(client, folder.join(CLIENT)).context("cannot copy the client")?;
    let aws = folder.join(AWS);
    symlink(python.with_file_name(AWS), &aws)
        .with_context(|| format!("cannot make the link {}", aws.display()))?;
    access.write(AWS_ENVIRONMENT, &environment(access))?;
    parts.add(access.write("keep", &text(access)?)?, "keep");
    Ok(())
}

/// A script that prepares a shell for the AWS CLI, whatever is set up there.
fn environment(access: &Access) -> String {
    let mut text = format!("unset {}\n", OVERRIDES.join(" "));
    for (name, value) in access.aws() {
        text += &format!("export {name}='{value}'\n");
    }
    text
}

/// Instructions for the user.
fn text(access: &Access) -> Result<String> {
    let folder = access.folder().display();
    let examples = toolchain::repository()?.join("examples");
    Ok(format!(
        "\n── the daemon runs on, until Ctrl-C here. In another shell:\n
export PATH=\"{folder}:$PATH\" HEARTH_CONFIG=\"{folder}/{PROFILE}\"
hearth ps                                       # the microVM that is left
hearth curl ID/                                 # ask it; a microVM that is suspended wakes up
hearth open ID/page                             # its page, in a browser
hearth shell ID -- /counter ask /               # run a program beside it
curl -H \"$(hearth token ID --port 8080)\" --cacert <(hearth ca) URL/   # URL: its endpoint, in hearth get ID
hearth image create notes {notes} --memory 512 --hooks-port 8080 --ready=300
hearth run notes                                # a Python app; its image takes a few minutes on an emulated host
hearth run counter --payload 'mine' --log-group /demo --log-stream third
hearth logs --group /demo --follow              # what the apps say
hearth suspend ID, hearth resume ID, hearth rm ID, hearth events, hearth host, hearth --help

And AWS's own command line, as everybody has it:

. \"{folder}/{AWS_ENVIRONMENT}\"                         # AWS_ENDPOINT_URL, AWS_CA_BUNDLE and the key
aws logs filter-log-events --log-group-name /demo --query 'events[].message'
aws lambda-microvms list-microvms --output table\n\n",
        notes = examples.join("notes").display()
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::access::Ports;
    use crate::command;

    #[test]
    fn the_environment_replaces_what_a_user_has_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf()).unwrap();
        let access = Access::prepare(&cache, "demo", Ports { api: 1, endpoints: 2, aws: 3 }).unwrap();
        let file = access.write(AWS_ENVIRONMENT, &environment(&access)).unwrap();
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(format!(". {} && env", file.display()));
        let text = command::capture(sh.env("AWS_PROFILE", "of-a-user").env("AWS_ACCESS_KEY_ID", "of-a-user"))
            .unwrap();
        assert!(text.contains("AWS_ENDPOINT_URL=https://127.0.0.1:3\n"), "{text}");
        assert!(!text.contains("of-a-user"), "{text}");
    }
}
