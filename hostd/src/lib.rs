//! `hearthd`, the host daemon: the control plane of one host.
//!
//! ```text
//!  gRPC, AWS ─► api ─► service ─► driver ─► platform ─► hearth-vmm × N, networks, files
//!                         │          │ lifecycle (pure)
//!                         └── store ─┘
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
//! * [`disk`] – room on the disk, and what accounts take of it; `usage` – counts of what accounts use
//! * [`store`] – durable state; [`records`] – the store's tables and keys; [`aside`] – what a restored store does not know
//! * [`proxy`] – endpoints; [`tokens`] – tokens for them; [`certificates`] – certificates that this host makes and reads
//! * [`scrub`] – reads images and suspended states now and then, and finds what the disk has damaged
//! * [`logs`], [`metrics`], [`audit`], [`events`] – observability: what the daemon reports to the outside
//! * [`turns`] – turns by account at what all share: builds, threads that block
//! * [`daemon`] – puts all parts together; [`panics`] – which part of the daemon a panic terminates
//! * [`config`] – the configuration file; [`setting`] – what is wrong with a setting; [`clock`] – the time
//!
//! # Tasks and channels
//!
//! Tasks run on one runtime, but for those of endpoints. What several of them change is behind a lock of its owner that
//! nobody holds while it waits; all else goes through these channels.
//!
//! | Task or thread | How many | Owner | Takes | Gives |
//! |---|---|---|---|---|
//! | the daemon | 1 | [`daemon::run`] | SIGTERM, SIGINT | `shutdown`, a `watch` that becomes true |
//! | commits, a thread | 1 | [`store::Db`] | batches of everybody who changes something, an `mpsc` | to each a `oneshot`: durable, or not; metrics |
//! | the audit log, a thread | 1 | [`audit::Audit`] | lines of calls and shells, through a bounded queue for each account | a `oneshot`: written; files |
//! | calls of the API | one per connection and call | [`api::Listeners`] | gRPC; `shutdown` | calls of [`service`] |
//! | AWS's listener, its connections | 1, and one per connection | [`api::aws`] | HTTP; `shutdown` | calls of [`service`] |
//! | a microVM | one per microVM that has not ended | [`driver::Microvms`] | requests (`mpsc`, a mailbox), outcomes of its effects, its process's exit, timers | a `oneshot` to the requester; its gate; [`driver::context::MicrovmObserver`] |
//! | what serves a running guest: exit, output, name queries, credentials | up to 4 per process | [`platform::host`] | streams of the guest's agent; the microVM's phase (`watch`) | its exit (`watch`), lines to [`logs`] |
//! | `routes`, a thread | 1 | `hearth_host::network::Networks` | changes of the host's routes | default routes, to the host's packet filter |
//! | stock | one per thing that is being made | [`pool::Stock`] | free places (`Semaphore`); closing (`Notify`) | monitors and networks |
//! | a change of an image, a build, a deletion | one each | [`builds::Images`] | `stop` (`watch`); builds wait for their turn ([`turns`]) | a `oneshot` to the requester; events for clients that watch a build (`watch`) |
//! | `fetch-worker`, a thread | one per fetch, and per zip that becomes a tar | `hearth_image_builder::artifact` | its worker's reports | connections to the worker; progress (`mpsc`), what was fetched (`oneshot`) |
//! | acceptor of endpoints | 1 | [`proxy::Proxy`] | connections; `shutdown` | connections to the threads (`mpsc`), each to the one with the fewest |
//! | `endpoint-N`, threads with a runtime each | one per processor | [`proxy::Proxy`] | connections (`mpsc`); `shutdown` | exchanges with apps; to the acceptor a `oneshot`: ended |
//! | a connection to an endpoint, and its requests, tunnels and shells | one each, on the connection's thread | `endpoint-N` | the client's bytes; the microVM's gate | requests to resume, in the mailbox of the microVM |
//! | DNS, certificates | 1 each, where enabled | [`daemon`] | queries; a timer | answers; the certificate that TLS serves |
//! | the scrub, and a thread `scrub` while it reads | 1 each | [`daemon`] | timers; the reports of its process | log, metrics, [`events`], what launches are refused from |
//! | metrics server | 1, and one per connection | [`daemon`] | HTTP | metrics |
//! | records that expire, keys of tokens, old logs, artifacts that no image names, what accounts take of the disk, gauges | 1 each | [`daemon`] | timers | store, files, metrics |
//!
//! The gate ([`driver::gate`]) is what a microVM's task and its endpoint share: the task says whether exchanges may pass
//! (`watch`), exchanges count themselves and say when there are fewer (`Notify`).
//!
//! Calls that watch changes follow the [`events`] of their account (`watch`) or a group of [`logs`] (`Notify`). A follower
//! that is too slow misses events, and delays no other task.
//!
//! Work that blocks – files, monitors, networks – runs on the runtime's threads for that, and its task waits for it. What
//! clients can have much of takes [`turns`] at them by account, so that the threads never run out.
//! What ends when the daemon does, and in which order, is in [`daemon`]; what a panic ends is in [`panics`].

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod aside;
pub mod audit;
pub mod builds;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod disk;
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
pub mod scrub;
pub mod service;
pub mod setting;
pub mod store;
pub mod tokens;
pub mod turns;
mod usage;
