//! `hearthd`, the host daemon: the control plane of one host.
//!
//! ```text
//!  gRPC ─► api ─► service ─► driver ─► platform ─► hearth-vmm × N, networks, files
//!                    │          │ lifecycle (pure)
//!                    └── store ─┘
//! ```
//!
//! * [`api`] – wire mapping; [`access`] – who calls, and what they may
//! * [`operation`] – the names of operations, and the requests that ask for them
//! * [`service`] – what they do: validation, idempotency, cursors, quotas, errors
//! * [`lifecycle`] – what happens to microVMs, as pure state machines
//! * [`driver`] – a task per microVM that executes what its state machine says, and recovery
//! * [`builds`] – images, their versions and builds
//! * [`platform`] – how microVMs are made of processes, networks and files; [`pool`] – what is made before it is needed
//! * [`store`] – durable state; [`records`] – what is in it, under which keys
//! * [`proxy`] – endpoints; [`tokens`] – tokens for them; [`certificates`] – certificates that this host makes and reads
//! * [`logs`], [`metrics`], [`audit`], [`events`] – what can be seen from outside
//! * [`daemon`] – all of it together; [`panics`] – what a panic ends
//! * [`config`] – the configuration file; [`clock`] – the time

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
