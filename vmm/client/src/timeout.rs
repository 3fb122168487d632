//! The timeout of each request to a monitor.
//!
//! A monitor is not trusted: a guest may have taken it over and withhold responses. A caller therefore never waits
//! longer than the timeout. A request and its response are one packet each, so a timeout for each packet bounds the
//! whole exchange.

use std::time::Duration;

use hearth_proto::vmm::v1::request::Operation;

/// Timeout of requests that the monitor answers from memory, without waiting for anything else.
const PROMPT: Duration = Duration::from_secs(30);
/// Timeout of requests that take long if memory or disks are large or slow: building a machine, completing disk I/O.
const BUILDING: Duration = Duration::from_secs(300);
/// Timeout of a save of the whole machine. A caller that wants to stop sooner cancels the save, or kills the monitor.
const SAVING: Duration = Duration::from_secs(3600);

/// Returns the timeout for `operation`; `None` if its response is sent when the machine exits, which may be at any
/// time.
pub(super) fn of(operation: Option<&Operation>) -> Option<Duration> {
    match operation {
        // The monitor refuses a request without an operation immediately.
        None
        | Some(
            Operation::Hello(_)
            | Operation::Boot(_)
            | Operation::Resume(_)
            | Operation::GetMetrics(_)
            | Operation::Attach(_)
            | Operation::VsockConnect(_)
            | Operation::SetBalloon(_)
            | Operation::SetLimits(_)
            | Operation::CancelSave(_)
            | Operation::Prepare(_),
        ) => Some(PROMPT),
        Some(
            Operation::Create(_)
            | Operation::Restore(_)
            | Operation::Pause(_)
            | Operation::Shutdown(_)
            | Operation::SaveWorkingSet(_),
        ) => Some(BUILDING),
        Some(Operation::Save(_)) => Some(SAVING),
        Some(Operation::WaitExit(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use hearth_proto::vmm::v1 as proto;
    use hearth_vmm_api::socket::{PacketListener, PacketSocket};
    use prost::Message as _;
    use proto::response::Result as Response;

    use super::*;
    use crate::{CONTROL_SOCKET, Client, ClientError};

    const SHORT: Duration = Duration::from_millis(50);

    fn listener(folder: &Path) -> (PacketListener, Client) {
        let path = folder.join(CONTROL_SOCKET);
        let listener = PacketListener::bind(&path).unwrap();
        (listener, Client::connect(path).unwrap().with_timeout(SHORT))
    }

    /// Answers the next request on a connection with a status that contains this process id.
    fn answer(connection: &PacketSocket, pid: u32) {
        let result = Some(Response::Status(proto::Status { pid, ..proto::Status::default() }));
        let _ = connection.send(&proto::Response { result }.encode_to_vec(), &[]);
    }

    #[test]
    fn everything_but_the_end_of_a_machine_has_its_time() {
        let wait = Operation::WaitExit(proto::WaitExit {});
        assert_eq!(of(Some(&wait)), None);
        assert!(of(None).is_some() && of(Some(&Operation::Save(proto::Save::default()))).is_some());
    }

    #[test]
    fn a_monitor_that_is_silent_is_waited_for_no_longer_than_it_has() {
        let folder = tempfile::tempdir().unwrap();
        // This monitor accepts no connections: the client's waits in the listener's backlog.
        let (listener, client) = listener(folder.path());
        let error = client.status().unwrap_err();
        assert!(matches!(&error, ClientError::Silent { limit, .. } if *limit == SHORT), "{error}");
        let error = client.vsock_connect(1024).unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
        drop(listener);
    }

    #[test]
    fn a_monitor_whose_queue_of_connections_is_full_is_waited_for_no_longer_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONTROL_SOCKET);
        let _listener = PacketListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            assert!(waiting.len() < 10_000, "the queue has an end");
            match PacketSocket::connect_within(&path, SHORT) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_request() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, client) = listener(folder.path());
        let (go, late) = mpsc::channel::<()>();
        let monitor = std::thread::spawn(move || {
            let mut buffer = Vec::new();
            let first = listener.accept().unwrap();
            first.receive(&mut buffer).unwrap();
            late.recv().unwrap();
            answer(&first, 1);
            let second = listener.accept().unwrap();
            second.receive(&mut buffer).unwrap();
            answer(&second, 2);
        });
        assert!(matches!(client.status(), Err(ClientError::Silent { .. })));
        go.send(()).unwrap();
        let client = client.with_timeout(Duration::from_secs(60));
        assert_eq!(client.status().unwrap().pid, 2);
        monitor.join().unwrap();
    }

    #[test]
    fn a_monitor_that_reads_nothing_is_waited_for_no_longer_either() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, client) = listener(folder.path());
        let connection = listener.accept().unwrap();
        // Each of these calls leaves a request in a queue, on a connection of its own.
        for _ in 0..3 {
            assert!(matches!(client.status(), Err(ClientError::Silent { .. })));
        }
        drop(connection);
    }
}
