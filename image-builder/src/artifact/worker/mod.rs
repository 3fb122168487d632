//! The worker: a process of its own for each fetch, in which everything that strangers made is received and parsed.
//!
//! ```text
//!  daemon (root)                                        worker (own user, no files, no network)
//!  opens files, knows the configuration ── task, files ──► parses archives, manifests, answers; TLS
//!  resolves, checks, connects           ◄── to where? ──
//!                                       ── connection ──►
//!  bounds what it is told               ◄── progress, facts
//! ```
//!
//! The program is the same (`hearthd fetch-worker`, `hearth-image-builder fetch-worker`), started anew for each fetch and for each archive that
//! goes into a builder microVM. It enters the monitors' jail as a helper ([`hearth_vmm_jail::enter_helper`]) before it receives its task: it
//! has a user id of its own, an empty root, an empty network namespace, limits of memory, time and file sizes, and dies with the thread that
//! started it. What it works with comes as descriptors: the file to write, the archive to read, connections.
//!
//! Connections are made by the daemon ([`broker`]), which applies the rules of guests' networks to the address that a name leads to,
//! and connects to that very address. So the rules hold for redirects and realms of tokens alike, also when a stranger's answer has taken
//! the worker over. The daemon parses nothing of what servers send: it reads [`protocol::Report`]s, which are bounded.
//!
//! * [`protocol`] – what the two say to each other
//! * [`launch`] – the daemon's side: start, progress, end
//! * [`broker`] – connections, where they are allowed
//! * [`process`] – the worker's side

mod broker;
mod launch;
mod process;
mod protocol;

use std::path::PathBuf;
use std::time::Duration;

use hearth_host::network::NetworkConfig;
use hearth_vmm_jail::JailConfig;

pub(super) use broker::{Named, Origin};
pub(super) use launch::{Job, run};
pub(super) use process::Link;
pub use process::{WORKER_IDS, WorkerArguments};
pub(super) use protocol::{Answer, Facts, ImageTask, ObjectKeys, ObjectTask, Task};

/// How workers are started.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// A program with the command `fetch-worker` ([`WorkerArguments`]); this program unless set.
    pub program: PathBuf,
    /// The walls around a worker. User, group, root, size of files and control group are the worker's own, whatever is here.
    pub jail: JailConfig,
    /// The network rules of guests, which connections of a worker obey.
    pub network: NetworkConfig,
    /// Longest time in which a worker that fetches says nothing.
    pub silence: Duration,
    /// Seconds of a processor's time that a worker may use.
    pub processor_seconds: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            jail: JailConfig::default(),
            network: NetworkConfig::default(),
            silence: Duration::from_secs(180),
            processor_seconds: 3600,
        }
    }
}
