//! `hearthd`, the host daemon: the control plane of one host.
//!
//! ```text
//!  gRPC ─► api ─► service ─► driver ─► platform ─► hearth-vmm × N, networks, files
//!                    │          │ lifecycle (pure)
//!                    └── store ─┘
//! ```
//!
//! * [`api`] – wire mapping; [`access`] – who calls, and what they may
//! * [`operation`] – the requests of the operations
//! * [`service`] – what each operation does: validation, idempotency, cursors, quotas, errors
//! * [`lifecycle`] – the lifecycles of microVMs and images, as pure state machines
//! * [`driver`] – a task per microVM that executes the steps of its state machine, and recovery after a restart
//! * [`builds`] – images, their versions and builds
//! * [`hooks`] – the hooks of an image, from what the API has
//! * [`platform`] – makes microVMs from processes, networks and files; [`pool`] – processes and networks that are
//!   made in advance
//! * [`store`] – durable state; [`records`] – the store's tables and keys
//! * [`proxy`] – endpoints; [`tokens`] – tokens for them; [`certificates`] – certificates that this host makes and reads
//! * [`logs`], [`metrics`], [`audit`], [`events`] – observability: what the daemon reports to the outside
//! * [`daemon`] – puts all parts together; [`panics`] – which part of the daemon a panic terminates
//! * [`config`] – the configuration file; [`clock`] – the time

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod audit;
pub mod builds;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod driver;
pub mod events;
pub mod hooks;
pub mod lifecycle;
pub mod logs;
pub mod metrics;
pub mod operation;
pub mod panics;
pub mod platform;
pub mod pool;
pub mod proxy;
pub mod records;
pub mod service;
pub mod store;
pub mod tokens;
