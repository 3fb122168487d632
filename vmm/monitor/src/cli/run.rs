//! `hearth-vmm run`: enters the jail, then serves its control socket until its machine has exited.

use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use hearth_vmm::arch::caches;
use hearth_vmm::control::monitor::Monitor;
use hearth_vmm::control::server::Server;
use hearth_vmm::machine::Host;
use hearth_vmm_api::socket::PacketListener;
use hearth_vmm_jail::{self as jail, JailConfig};

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Descriptor of the listening control socket
    #[arg(long, value_name = "FD")]
    control_fd: RawFd,

    #[command(flatten)]
    jail: JailConfig,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let caches = caches::of_host();
        let walls = jail::enter(&self.jail, self.control_fd)?;
        let host =
            Host { caches, filters: walls.filters, pagemap: Arc::new(walls.pagemap), start: walls.steps };
        let monitor = Monitor::new(host).context("starting the monitor")?;
        let server = Server::new(PacketListener::from_fd(walls.control), monitor)
            .context("serving the control socket")?;
        // The server has sent the exit reason to all controllers that wait for it; the process itself has succeeded.
        server.run().context("serving the control socket")?;
        Ok(ExitCode::SUCCESS)
    }
}
