//! The phase of a running microVM, which decides whether its exit is reported.

/// The phase of a running microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The microVM runs.
    Running,
    /// The microVM is being suspended.
    Suspending,
    /// The microVM was suspended or discarded, or belongs to another daemon: its exit is not reported.
    Gone,
}
