//! Tests of a client with monitors of other releases.

use std::thread::JoinHandle;

use hearth_vmm_api::socket::PacketListener;
use proto::ErrorCode;

use hearth_vmm_api::config::rate_limiter::DeviceLimits;

use super::*;

/// Runs a monitor that reports that it speaks `speaks` and accepts requests in the versions of `takes`. Returns the
/// versions of the requests that it received.
fn monitor(listener: PacketListener, speaks: Versions, takes: Versions) -> JoinHandle<Vec<u32>> {
    std::thread::spawn(move || {
        let (mut buffer, mut came) = (Vec::new(), Vec::new());
        let connection = listener.accept().unwrap();
        while connection.receive(&mut buffer).is_ok_and(|packet| packet.is_some()) {
            let request = proto::Request::decode(buffer.as_slice()).unwrap();
            came.push(request.version);
            let result = match request.operation {
                Some(Operation::Hello(_)) => Response::Status(proto::Status {
                    version: speaks.newest(),
                    oldest_version: speaks.oldest(),
                    ..proto::Status::default()
                }),
                _ if takes.has(request.version) => Response::Done(proto::Done {}),
                _ => Response::Error(proto::Error { code: ErrorCode::Protocol.into(), message: "no".into() }),
            };
            connection.send(&proto::Response { result: Some(result) }.encode_to_vec(), &[]).unwrap();
        }
        came
    })
}

/// Connects a client that speaks `own` to a monitor that reports `speaks` and accepts `takes`.
fn meet(
    own: Versions,
    speaks: Versions,
    takes: Versions,
) -> (Client, JoinHandle<Vec<u32>>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(CONTROL_SOCKET);
    let monitor = monitor(PacketListener::bind(&path).unwrap(), speaks, takes);
    let client = Client::connect(path).unwrap();
    (Client { own, version: AtomicU32::new(own.newest()), ..client }, monitor, folder)
}

#[test]
fn a_monitor_of_an_older_release_is_asked_in_its_version() {
    let (client, monitor, _folder) = meet(Versions::new(2, 5), Versions::new(2, 3), Versions::new(2, 3));
    client.pause().unwrap();
    client.resume().unwrap();
    drop(client);
    // The first request is refused, Hello negotiates the version, the request is repeated; the next one needs no
    // repetition.
    assert_eq!(monitor.join().unwrap(), [5, 5, 3, 3]);
}

#[test]
fn a_monitor_of_this_release_is_asked_once() {
    let (client, monitor, _folder) = meet(VERSIONS, VERSIONS, VERSIONS);
    client.pause().unwrap();
    drop(client);
    assert_eq!(monitor.join().unwrap(), [VERSIONS.newest()]);
}

#[test]
fn where_there_is_no_common_version_both_are_named() {
    let (client, _monitor, _folder) = meet(Versions::new(4, 5), Versions::new(2, 3), Versions::new(2, 3));
    let error = client.pause().unwrap_err();
    assert!(matches!(&error, ClientError::NoCommonVersion { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("speaks versions 2 to 3") && text.contains("this program versions 4 to 5"),
        "{text}"
    );
}

#[test]
fn a_monitor_that_refuses_the_version_that_it_speaks_is_asked_no_second_time() {
    let (client, monitor, _folder) = meet(VERSIONS, VERSIONS, Versions::new(7, 7));
    assert!(matches!(client.pause(), Err(ClientError::Refused { code: ErrorCode::Protocol, .. })));
    drop(client);
    assert_eq!(monitor.join().unwrap(), [VERSIONS.newest(); 2]);
}

#[test]
fn a_monitor_that_cannot_change_limits_is_not_asked_to() {
    let (client, monitor, _folder) = meet(VERSIONS, VERSIONS, VERSIONS);
    assert_eq!(client.set_limits(DeviceLimits::default()).unwrap(), Limited::Nothing);
    drop(client);
    assert_eq!(monitor.join().unwrap().len(), 1, "for its features alone");
}
