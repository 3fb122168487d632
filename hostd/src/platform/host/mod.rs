//! The platform of this host: its monitor processes, networks and files.
//!
//! ```text
//!                 pool: monitors (started, jailed, with a VM), networks
//!                   │
//!   launch, resume ─┴─► claimed ─► restored ─► identified ─► served ────────► suspend ─► folder
//!                                                             │     ▲
//!                                          daemon exit or kill│     │find: adopted
//!                                                             ▼     │
//!                                                       it runs by itself
//! ```
//!
//! A monitor has a session of its own and outlives the daemon. All that a later daemon needs is recorded in the
//! monitor's run directory before it matters; that directory gets the microVM's name in one step, and from then on
//! everything that belongs to the microVM is found by its id. Removal proceeds in the opposite order: the records go
//! last.
//!
//! * [`config`] – the operator's settings; `layout` – paths of files; `record` – records in run directories
//! * `monitors`, `links` – monitor processes and networks before they have a microVM; `names` – user ids and names in use
//! * `attempts`, `exclusive` – keep an attempt that was given up from disturbing a later one
//! * `make` – makes a microVM from its image or its suspended state; `identity` – the identity that a guest receives
//! * `room` – room on the disk for a running microVM
//! * `running` – a running microVM; [`logs`] with its `backlog`, `dns`, `exit` – tasks that serve it; `phase` – whether its exit is
//!   reported
//! * `guest` – what a driver asks of a running microVM; `hooks` – calls of hooks; `suspend` – saves it
//! * `find`, `reconcile` – find what an earlier daemon has left; `remove` – terminates and removes microVMs
//! * [`timeline`] – how long each step took

mod attempts;
mod backlog;
pub mod config;
mod dns;
mod error;
mod exclusive;
mod exit;
mod find;
mod guest;
mod hooks;
mod identity;
mod layout;
mod links;
pub mod logs;

mod make;
mod monitors;
mod names;
mod phase;
mod reconcile;
mod record;
mod remove;
mod restoration;
mod room;
mod running;
mod suspend;
pub mod timeline;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use hearth_host::dns::Resolvers;
use hearth_host::groups::{Groups, GroupsError};
use hearth_host::network::{ConnectionLimits, Egress, NetworkConfig, NetworkError, Networks};
use hearth_host::roles::RoleProvider;
use hearth_image_builder::build::UserIds;
use hearth_image_builder::image::Image;
use hearth_model::build::ImageBuild;
use hearth_model::id::MicrovmId;
use tokio::task::spawn_blocking;

pub use config::HostConfig;
pub use error::HostError;
pub use logs::{LogSink, LogWriter};
pub use timeline::{OperationReport, TimedOperation, Timeline, TimelineObserver};

use super::{Found, Guest, Platform, PlatformError, Spec};
use crate::aside::Aside;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::panics::poisoned;
use crate::pool::{Count, Stock};
use crate::setting::Problem;
use attempts::Attempts;
use error::failed;
use exclusive::Exclusive;
use layout::{Layout, remove_folder};
use names::InUse;
use record::{MonitorRecord, Record as _, RunRecord};
use restoration::Restoration;
use running::RunningMicrovm;

/// Why microVMs cannot be made on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] Problem),
    /// A folder cannot be made.
    #[error("making {path}: {source}")]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The monitor's program is missing.
    #[error("{path} is not the program hearth-vmm: {source}; configure where it is (vmm)")]
    Program {
        /// The configured path.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Control groups cannot be made.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// Networks cannot be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Remains of an earlier daemon cannot be read or removed.
    #[error("what an earlier run has left: {0}")]
    Leftovers(#[source] HostError),
}

/// The other parts of the daemon that the platform uses.
#[derive(Debug, Clone)]
pub struct PlatformParts {
    /// The provider of roles' credentials.
    pub roles: Arc<RoleProvider>,
    /// The destination of output.
    pub logs: Arc<dyn LogSink>,
    /// The source of the current time.
    pub clock: Clock,
    /// Receives the durations of operations.
    pub observer: TimelineObserver,
    /// Room on the disk, which running microVMs get in steps.
    pub disk: Disk,
}

/// The microVMs of this host. Clones are cheap and share the same host.
#[derive(Debug, Clone)]
pub struct HostPlatform {
    host: Arc<Host>,
}

/// The shared state of the platform.
struct Host {
    config: HostConfig,
    layout: Layout,
    groups: Groups,
    in_use: Arc<InUse>,
    networks: Arc<Networks>,
    resolvers: Resolvers,
    roles: Arc<RoleProvider>,
    logs: Arc<dyn LogSink>,
    clock: Clock,
    observer: TimelineObserver,
    monitors: Stock<monitors::MonitorShape, monitors::Monitor>,
    monitor_factory: monitors::MonitorFactory,
    links: Stock<links::LinkKind, links::Link>,
    link_factory: links::LinkFactory,
    /// Running microVMs that are being served, by id.
    live: Mutex<HashMap<MicrovmId, Arc<RunningMicrovm>>>,
    /// Run directories that are being removed.
    ending: Exclusive,
    /// Folders of microVMs that are being made, saved or removed.
    making: Exclusive,
    attempts: Attempts,
    disk: Disk,
    restoration: Restoration,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl HostPlatform {
    /// Prepares the host for microVMs, and kills what an earlier daemon had in its pool. Running microVMs are left
    /// alone, to be [found](Platform::find) or [swept away](Platform::sweep).
    ///
    /// # Errors
    /// What the host lacks, or the problem in the configuration.
    pub async fn open(config: HostConfig, surroundings: PlatformParts) -> Result<Self, OpenError> {
        let opened = spawn_blocking(move || Host::open(config, surroundings)).await;
        let host = Arc::new(opened.map_err(|error| OpenError::Leftovers(error.into()))??);
        host.refill();
        Ok(Self { host })
    }

    /// Numbers of monitors and networks that are ready in the pools.
    #[must_use]
    pub fn pools(&self) -> Vec<Count> {
        [self.host.monitors.counts(), self.host.links.counts()].concat()
    }

    /// Control groups for microVMs that others make on this host.
    #[must_use]
    pub fn groups(&self) -> Groups {
        self.host.groups.clone()
    }

    /// User ids for microVMs that others make on this host.
    #[must_use]
    pub fn user_ids(&self) -> Arc<dyn UserIds> {
        Arc::clone(&self.host.in_use) as _
    }

    /// The networks and the resolvers of this host, for other guests of the same accounts.
    #[must_use]
    pub fn network(&self) -> (Arc<Networks>, Resolvers) {
        (Arc::clone(&self.host.networks), self.host.resolvers.clone())
    }

    /// Stops serving the microVMs, which run on, and kills the monitors in the pool. The platform must not be used
    /// afterwards.
    pub async fn shut_down(&self) {
        let live: Vec<Arc<RunningMicrovm>> = self.host.lock().drain().map(|(_, microvm)| microvm).collect();
        live.iter().for_each(|microvm| microvm.stop_serving());
        let (monitors, links) = (self.host.monitors.close().await, self.host.links.close().await);
        // Dropping each of them takes a moment.
        let _ = spawn_blocking(move || drop((monitors, links))).await;
    }
}

impl Host {
    fn open(config: HostConfig, surroundings: PlatformParts) -> Result<Self, OpenError> {
        config.check()?;
        let layout = Layout::new(&config.data, &config.run);
        layout.make().map_err(|(path, source)| OpenError::Folder { path, source })?;
        let program = std::fs::metadata(&config.vmm);
        program.map_err(|source| OpenError::Program { path: config.vmm.clone(), source })?;
        let groups = Groups::open(&config.cgroup, layout::PREFIX, &config.data)?;
        groups.missing().iter().for_each(|missing| tracing::info!("{missing}"));
        let networks = Arc::new(Networks::open(config.network.clone(), Some(config.accounts))?);
        tell_limits(networks.limits(), &config.network);
        let in_use = Arc::new(InUse::new(config.jail.first_uid, config.jail.uids));
        let monitor_factory = monitors::MonitorFactory {
            vmm: config.vmm.clone(),
            jail: config.jail.clone(),
            groups: groups.clone(),
            in_use: Arc::clone(&in_use),
            pool: layout.pool(),
        };
        let link_factory =
            links::LinkFactory { networks: Arc::clone(&networks), in_use: Arc::clone(&in_use) };
        let pool = config.pool;
        let monitors = {
            let maker = monitor_factory.clone();
            Stock::new("monitors", (pool.monitors, pool.shapes, pool.refill), move |kind| {
                Ok(maker.make(kind)?)
            })
        };
        let links = {
            let maker = link_factory.clone();
            Stock::new("networks", (pool.networks, 2, pool.refill), move |kind| Ok(maker.make(kind)?))
        };
        links.want(links::LinkKind(Egress::Internet));
        let resolvers = Resolvers::new(config.dns.clone());
        let PlatformParts { roles, logs, clock, observer, disk } = surroundings;
        let (live, ending, making) = (Mutex::default(), Exclusive::default(), Exclusive::default());
        let host = Self {
            config,
            layout,
            groups,
            in_use,
            networks,
            resolvers,
            roles,
            logs,
            clock,
            observer,
            monitors,
            monitor_factory,
            links,
            link_factory,
            live,
            ending,
            making,
            attempts: Attempts::default(),
            disk,
            restoration: Restoration::default(),
        };
        host.recover().map_err(OpenError::Leftovers)?;
        Ok(host)
    }

    /// Records the user ids and networks of existing microVMs, and removes those that belong to none.
    fn recover(&self) -> Result<(), HostError> {
        let runs = self.layout.runs();
        for name in layout::names(&runs).map_err(failed("reading", &runs))? {
            let folder = runs.join(name);
            let reading = || failed("reading the records in", &folder);
            if let Some(record) = MonitorRecord::read(&folder).map_err(reading())? {
                self.in_use.adopt_uid(record.uid);
            }
            if let Some(network) = RunRecord::read(&folder).map_err(reading())?.and_then(|it| it.network) {
                self.in_use.adopt_network(&network);
            }
        }
        self.sweep_host()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MicrovmId, Arc<RunningMicrovm>>> {
        self.live.lock().unwrap_or_else(poisoned)
    }

    fn known(&self, id: &MicrovmId) -> Option<Arc<RunningMicrovm>> {
        self.lock().get(id).cloned()
    }

    fn remember(&self, microvm: &Arc<RunningMicrovm>) {
        self.lock().insert(microvm.spec.id.clone(), Arc::clone(microvm));
    }

    fn forget(&self, id: &MicrovmId) -> Option<Arc<RunningMicrovm>> {
        self.lock().remove(id)
    }

    fn refill(&self) {
        self.monitors.refill();
        self.links.refill();
    }
}

/// Says how many connections an account and a guest may have, and what to do where the table is too small for what is configured.
fn tell_limits(limits: &ConnectionLimits, config: &NetworkConfig) {
    let ConnectionLimits { table, connections, rate, guest_connections, guest_rate, .. } = *limits;
    if limits.are_tight(config) {
        tracing::warn!(
            table,
            connections,
            rate,
            guest_connections,
            guest_rate,
            "the host's table of connections is small: a guest may have fewer connections at once, or open fewer per second, than \
             network.connections and network.connection_rate say, since its account has no more; make the table larger with \
             `sysctl -w net.netfilter.nf_conntrack_max=ENTRIES` and a restart of hearthd, or accounts' parts of it with network.account_share"
        );
    } else {
        tracing::info!(
            table,
            connections,
            rate,
            "connections that each account may have at once, and open per second"
        );
    }
}

#[async_trait]
impl Platform for HostPlatform {
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        Ok(self.host.make(spec, 0).await?)
    }

    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        if spec.suspends == 0 {
            return Err(HostError::NeverSuspended(spec.id.clone()).into());
        }
        Ok(self.host.make(spec, spec.suspends).await?)
    }

    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError> {
        Ok(self.host.reconcile(spec, suspends).await?)
    }

    async fn discard(&self, id: &MicrovmId) -> Result<(), PlatformError> {
        let mut timeline = Timeline::start();
        let removed = self.host.remove(id).await;
        timeline.done("remove");
        let (operation, succeeded) = (TimedOperation::Discard, removed.is_ok());
        self.host.observer.notify(&OperationReport {
            operation,
            microvm: id,
            succeeded,
            timeline: &timeline,
        });
        Ok(removed?)
    }

    async fn remove_build(&self, build: &ImageBuild) -> Result<(), PlatformError> {
        let folder = self.host.layout.build(build);
        let removed = spawn_blocking(move || remove_folder(&folder).map_err(failed("removing", &folder)));
        Ok(removed.await.map_err(HostError::from)??)
    }

    async fn sweep(
        &self,
        microvms: &HashSet<MicrovmId>,
        builds: &HashSet<ImageBuild>,
    ) -> Result<(), PlatformError> {
        let data = self.host.layout.data();
        // After a restoration of the store what it does not know is not removed.
        let aside = Aside::pending(data).map_err(failed("reading what is set aside in", data))?;
        for name in self.host.all()? {
            match name.parse::<MicrovmId>() {
                Ok(id) if microvms.contains(&id) => {}
                Ok(id) => {
                    tracing::info!(microvm = %id, "removed: nobody knows it");
                    self.host.discard(&id, aside.clone()).await?;
                }
                Err(error) => tracing::warn!(%error, "a folder of the host's microVMs is left alone"),
            }
        }
        let (host, builds, microvms) = (Arc::clone(&self.host), builds.clone(), microvms.clone());
        let swept = spawn_blocking(move || {
            host.sweep_host()?;
            host.sweep_builds(&builds, aside.as_ref())?;
            if let Some(aside) = aside {
                // What is known can be newer than what is known of it.
                let with_files = microvms.into_iter().filter(|id| host.layout.microvm(id).state.exists());
                let folder = aside.folder().to_owned();
                let begun = host.restoration.begin(aside, with_files.collect());
                begun.map_err(failed("writing", &folder))?;
            }
            // New microVMs will be launched from these images: the pool prepares monitors for their shapes.
            for folder in builds.iter().map(|build| host.layout.build(build)) {
                if let Ok(image) = Image::open(&folder) {
                    host.monitors.want(image.manifest().shape.into());
                }
            }
            Ok::<_, HostError>(())
        });
        swept.await.map_err(HostError::from)??;
        self.host.refill();
        Ok(())
    }
}
