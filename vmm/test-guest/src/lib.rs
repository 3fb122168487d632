//! What the test guest and the tests on the host must agree about: ports, byte patterns, models of what a disk
//! or memory must hold after a given history, and the score of work in the background. The guest itself is this package's binary.
#![forbid(unsafe_code)]

pub mod client;
pub mod disk_model;
pub mod page_model;
pub mod pattern;
pub mod records;
pub mod work;

/// The vsock port on which the guest takes commands: one request line per connection, answered by lines of
/// which the last starts with `ok` or `err`.
pub const COMMAND_PORT: u32 = 1024;

/// The host's vsock port to which the guest connects once it takes commands, to send [`READY_LINE`].
pub const READY_PORT: u32 = 1025;

/// What the guest sends to [`READY_PORT`].
pub const READY_LINE: &str = "ready";

/// What the guest writes to its console as soon as it runs.
pub const INIT_LINE: &str = "HEARTH-INIT";

/// The word of the kernel command line that says what the guest shall do.
pub const MODE_WORD: &str = "hearth.test=";
