//! Conversion of errors of lower layers into [`PlatformError`].

use std::io;
use std::path::Path;

use hearth_host::agent::AgentError;
use hearth_host::microvm::MicrovmError;
use hearth_host::roles::RoleError;
use rustix::io::Errno;

use crate::platform::PlatformError;

/// For `map_err`: converts an I/O error of the operation `what` on `path`.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlatformError {
    let path = path.to_owned();
    move |source| host(&source, format!("{what} {}: {source}", path.display()))
}

/// A full disk or a full table is a lack of capacity, not a failure of the request.
fn host(source: &io::Error, message: String) -> PlatformError {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN];
    match Errno::from_io_error(source) {
        Some(code) if full.contains(&code) => PlatformError::Capacity(message),
        _ => PlatformError::Failed(message),
    }
}

/// Converts an error of a monitor, its files or its guest.
pub(super) fn microvm(error: MicrovmError) -> PlatformError {
    match &error {
        MicrovmError::File { source, .. } => host(source, error.to_string()),
        _ => PlatformError::Failed(error.to_string()),
    }
}

/// Converts an error of the guest's agent.
pub(super) fn agent(error: AgentError) -> PlatformError {
    PlatformError::Failed(error.to_string())
}

/// Converts an error of a role's credentials.
pub(super) fn role(error: RoleError) -> PlatformError {
    PlatformError::Role(error.to_string())
}

/// Converts the panic of a blocking thread.
pub(super) fn thread(error: tokio::task::JoinError) -> PlatformError {
    PlatformError::Failed(format!("a thread of the program ended unexpectedly: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_from_a_failure() {
        let error = |code: Errno| failed("writing", Path::new("/data/x"))(code.into());
        assert!(matches!(error(Errno::NOSPC), PlatformError::Capacity(_)));
        let PlatformError::Failed(message) = error(Errno::IO) else { panic!("not a failure") };
        assert!(message.starts_with("writing /data/x: "), "{message}");
    }
}
