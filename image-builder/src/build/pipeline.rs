//! The steps of a build, in order.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_host::network::Egress;
use hearth_host::roles::{Credentials, RoleProvider};
use hearth_proto::guest::v1 as proto;
use hearth_vmm_api::scrub::files_of;
use hearth_vmm_api::snapshot::bulk::Bulk;
use hearth_vmm_api::snapshot::folder::{IMAGE_SNAPSHOT, MEMORY, STATE, WORKING_SET};
use hearth_vmm_api::snapshot::sums::{FileSums, SUMS, Sums};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::container::{self, Container};
use super::error::{BuildError, file};
use super::event::{Event, Sink, Step};
use super::request::BuildRequest;
use super::settings::Settings;
use super::stage::Host;
use super::workspace::{ARTIFACT, Workspace, sweep};
use super::{snapshot, validate};
use crate::artifact::{Artifact, Fetcher, Progress};
use crate::failure::FailureCode;
use crate::image::{BaseOrigin, DISK, Image, MANIFEST, Manifest, Origin, SNAPSHOT, Sizes, allocated};
use hearth_base::{Base, Catalogue};

/// Builds images on this host.
#[derive(Debug)]
pub struct Builder {
    settings: Arc<Settings>,
    fetcher: Fetcher,
    roles: Arc<RoleProvider>,
}

impl Builder {
    /// Prepares the host for builds, and removes what killed builds have left. Blocks for a moment.
    ///
    /// # Errors
    /// The host lacks a tool or privilege, or a folder cannot be used.
    pub fn open(settings: Settings, fetcher: Fetcher, roles: Arc<RoleProvider>) -> Result<Self, BuildError> {
        sweep(&settings.work)?;
        Ok(Self { settings: Arc::new(settings), fetcher, roles })
    }

    /// Builds an image into the folder `out`, which appears as a whole or not at all. Terminates early when `cancel` completes.
    ///
    /// # Errors
    /// [`BuildError`]; leftovers, if any, are removed by the next [`Self::open`].
    pub async fn build(
        &self,
        request: &BuildRequest,
        out: &Path,
        sink: Sink,
        cancel: impl Future<Output = ()>,
    ) -> Result<Image, BuildError> {
        if out.symlink_metadata().is_ok() {
            return Err(BuildError::Occupied(out.to_owned()));
        }
        let limit = self.settings.builder.time;
        tokio::select! {
            built = tokio::time::timeout(limit, self.run(request, out, sink)) => built.unwrap_or_else(|_| {
                let detail = format!("It took longer than {} s.", limit.as_secs());
                Err(BuildError::explained(FailureCode::ContainerBuildFailed, &detail))
            }),
            () = cancel => Err(BuildError::Cancelled),
        }
    }

    async fn run(&self, request: &BuildRequest, out: &Path, sink: Sink) -> Result<Image, BuildError> {
        let base = self.base(request)?;
        let workspace = Workspace::create(&self.settings.work, &request.platform.account)?;
        let credentials = credentials(&self.roles, request).await?;
        let artifact =
            sink.step(Step::Fetch, self.fetch(request, &workspace, credentials.as_ref(), &sink)).await?;
        let host = self.host(request.egress, &request.platform.account, sink.clone());
        let folder = workspace.path("image");
        fs::create_dir(&folder).map_err(file("making", &folder))?;
        let (disk, taken) = (folder.join(DISK), folder.join(SNAPSHOT));
        let granted = credentials.map(grant);
        let container = container::Job {
            host: &host,
            workspace: &workspace,
            request,
            base: &base,
            fetcher: &self.fetcher,
            artifact: &artifact,
            credentials: granted.clone(),
            disk: &disk,
        };
        let container = container.run().await?;
        sink.send(Event::CodeInstalled { bytes: container.code_bytes });
        let job = snapshot::Job {
            host: &host,
            workspace: &workspace,
            request,
            base: &base,
            app: &container.app,
            credentials: granted.clone(),
            disk: &disk,
            snapshot: &taken,
        };
        job.run().await?;
        let image = describe(&folder, request, &base, &artifact, container, &taken)?;
        sink.step(Step::Validate, validate::run(&host, &workspace, request, &image, granted)).await?;
        sink.step(Step::Commit, commit(folder, out)).await?;
        Image::open(out).map_err(|error| BuildError::Platform(error.to_string()))
    }

    /// The common part of all microVMs of a build.
    pub(super) fn host(&self, egress: Egress, account: &str, sink: Sink) -> Host {
        Host { settings: Arc::clone(&self.settings), egress, account: account.to_owned(), sink }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn base(&self, request: &BuildRequest) -> Result<Base, BuildError> {
        let catalogue = Catalogue::open(&self.settings.catalogue);
        let base = catalogue.and_then(|catalogue| match request.base {
            Some(version) => catalogue.get(version),
            None => catalogue.latest(),
        });
        let base = base.map_err(|error| BuildError::Platform(error.to_string()))?;
        // Only the operator can mend it, and learns of it from whoever builds.
        base.builds()
            .map_err(|error| BuildError::explained(FailureCode::InternalPlatformError, &error.to_string()))?;
        Ok(base)
    }

    async fn fetch(
        &self,
        request: &BuildRequest,
        workspace: &Workspace,
        credentials: Option<&Credentials>,
        sink: &Sink,
    ) -> Result<Artifact, BuildError> {
        let account = &request.platform.account;
        let source = self
            .fetcher
            .source(&request.artifact, account)
            .map_err(|error| BuildError::failed(error.failure(), error.to_string()))?;
        let folder = workspace.path(ARTIFACT);
        fs::create_dir(&folder).map_err(file("making", &folder))?;
        let on_progress = |progress: Progress| {
            if let Progress::Fetching { bytes, total } = progress {
                sink.send(Event::Fetched { bytes, total });
            }
        };
        let fetched = self.fetcher.fetch(&source, account, credentials, &folder, &on_progress).await;
        fetched.map_err(|error| BuildError::failed(error.state_reason(), error.to_string()))
    }
}

/// The build role's credentials, if it has any. A role that the account may not use fails the build, even if the request was
/// accepted before.
async fn credentials(
    roles: &RoleProvider,
    request: &BuildRequest,
) -> Result<Option<Credentials>, BuildError> {
    let Some(role) = &request.build_role else { return Ok(None) };
    roles.credentials(role).await.map_err(|error| {
        if error.is_refusal() {
            return BuildError::failed(FailureCode::S3AccessDenied, error.to_string());
        }
        BuildError::Platform(error.to_string())
    })
}

/// Converts credentials to those that the guest's metadata service serves.
fn grant(credentials: Credentials) -> proto::Credentials {
    proto::Credentials {
        access_key_id: credentials.access_key_id,
        secret_access_key: credentials.secret_access_key.expose().to_owned(),
        session_token: credentials.session_token.map(|token| token.expose().to_owned()).unwrap_or_default(),
        last_updated: seconds(credentials.last_updated),
        expiration: seconds(credentials.expiration),
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes `image.json`.
fn describe(
    folder: &Path,
    request: &BuildRequest,
    base: &Base,
    artifact: &Artifact,
    container: Container,
    snapshot: &Path,
) -> Result<Image, BuildError> {
    let size = |name: &str| {
        let path = snapshot.join(name);
        allocated(&path).map_err(file("looking at", &path))
    };
    let digest = match artifact {
        Artifact::Zip { sha256, .. } => format!("sha256:{sha256}"),
        Artifact::Image { digest, .. } => digest.clone(),
    };
    let manifest = Manifest {
        format: Manifest::FORMAT,
        app: container.app,
        hooks: request.hooks,
        all_capabilities: request.all_capabilities,
        memory: request.memory,
        shape: request.memory.shape(request.burst),
        network: request.egress != Egress::None,
        disk_bytes: request.memory.disk_bytes(),
        sizes: Sizes {
            memory_snapshot_size_in_bytes: size("memory")?,
            code_install_size_in_bytes: container.code_bytes,
            disk_snapshot_size_in_bytes: size("disk0")?,
        },
        origin: Origin {
            artifact: request.artifact.clone(),
            digest,
            base: BaseOrigin { version: base.version, digest: base.manifest.inputs_sha256.clone() },
            builder: env!("CARGO_PKG_VERSION").to_owned(),
        },
    };
    let path = folder.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| BuildError::Platform(format!("writing {MANIFEST}: {error}")))?;
    fs::write(&path, text + "\n").map_err(file("writing", &path))?;
    Image::open(folder).map_err(|error| BuildError::Platform(error.to_string()))
}

/// Makes the image durable and gives it its name.
async fn commit(folder: std::path::PathBuf, out: &Path) -> Result<(), BuildError> {
    let out = out.to_owned();
    let committed = spawn_blocking(move || -> Result<(), BuildError> {
        let sync = |path: &Path| {
            File::open(path).and_then(|opened| opened.sync_all()).map_err(file("syncing", path))
        };
        make_sums(&folder)?;
        // The snapshot's folder is durable already, except for its working set.
        for name in [DISK, MANIFEST, SNAPSHOT, SUMS, ""] {
            sync(&folder.join(name))?;
        }
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        rename_new(&folder, &out)?;
        sync(parent)
    });
    committed.await?
}

/// Makes checksums of all files that have none of their own, from the page cache: as they were meant. Nothing of them is parsed.
fn make_sums(folder: &Path) -> Result<(), BuildError> {
    let own = [STATE, MEMORY, WORKING_SET].map(|name| format!("{IMAGE_SNAPSHOT}{name}"));
    let mut sums = Sums::default();
    for (name, opened) in files_of(folder).map_err(file("looking into", folder))? {
        if own.contains(&name) {
            continue;
        }
        let made = FileSums::make(&opened, &name, &mut Bulk::through_cache(&mut |_| Ok(())));
        let made = made.map_err(|error| BuildError::Platform(format!("making checksums: {error}")))?;
        sums.files.insert(name, made);
    }
    let path = folder.join(SUMS);
    fs::write(&path, sums.encode()).map_err(file("writing", &path))
}

/// Renames `from` to `to`, which must not exist; never replaces anything.
fn rename_new(from: &Path, to: &Path) -> Result<(), BuildError> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(BuildError::Occupied(to.to_owned())),
        Err(Errno::XDEV) => Err(BuildError::Platform(format!(
            "{} is on another file system than the work folder {}: put both on one",
            to.display(),
            from.display()
        ))),
        Err(error) => Err(file("naming", to)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use hearth_host::roles::RolesConfig;
    use hearth_model::role::{RoleUse, role_arn};
    use hearth_model::shape::{Burst, MemoryClass};

    use super::*;
    use crate::build::Platform;

    fn request(build_role: Option<RoleUse>) -> BuildRequest {
        BuildRequest {
            artifact: "s3://bucket/app.zip".into(),
            build_role,
            base: None,
            memory: MemoryClass::DEFAULT,
            burst: Burst::NONE,
            environment: [].into(),
            hooks: hearth_model::hooks::Hooks::default(),
            all_capabilities: false,
            egress: Egress::Internet,
            platform: Platform {
                name: "app".into(),
                arn: "arn:aws:lambda:eu-west-1:222222222222:microvm-image:app".into(),
                version: "1.0".into(),
                region: "eu-west-1".into(),
                account: "222222222222".into(),
            },
            cache: None,
        }
    }

    #[tokio::test]
    async fn a_build_gets_its_own_accounts_role_and_fails_with_anothers() {
        let config: RolesConfig = serde_json::from_str(
            r#"{"rules": {"arn:aws:iam::*": {"static": {"access_key_id": "AKIA", "secret_access_key": "s"}}}}"#,
        )
        .unwrap();
        let roles = RoleProvider::new(config).unwrap();
        let of = |account: &str| Some(RoleUse::new("222222222222", role_arn(account, "b")));
        assert_eq!(credentials(&roles, &request(None)).await.unwrap(), None);
        let own = credentials(&roles, &request(of("222222222222"))).await.unwrap().unwrap();
        assert_eq!(own.access_key_id, "AKIA");
        let error = credentials(&roles, &request(of("111111111111"))).await.unwrap_err();
        assert_eq!(error.state_reason(), FailureCode::S3AccessDenied.sentence(), "the user can mend it");
        assert!(error.to_string().contains("the account 222222222222 may not use the role"), "{error}");
    }

    #[test]
    fn an_image_has_checksums_of_every_file_without_any_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(SNAPSHOT)).unwrap();
        for name in
            [DISK, MANIFEST, "snapshot/state", "snapshot/memory", "snapshot/working-set", "snapshot/disk0"]
        {
            fs::write(folder.path().join(name), name).unwrap();
        }
        make_sums(folder.path()).unwrap();
        let sums = Sums::read(&File::open(folder.path().join(SUMS)).unwrap(), SUMS).unwrap();
        assert!(sums.files.keys().eq([DISK, MANIFEST, "snapshot/disk0"]), "{:?}", sums.files.keys());
        let disk = File::open(folder.path().join(DISK)).unwrap();
        let mut quiet = |_| Ok(());
        assert_eq!(sums.files[DISK].check(&disk, DISK, &mut Bulk::from_disk(&mut quiet)).unwrap(), 4);
    }

    #[test]
    fn an_image_never_replaces_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        assert!(matches!(rename_new(&from, &to), Err(BuildError::Occupied(_))));
        fs::remove_dir(&to).unwrap();
        rename_new(&from, &to).unwrap();
        assert!(to.is_dir() && !from.exists());
    }
}
