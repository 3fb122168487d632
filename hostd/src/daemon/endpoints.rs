//! The daemon's endpoints, according to the configuration.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use hearth_proto::host::v1::EndpointStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::shells::ShellAudit;
use crate::clock::Clock;
use crate::config::Config;
use crate::driver::Microvms;
use crate::driver::gate::WaitLimits;
use crate::metrics::Metrics;
use crate::proxy::dns::Dns;
use crate::proxy::tls::Tls;
use crate::proxy::{Proxy, Settings};
use crate::service::Profile;
use crate::tokens::Tokens;

/// Endpoints that are opened but do not serve yet.
pub(super) struct Endpoints {
    proxy: Proxy,
    listener: TcpListener,
    tls: Tls,
    dns: Option<Dns>,
    status: EndpointStatus,
}

impl Endpoints {
    /// Opens certificates and sockets; returns none if endpoints are disabled.
    pub(super) async fn open(
        config: &Config,
        microvms: &Microvms,
        tokens: &Tokens,
        metrics: &Metrics,
        shells: ShellAudit,
        clock: Clock,
    ) -> Result<Option<Self>> {
        let (endpoint, service) = (&config.endpoint, config.service());
        if !endpoint.enabled {
            return Ok(None);
        }
        let domain = service.endpoint_domain;
        let tls = Tls::open(endpoint, &domain, &config.data, clock)?;
        let dns = Dns::bind(endpoint, &domain, tls.challenges()).await?;
        let listener = TcpListener::bind(endpoint.address).await.with_context(|| {
            format!(
                "listening at endpoint.address, {}; end what listens there, or name another address",
                endpoint.address
            )
        })?;
        let status = EndpointStatus {
            address: listener.local_addr()?.to_string(),
            domain: domain.clone(),
            certificate_authority_pem: tls.authority_pem().unwrap_or_default().to_owned(),
        };
        let settings = Settings {
            domain,
            wait_limits: WaitLimits {
                max_waiting: usize::try_from(endpoint.held_requests).unwrap_or(usize::MAX),
                beyond_hook: endpoint.hold(),
                // AWS does not wait for a launch.
                launching: service.profile == Profile::Default,
            },
            browser_login: endpoint.browser_login,
            forwarded_for: endpoint.forwarded_for,
            connections: endpoint.connections,
            idle_connection: endpoint.idle_connection(),
            limited: endpoint.limited(service.profile),
            threads: available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let proxy =
            Proxy::new(microvms.clone(), tokens.clone(), metrics.clone(), settings).with_audit(shells);
        Ok(Some(Self { proxy, listener, tls, dns, status }))
    }

    /// The addresses at which microVMs are reached.
    pub(super) fn status(&self) -> &EndpointStatus {
        &self.status
    }

    /// Starts serving until `shutdown` is true. Returns first the task that then finishes by itself, then the tasks that
    /// have to be aborted.
    ///
    /// # Errors
    /// The serving threads cannot be started.
    pub(super) fn start(
        self,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(JoinHandle<()>, Vec<JoinHandle<()>>)> {
        let serving = self.proxy.serve(self.listener, self.tls.config(), shutdown);
        let serving = serving.context("starting the threads of endpoints")?;
        let mut background = vec![tokio::spawn(self.tls.keep_current())];
        background.extend(self.dns.map(|dns| tokio::spawn(dns.serve())));
        Ok((serving, background))
    }
}
