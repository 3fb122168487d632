//! What clients reach: the API, endpoints of microVMs, the metrics server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hearth_base::Catalogue;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::service::Routes;

use super::endpoints::Endpoints;
use super::foundation::Foundation;
use super::notifications::CallNotifications;
use super::status::HostStatusSource;
use super::workloads::Workloads;
use crate::access::Access;
use crate::api::Listeners;
use crate::api::aws::AwsListener;
use crate::api::grpc::Grpc;
use crate::aside::Aside;
use crate::audit::Audit;
use crate::audit::shells::ShellAudit;
use crate::metrics::MetricsServer;
use crate::scrub::{self, Damaged, Scrub};
use crate::service::host::HostParts;
use crate::service::host::backup::Backups;
use crate::service::{self, Service};
use crate::tokens::Tokens;

/// How long the end of the daemon waits for the last lines of the audit log.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Everything that clients reach, with open sockets: nothing is served yet.
pub(super) struct Front {
    endpoints: Option<Endpoints>,
    listeners: Listeners,
    /// The listener for AWS's protocols, with what it serves.
    aws: Option<(AwsListener, Service, Arc<Access>)>,
    /// The API's Unix socket.
    socket: Option<PathBuf>,
    routes: Routes,
    metrics_server: Option<MetricsServer>,
    tokens: Tokens,
    status_source: HostStatusSource,
    scrub: Scrub,
    shutdown: watch::Receiver<bool>,
}

/// Everything that clients reach, while it is served.
pub(super) struct Serving {
    api: JoinHandle<()>,
    aws: JoinHandle<()>,
    endpoints: JoinHandle<()>,
    /// Tasks that run until they are aborted.
    background: Vec<JoinHandle<()>>,
}

/// Nothing is served any more: no client can begin anything.
pub(super) struct Closed(());

impl Front {
    /// Opens everything that clients reach. It is served until `shutdown` becomes true.
    pub(super) async fn open(
        foundation: &Foundation,
        workloads: &Workloads,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Self> {
        let Foundation { config, clock, db, events, logs, metrics, audit, .. } = foundation;
        let Workloads { roles, images, microvms, .. } = workloads;
        let tokens = Tokens::open(db, *clock, &config.region).await?;
        let access = Access::new(&config.access, &config.region)?;
        // A client that reaches the API must also reach endpoints, so endpoints are opened first.
        let shells = ShellAudit::new(audit.clone(), config.region.clone());
        let endpoints = Endpoints::open(config, microvms, &tokens, metrics, shells, *clock).await?;
        let listeners = Listeners::bind(&config.listen, &config.run, access.knows_somebody(), *clock).await?;
        let aws = AwsListener::bind(&config.aws, access.has_keys(), *clock).await?;
        let metrics_server = MetricsServer::bind(config.metrics, metrics.clone()).await?;
        let bases = Catalogue::open(&config.catalogue())?;

        let status = endpoints.as_ref().map(|endpoints| endpoints.status().clone());
        let status_source = HostStatusSource::new(foundation, workloads, status);
        let calls = CallNotifications::new(
            audit.clone(),
            config.audit.clone(),
            metrics.clone(),
            config.region.clone(),
        );
        let source = status_source.clone();
        let host = HostParts {
            logs: logs.clone(),
            events: events.clone(),
            artifacts: workloads.artifacts.clone(),
            backups: Backups::new(config.backups(), config.store.backups_kept),
            status: Box::new(move |account| source.status(account)),
            shutdown: shutdown.clone(),
        };
        let damaged = Damaged::default();
        let scrub = open_scrub(foundation, workloads, damaged.clone()).await?;
        let service = Service::new(service::Parts {
            damaged,
            db: db.clone(),
            clock: *clock,
            microvms: microvms.clone(),
            images: images.clone(),
            disk: workloads.disk.clone(),
            tokens: tokens.clone(),
            artifacts: config.artifacts(),
            roles: Arc::clone(roles),
            bases,
            host,
            observer: Arc::new(calls),
            config: config.service(),
        })
        .await?;
        let access = Arc::new(access.with_sessions(service.sessions().clone()));
        let aws = aws.map(|listener| (listener, service.clone(), Arc::clone(&access)));
        let routes = Grpc::new(service).routes(access).await?;
        let socket = config.listen.socket(&config.run);
        Ok(Self {
            endpoints,
            listeners,
            aws,
            socket,
            routes,
            metrics_server,
            tokens,
            status_source,
            scrub,
            shutdown,
        })
    }

    /// Starts to serve, and the tasks that run beside.
    pub(super) fn serve(self, foundation: &Foundation, workloads: &Workloads) -> Result<Serving> {
        let Self {
            endpoints,
            listeners,
            aws,
            socket,
            routes,
            metrics_server,
            tokens,
            status_source,
            scrub,
            shutdown,
        } = self;
        let Foundation { config, clock, db, logs, metrics, .. } = foundation;
        let logs = logs.clone();
        let artifacts = workloads.artifacts.clone();
        let kept = config.artifacts.kept_uploads();
        let aside = Aside::newest(&config.data)?;
        let mut background = vec![
            tokio::spawn(workloads.microvms.clone().keep_expiring()),
            tokio::spawn(tokens.keep_rotating(db.clone())),
            tokio::spawn(async move { logs.keep_swept().await }),
            tokio::spawn(artifacts.keep_collected(db.clone(), *clock, kept, aside)),
            tokio::spawn(
                workloads.disk.clone().keep_measured(config.data.clone(), workloads.microvms.clone()),
            ),
            tokio::spawn(status_source.keep_updating(metrics.clone())),
            tokio::spawn(scrub.keep_scrubbing()),
        ];
        background.extend(metrics_server.map(|server| tokio::spawn(server.serve())));
        let address: Option<SocketAddr> = listeners.address();
        tracing::info!(
            socket = socket.as_deref().map(Path::display).map(tracing::field::display),
            address = address.map(tracing::field::display),
            aws = aws.as_ref().and_then(|(listener, ..)| listener.address()).map(tracing::field::display),
            endpoints =
                endpoints.as_ref().map(|endpoints| tracing::field::display(&endpoints.status().address)),
            capacity_mib = workloads.capacity_mib,
            "ready"
        );
        let endpoints = match endpoints {
            Some(endpoints) => {
                let (serving, beside) = endpoints.start(shutdown.clone())?;
                background.extend(beside);
                serving
            }
            None => tokio::spawn(async {}),
        };
        let end = shutdown.clone();
        let aws = tokio::spawn(async move {
            if let Some((listener, service, access)) = aws {
                listener.serve(service, access, end).await;
            }
        });
        let api = tokio::spawn(listeners.serve(routes, shutdown));
        Ok(Serving { api, aws, endpoints, background })
    }
}

/// The scrub, with what earlier daemons have found.
async fn open_scrub(foundation: &Foundation, workloads: &Workloads, damaged: Damaged) -> Result<Scrub> {
    let Foundation { config, clock, db, events, metrics, .. } = foundation;
    let parts = scrub::Parts {
        config: config.scrub,
        data: config.data.clone(),
        run: config.run.clone(),
        vmm: config.paths.vmm.clone(),
        jail: config.jail.jail(scrub::USER_ID),
        service: config.service(),
        clock: *clock,
        db: db.clone(),
        microvms: workloads.microvms.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        damaged,
    };
    Ok(tokio::task::spawn_blocking(|| Scrub::open(parts)).await?)
}

impl Serving {
    /// Waits until calls and exchanges that are under way are complete, after `shutdown` has become true, and stops what
    /// runs beside.
    pub(super) async fn closed(self) -> Result<Closed> {
        self.api.await?;
        self.aws.await?;
        self.endpoints.await?;
        self.background.iter().for_each(JoinHandle::abort);
        Ok(Closed(()))
    }
}

impl Closed {
    /// Stops images and microVMs, which nobody can call any more; the microVMs run on by themselves.
    pub(super) async fn stop(self, workloads: Workloads, audit: &Audit) {
        let Workloads { images, microvms, platform, .. } = workloads;
        images.stop().await;
        microvms.stop().await;
        platform.shut_down().await;
        if timeout(LAST_LINES, audit.flush()).await.is_err() {
            tracing::error!("the last lines of the audit log are not written: its disk does not answer");
        }
    }
}
