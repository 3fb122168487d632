//! Terminates monitors whose controller was killed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_vmm_client::{CONTROL_SOCKET, Client, ClientError};

use super::process::Process;

/// How long a monitor has to shut down before it is killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Terminates the monitor whose run directory is `folder`, if one runs there, and waits until it has exited.
///
/// # Errors
/// The monitor can neither be reached nor killed.
pub fn end_monitor(folder: &Path) -> io::Result<()> {
    let socket = folder.join(CONTROL_SOCKET);
    let client = match Client::connect(&socket) {
        Ok(client) => client.with_timeout(SHUTDOWN_TIMEOUT),
        // Nothing listens on the socket: the monitor has exited.
        Err(ClientError::Unreachable { .. }) => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Ok(status) = client.status() else { return Ok(()) };
    // The process id is still the monitor's: it answers once more after its process was opened.
    let Some(process) = Process::open(status.pid)? else { return Ok(()) };
    if client.status().is_err() {
        return Ok(());
    }
    let _ = client.shutdown(); // the monitor may exit meanwhile
    if !process.wait(SHUTDOWN_TIMEOUT)? {
        process.kill()?;
        process.wait(SHUTDOWN_TIMEOUT)?;
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
        end_monitor(folder.path()).unwrap();
    }
}
