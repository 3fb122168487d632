//! Ending monitors whose controller was killed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_vmm::client::{CONTROL_SOCKET, Client, ClientError};

use super::process::Process;

/// How long a monitor has to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends the monitor whose run directory is `folder`, if one runs there, and waits until it has.
///
/// # Errors
/// What the system answers when it can neither be asked nor killed.
pub fn end(folder: &Path) -> io::Result<()> {
    let socket = folder.join(CONTROL_SOCKET);
    let client = match Client::connect(&socket) {
        Ok(client) => client.patience(PATIENCE),
        // Nobody listens: it has ended.
        Err(ClientError::Unreachable { .. }) => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Ok(status) = client.status() else { return Ok(()) };
    // The process cannot have ended and its number gone to another since: it has just answered, and is waited for here.
    let Some(process) = Process::open(status.pid)? else { return Ok(()) };
    if client.status().is_err() {
        return Ok(());
    }
    let _ = client.shutdown(); // it may end meanwhile
    if !process.wait(PATIENCE)? {
        process.kill()?;
        process.wait(PATIENCE)?;
    }
    let _ = fs::remove_file(&socket); // its folder is removed in any case
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_monitor_has_no_orphan() {
        let folder = tempfile::tempdir().unwrap();
        end(folder.path()).unwrap();
    }
}
