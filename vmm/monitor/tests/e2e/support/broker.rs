//! The ports of the host to which a guest can open streams.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use hearth_test_guest::{READY_LINE, READY_PORT};
use hearth_vmm::devices::virtio::vsock::Broker;

use super::TEST_TIMEOUT;

type Server = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// The host's ports and the functions that serve them. Streams to all other ports are refused.
pub(crate) struct HostPorts {
    servers: Arc<Mutex<HashMap<u32, Server>>>,
    ready: Receiver<()>,
}

impl HostPorts {
    /// Opens the ports for one guest, with the port for its announcement served. Also returns the descriptor for its
    /// monitor.
    pub(crate) fn open() -> (Self, OwnedFd) {
        let (broker, device) = Broker::pair().unwrap();
        let (sender, ready) = mpsc::channel();
        let announcement: Server = Arc::new(move |stream| take_announcement(stream, &sender));
        let servers = Arc::new(Mutex::new(HashMap::from([(READY_PORT, announcement)])));
        let known = Arc::clone(&servers);
        thread::spawn(move || serve(&broker, &known));
        (Self { servers, ready }, device)
    }

    /// Serves every stream to `port` on a separate thread.
    pub(crate) fn serve(&self, port: u32, server: impl Fn(UnixStream) + Send + Sync + 'static) {
        self.servers.lock().unwrap().insert(port, Arc::new(server));
    }

    /// Echoes on `port`; the sending side is shut down when the guest has shut down its own.
    pub(crate) fn echo(&self, port: u32) {
        self.serve(port, |stream| {
            // It is no error if the guest disconnects; the guest checks the data that it receives back.
            let _ = io::copy(&mut &stream, &mut &stream).and_then(|_| stream.shutdown(Shutdown::Write));
        });
    }

    /// Waits until the guest has announced that it accepts commands.
    pub(crate) fn wait_until_ready(&self) {
        self.ready.recv_timeout(TEST_TIMEOUT).expect("the guest does not announce itself");
    }
}

fn take_announcement(stream: UnixStream, ready: &Sender<()>) {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).is_ok() && line.trim_end() == READY_LINE {
        let _ = ready.send(()); // the test may be over
    }
}

fn serve(broker: &Broker, servers: &Mutex<HashMap<u32, Server>>) {
    while let Ok(Some(request)) = broker.next() {
        let Some(server) = servers.lock().unwrap().get(&request.port()).cloned() else {
            let _ = request.refuse(); // the guest may be gone
            continue;
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        if request.accept(&theirs).is_ok() {
            thread::spawn(move || server(ours));
        }
    }
}
