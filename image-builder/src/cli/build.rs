//! `hearth-image-builder build`: an image by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hearth_host::network::Egress;
use hearth_image_builder::build::{BuildError, BuildRequest, Platform};
use hearth_model::account::is_account;
use hearth_model::hooks::{DEFAULT_PORT, Hook, HookSettings, Hooks, ImageHook};
use hearth_model::image::ImageArn;
use hearth_model::role::{RoleUse, account_of};
use hearth_model::shape::{Burst, MemoryClass};

use super::host::{HostOptions, NamedArtifact};
use super::{block_on, interrupted, progress};

/// The account of images for which none is given.
const NO_ACCOUNT: &str = "000000000000";

/// Builds an image from a zip with a Dockerfile, or from a container image
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// A zip or a folder here, s3://BUCKET/KEY, or a container image like oci://REGISTRY/NAME:TAG
    #[arg(long, value_name = "ARTIFACT")]
    artifact: String,
    /// The folder that the image becomes
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Version of the base image; the newest unless given
    #[arg(long, value_name = "VERSION")]
    base: Option<u64>,
    /// The role with whose credentials the artifact is fetched
    #[arg(long, value_name = "ARN")]
    build_role: Option<String>,
    /// The account that the image is of, whose roles the build may use; that of the build role, or 000000000000, unless given
    #[arg(long, value_name = "ACCOUNT", value_parser = account)]
    account: Option<String>,
    /// The image's name
    #[arg(long, value_name = "NAME", default_value = "image")]
    name: String,
    /// The image's version
    #[arg(long, value_name = "VERSION", default_value = "1.0")]
    version: String,
    /// The region in the environment of the app
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    region: String,
    /// Memory class in MiB: 512, 1024, 2048, 4096 or 8192
    #[arg(long, value_name = "MIB", default_value = "2048", value_parser = memory)]
    memory: MemoryClass,
    /// How many times its class a guest gets, 1 to 4
    #[arg(long, value_name = "FACTOR", default_value = "4", value_parser = burst)]
    burst: Burst,
    /// A variable for the app; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// All capabilities for the app's container (additionalOsCapabilities: ALL)
    #[arg(long)]
    all_capabilities: bool,
    /// What build and app may reach
    #[arg(long, value_enum, default_value = "internet")]
    egress: EgressName,
    /// Keep the layers for the next build of the same name
    #[arg(long)]
    cache: bool,
    /// Tell only steps, not the lines that build and app write
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    hooks: HookOptions,
    #[command(flatten)]
    host: HostOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EgressName {
    /// The internet, but neither this host nor its networks
    Internet,
    /// Nothing
    None,
}

/// A hook is enabled by naming it; its timeout in seconds may follow. (Clap tells these types by their spelling.)
#[derive(Debug, Args)]
#[command(next_help_heading = "Hooks")]
struct HookOptions {
    /// Port on which the app answers hooks
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    hooks_port: u16,
    /// POST /ready until it answers 200, then take the snapshot
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    ready: Option<Option<u32>>,
    /// POST /validate in a clone of the snapshot
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    validate: Option<Option<u32>>,
    /// POST /run once in each microVM
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready")]
    run: Option<Option<u32>>,
    /// POST /suspend before a suspend
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready")]
    suspend: Option<Option<u32>>,
    /// POST /resume after a resume
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready")]
    resume: Option<Option<u32>>,
    /// POST /terminate before the end
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready")]
    terminate: Option<Option<u32>>,
}

impl HookOptions {
    fn hooks(&self) -> Hooks {
        let settings = |hook: Option<Option<u32>>, default: u32| {
            hook.map(|seconds| HookSettings { timeout_seconds: seconds.unwrap_or(default) })
        };
        Hooks {
            port: self.hooks_port,
            ready: settings(self.ready, ImageHook::Ready.default_timeout_seconds()),
            validate: settings(self.validate, ImageHook::Validate.default_timeout_seconds()),
            run: settings(self.run, Hook::DEFAULT_TIMEOUT_SECONDS),
            suspend: settings(self.suspend, Hook::DEFAULT_TIMEOUT_SECONDS),
            resume: settings(self.resume, Hook::DEFAULT_TIMEOUT_SECONDS),
            terminate: settings(self.terminate, Hook::DEFAULT_TIMEOUT_SECONDS),
        }
    }
}

fn memory(text: &str) -> Result<MemoryClass, String> {
    let mib: u32 = text.parse().map_err(|_| format!("{text:?} is not a number of MiB"))?;
    MemoryClass::try_from(mib).map_err(|error| error.to_string())
}

fn account(text: &str) -> Result<String, String> {
    if is_account(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no account: 12 digits")) }
}

fn burst(text: &str) -> Result<Burst, String> {
    let factor: u32 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    Burst::try_from(factor).map_err(|error| error.to_string())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

impl Build {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let artifact = NamedArtifact::find(&self.artifact)?;
        let request = self.request(artifact.uri.clone());
        let sink = progress::sink(self.quiet);
        let image = block_on(async {
            let builder = self.host.open(true)?;
            let built = builder.build(&request, &self.out, sink, interrupted()).await;
            built.map_err(|error| {
                let reason = error.state_reason();
                match error {
                    BuildError::Failed { .. } => anyhow::anyhow!("{error}\nstateReason: {reason}"),
                    other => other.into(),
                }
            })
        })?;
        let sizes = image.manifest().sizes;
        println!("{}", image.folder().display());
        for (name, bytes) in [
            ("memorySnapshotSizeInBytes", sizes.memory_snapshot_size_in_bytes),
            ("codeInstallSizeInBytes", sizes.code_install_size_in_bytes),
            ("diskSnapshotSizeInBytes", sizes.disk_snapshot_size_in_bytes),
        ] {
            println!("  {name:<27} {bytes:>12}");
        }
        println!("try it: hearth-image-builder run {} --forward 8080", image.folder().display());
        Ok(())
    }

    fn request(&self, artifact: String) -> BuildRequest {
        let of_role = self.build_role.as_deref().and_then(account_of);
        let account = self.account.as_deref().or(of_role).unwrap_or(NO_ACCOUNT);
        let arn = ImageArn::new(&self.region, account, &self.name).to_string();
        BuildRequest {
            artifact,
            build_role: self.build_role.as_ref().map(|role_arn| RoleUse::new(account, role_arn)),
            base: self.base,
            memory: self.memory,
            burst: self.burst,
            environment: self.environment.iter().cloned().collect::<BTreeMap<_, _>>(),
            hooks: self.hooks.hooks(),
            all_capabilities: self.all_capabilities,
            egress: match self.egress {
                EgressName::Internet => Egress::Internet,
                EgressName::None => Egress::None,
            },
            platform: Platform {
                name: self.name.clone(),
                arn,
                version: self.version.clone(),
                region: self.region.clone(),
                account: account.to_owned(),
            },
            cache: self.cache.then(|| self.name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        build: Build,
    }

    fn parse(words: &str) -> Result<Build, clap::Error> {
        let line = format!("build --artifact s3://b/k --out image {words}");
        Line::try_parse_from(line.split_whitespace()).map(|line| line.build)
    }

    #[test]
    fn the_build_role_is_asked_for_by_the_images_account() {
        let request = |words: &str| parse(words).unwrap().request("s3://b/k".into());
        let role = "arn:aws:iam::111122223333:role/build";
        for (words, account) in [
            (String::new(), NO_ACCOUNT),
            (format!("--build-role {role}"), "111122223333"),
            (format!("--build-role {role} --account 444455556666"), "444455556666"),
            ("--build-role builder".to_owned(), NO_ACCOUNT),
        ] {
            let request = request(&words);
            assert_eq!(request.platform.account, account, "{words}");
            assert!(request.platform.arn.contains(&format!(":{account}:")), "{words}");
            assert!(request.build_role.is_none_or(|role| role.account == account), "{words}");
        }
        assert!(parse("--account 1").unwrap_err().to_string().contains("12 digits"));
    }

    #[test]
    fn what_is_not_given_has_its_default_and_a_hook_is_enabled_by_its_name() {
        assert_eq!(parse("").unwrap().memory, MemoryClass::DEFAULT);
        let hooks = parse("--ready --validate=7 --run").unwrap().hooks.hooks();
        let seconds = |hook: Option<HookSettings>| hook.map(|hook| hook.timeout_seconds);
        assert_eq!(seconds(hooks.ready), Some(60));
        assert_eq!(seconds(hooks.validate), Some(7));
        assert_eq!(seconds(hooks.run), Some(1));
        assert_eq!(seconds(hooks.suspend), None);
        assert_eq!(seconds(parse("--validate").unwrap().hooks.hooks().validate), Some(30));
        assert!(parse("--run").is_err(), "runtime hooks need /ready");
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for words in ["--memory 600", "--burst 5", "--env =x", "--env novalue"] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(words.split(' ').nth(1).unwrap()), "{error}");
        }
    }
}
