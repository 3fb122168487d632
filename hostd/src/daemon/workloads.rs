//! Images and microVMs, and what makes them: platform and image builder.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use hearth_host::roles::RoleProvider;
use hearth_image_builder::artifact::{Fetcher, WorkerConfig};
use hearth_image_builder::build::settings::{AppLimits, BuilderLimits};
use hearth_image_builder::build::{Builder, Settings as BuilderSettings, sweep};
use hearth_model::shape::Burst;

use super::LOCAL_BUCKET;
use super::foundation::Foundation;
use super::host_info::SupportedHost;
use super::notifications::{self, MicrovmNotifications};
use crate::aside::Aside;
use crate::builds::{self, Images, generation};
use crate::config::Config;
use crate::disk::Disk;
use crate::driver::{Capacity, DriverConfig, Microvms};
use crate::lifecycle::microvm::Rules;
use crate::platform::Platform;
use crate::platform::host::{HostPlatform, PlatformParts};
use crate::service::Profile;
use crate::service::host::artifacts::Artifacts;
use crate::store::Db;

/// Images and microVMs whose state is that of the store: clients may see them.
pub(super) struct Workloads {
    pub(super) host: SupportedHost,
    /// The only role provider of the daemon, so that credentials of roles are cached once.
    pub(super) roles: Arc<RoleProvider>,
    pub(super) platform: HostPlatform,
    pub(super) images: Images,
    pub(super) microvms: Microvms,
    pub(super) disk: Disk,
    /// The local bucket, from which images are built.
    pub(super) artifacts: Artifacts,
    /// Memory that microVMs may have together, in MiB.
    pub(super) capacity_mib: u64,
}

/// Images and microVMs that are not known yet. They have to be recovered before a client may see them.
pub(super) struct Unrecovered(Workloads);

impl Workloads {
    /// Opens platform and builder.
    pub(super) async fn open(foundation: &Foundation, host: SupportedHost) -> Result<Unrecovered> {
        let Foundation { config, clock, db, events, faults, metrics, output, .. } = foundation;
        let roles = Arc::new(RoleProvider::new(config.roles.clone())?);
        // What killed builds have left goes first: their user ids are free for microVMs then.
        sweep_builds(config).await?;
        let service = config.service();
        let disk = Disk::of(
            &config.data,
            config.disk.for_accounts(config.accounts().len()),
            service.limits.disk_mib,
        )
        .with_context(|| format!("asking the file system of {}", config.data.display()))?;
        // The platform prepares the networks of the host; the builder uses them, too, and removes what its own microVMs have left.
        let parts = PlatformParts {
            roles: Arc::clone(&roles),
            logs: Arc::clone(output) as _,
            clock: *clock,
            observer: notifications::timelines(metrics),
            disk: disk.clone(),
        };
        let platform = HostPlatform::open(config.host(), parts).await?;
        let artifacts = open_artifacts(config, db, disk.clone()).await?;
        let capacity_mib = config.capacity_mib.unwrap_or_else(|| host.memory_mib() / 10 * 9);
        let (capacity, limits) = (Capacity::new(capacity_mib), config.builder.limits_on(capacity_mib));
        let builder = open_builder(config, limits, &artifacts, &platform, Arc::clone(&roles)).await?;
        let shared = Arc::new(platform.clone()) as Arc<dyn Platform>;

        let images = Images::new(builds::Parts {
            disk: disk.clone(),
            capacity: capacity.clone(),
            db: db.clone(),
            clock: *clock,
            events: events.clone(),
            platform: Arc::clone(&shared),
            build: Arc::new(builds::builder::ImageBuilder::new(builder, config.data.join("images"))),
            observer: Arc::clone(output) as _,
            faults: faults.clone(),
            settings: builds::Settings {
                region: config.region.clone(),
                burst: Burst::try_from(config.burst)?,
                generation: generation::of_host().to_owned(),
                concurrent_builds: config.builder.concurrent,
                max_images: service.limits.images,
                max_versions: service.limits.versions,
                max_builds: service.limits.builds,
                limits,
                details: service.profile != Profile::AwsStrict,
            },
        });
        let rules = match service.profile {
            Profile::Default => Rules::default(),
            Profile::AwsStrict => Rules::AWS_STRICT,
        };
        let driver = DriverConfig {
            max_memory_mib: service.limits.memory_mib,
            rules,
            retention: config.terminated_retention(),
            drain: config.endpoint.drain(),
            deadlines: config.deadlines(),
        };
        let observer = MicrovmNotifications::new(events.clone(), metrics.clone(), images.clone(), *clock);
        let microvms =
            Microvms::new(driver, capacity, db.clone(), *clock, shared, Arc::new(observer), faults.clone());
        Ok(Unrecovered(Self { host, roles, platform, images, microvms, disk, artifacts, capacity_mib }))
    }
}

impl Unrecovered {
    /// Continues what earlier daemons have left, and removes what belongs to nothing.
    pub(super) async fn recover(self) -> Result<Workloads> {
        let Self(workloads) = self;
        workloads.microvms.recover(workloads.images.stored_builds()?).await?;
        workloads.images.recover().await?;
        Ok(workloads)
    }
}

/// The local bucket, with what images refer to.
async fn open_artifacts(config: &Config, db: &Db, disk: Disk) -> Result<Artifacts> {
    let bucket = config.data.join("buckets").join(LOCAL_BUCKET);
    let (folder, db, max_bytes) = (bucket.clone(), db.clone(), config.artifacts.limits.max_zip_bytes);
    let aside = Aside::newest(&config.data)?;
    let only = config.only_account();
    let open = move || -> Result<Artifacts> {
        let artifacts = Artifacts::open(LOCAL_BUCKET, &folder, max_bytes, disk)?;
        let adopted = artifacts.adopt(&artifacts.referred(&db)?, only.as_deref(), aside.as_ref())?;
        if adopted.given > 0 {
            tracing::info!(
                adopted.given,
                "artifacts of an earlier release were given to the accounts that use them"
            );
        }
        if adopted.left > 0 {
            tracing::warn!(
                adopted.left,
                folder = %folder.display(),
                "artifacts of an earlier release belong to nobody: no image refers to them, and there are several accounts; \
                 keep or remove the files"
            );
        }
        Ok(artifacts)
    };
    let opened = tokio::task::spawn_blocking(open).await?;
    opened.with_context(|| format!("opening the bucket {}", bucket.display()))
}

/// Ends and removes what killed builds have left.
async fn sweep_builds(config: &Config) -> Result<()> {
    let work = config.work();
    std::fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    // Sweeping blocks: it ends processes, and uses netlink.
    let swept = tokio::task::spawn_blocking(move || sweep(&work)).await??;
    if swept > 0 {
        tracing::info!(swept, "what killed builds had left is removed");
    }
    Ok(())
}

/// The image builder with this host's folders, networks, user ids and control groups.
async fn open_builder(
    config: &Config,
    limits: BuilderLimits,
    artifacts: &Artifacts,
    platform: &HostPlatform,
    roles: Arc<RoleProvider>,
) -> Result<Builder> {
    // Connections and queries of a build are those of its account.
    let (networks, resolvers) = platform.network();
    let settings = BuilderSettings {
        vmm: config.paths.vmm.clone(),
        catalogue: config.catalogue(),
        work: config.work(),
        jail: config.jail.jail(config.jail.first_uid),
        user_ids: platform.user_ids(),
        groups: platform.groups(),
        networks,
        resolvers,
        limits: config.limits,
        builder: limits,
        app: match Profile::from(config.profile) {
            Profile::Default => AppLimits::Docker,
            Profile::AwsStrict => AppLimits::Aws,
        },
        // The configuration was checked.
        registry_mirrors: config.builder.mirrors().filter_map(Result::ok).collect(),
    };
    if ["https_proxy", "HTTPS_PROXY"].iter().any(|name| std::env::var_os(name).is_some()) {
        tracing::warn!("HTTPS_PROXY is set: fetches of artifacts do not use it");
    }
    let worker = WorkerConfig {
        jail: settings.jail.clone(),
        network: config.network.clone(),
        processor_seconds: config.builder.time_seconds,
        ..WorkerConfig::default()
    };
    let fetcher =
        Fetcher::new(config.artifacts())?.with_local(Arc::new(artifacts.clone())).with_worker(worker);
    // Opening the builder blocks: it uses netlink and nft.
    Ok(tokio::task::spawn_blocking(move || Builder::open(settings, fetcher, roles)).await??)
}
