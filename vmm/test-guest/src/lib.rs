//! Definitions that the test guest and the tests on the host share: ports, byte patterns, models of the contents of a
//! disk or of memory after given operations, and the status of background work. The guest itself is this package's
//! binary.
#![forbid(unsafe_code)]

pub mod client;
pub mod disk_model;
pub mod page_model;
pub mod pattern;
pub mod records;
pub mod work;

/// The vsock port on which the guest accepts commands. Each connection carries one request line; the answer consists of
/// lines of which the last starts with `ok` or `err`.
pub const COMMAND_PORT: u32 = 1024;

/// The host's vsock port to which the guest connects once it accepts commands, to send [`READY_LINE`].
pub const READY_PORT: u32 = 1025;

/// The line that the guest sends to [`READY_PORT`].
pub const READY_LINE: &str = "ready";

/// The line that the guest writes to its console as soon as it runs.
pub const INIT_LINE: &str = "HEARTH-INIT";

/// The word of the kernel command line that selects the guest's mode.
pub const MODE_WORD: &str = "hearth.test=";
