//! Terminates monitors whose controller was killed.

use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_vmm_client::{CONTROL_SOCKET, Client};

use super::process::{Identity, Process};

/// How long a killed monitor may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a monitor without a record may take to answer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Kills the monitor whose run directory is `folder`, if one runs there, and waits until it has exited.
///
/// # Errors
/// The record cannot be read, or the process does not exit.
pub fn end_monitor(folder: &Path) -> io::Result<()> {
    let Some(recorded) = Identity::recorded(folder)? else {
        // Version 0.2.0 kept no record. Its monitor is asked to end: whom it names as itself is not killed, it may lie.
        if let Ok(client) = Client::connect(folder.join(CONTROL_SOCKET)) {
            let _ = client.with_timeout(SHUTDOWN_TIMEOUT).shutdown(); // it may have ended
        }
        return Ok(());
    };
    match Process::find(&recorded)? {
        Some(process) => process.end(EXIT_TIMEOUT),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::thread;

    use hearth_proto::vmm::v1 as proto;
    use hearth_vmm_api::socket::PacketListener;
    use hearth_vmm_client::launch::PROCESS_RECORD;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_folder_without_a_monitor_has_no_orphan() {
        let folder = tempfile::tempdir().unwrap();
        end_monitor(folder.path()).unwrap();
    }

    /// A monitor that its guest has taken over says that it is another process, which the host would kill as root.
    #[test]
    fn a_process_that_a_monitor_names_is_not_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = victim.id();
        let listener = PacketListener::bind(&folder.path().join(CONTROL_SOCKET)).unwrap();
        let monitor = thread::spawn(move || {
            let Ok(socket) = listener.accept() else { return };
            let mut request = Vec::new();
            while let Ok(Some(_)) = socket.receive(&mut request) {
                let status = proto::Status { pid, version: 1, oldest_version: 1, ..proto::Status::default() };
                let result = Some(proto::response::Result::Status(status));
                let _ = socket.send(&proto::Response { result }.encode_to_vec(), &[]);
            }
        });
        end_monitor(folder.path()).unwrap();
        assert!(victim.try_wait().unwrap().is_none(), "it was not ended");
        monitor.join().unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
    }

    #[test]
    fn the_recorded_process_is_ended_however_it_behaves() {
        let folder = tempfile::tempdir().unwrap();
        let mut monitor = Command::new("sh").args(["-c", "trap '' TERM; exec sleep 1000"]).spawn().unwrap();
        let identity = Process::open(monitor.id()).unwrap().unwrap().identity().clone();
        let stat = fs::read_to_string(format!("/proc/{}/stat", monitor.id())).unwrap();
        // Somebody listens, and never answers.
        let _silent = PacketListener::bind(&folder.path().join(CONTROL_SOCKET)).unwrap();
        fs::write(folder.path().join(PROCESS_RECORD), format!("another boot\n{stat}")).unwrap();
        end_monitor(folder.path()).unwrap();
        assert!(monitor.try_wait().unwrap().is_none(), "a process of another boot");
        fs::write(folder.path().join(PROCESS_RECORD), format!("{}\n{stat}", identity.boot_id)).unwrap();
        end_monitor(folder.path()).unwrap();
        assert!(Process::find(&identity).unwrap().is_none());
        let _ = monitor.wait(); // it was waited for above
    }
}
