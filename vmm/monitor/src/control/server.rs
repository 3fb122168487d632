//! The control thread: accepts controllers, answers their requests one after another, and handles the machine's exit.
//! Controllers may connect and disconnect at any time without an effect on the machine.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::socket::{PacketListener, PacketSocket};
use prost::Message as _;
use proto::response::Result as Response;

use super::monitor::{Monitor, Outcome};
use crate::event_loop::{DeviceId, EventLoop, Interest, Poller, Ready};

/// Maximum number of controllers that are connected at once; further ones wait in the listener's backlog.
pub const CONTROLLERS_MAX: usize = 64;

const LISTENER: DeviceId = 0;
const END: DeviceId = 1;
const SAVED: DeviceId = 2;
const CONTROLLER: DeviceId = 3;

struct Controller {
    socket: PacketSocket,
    waits_for_exit: bool,
    waits_for_save: bool,
}

/// The server of one monitor.
pub struct Server {
    listener: PacketListener,
    monitor: Monitor,
    events: EventLoop,
    controllers: BTreeMap<u16, Controller>,
    next: u16,
    listening: bool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

impl Server {
    /// Creates a server that serves `monitor` to every controller that connects to `listener`.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub fn new(listener: PacketListener, monitor: Monitor) -> io::Result<Self> {
        let events = EventLoop::new()?;
        events.poller(LISTENER).add(&listener, 0, Interest::READ)?;
        events.poller(END).add(&**monitor.shutdown_signal(), 0, Interest::READ)?;
        events.poller(SAVED).add(&monitor.saved_signal(), 0, Interest::READ)?;
        Ok(Self { listener, monitor, events, controllers: BTreeMap::new(), next: 0, listening: true })
    }

    /// Serves until the machine has exited and every controller that waits for its exit has received the response.
    ///
    /// # Errors
    /// Fails when the event loop fails. A controller that fails is only disconnected.
    pub fn run(mut self) -> io::Result<proto::ExitReason> {
        let mut buffer = Vec::new();
        let mut batch: Vec<Ready> = Vec::new();
        loop {
            batch.clear();
            self.events.wait(-1, |ready| batch.push(ready))?;
            for ready in &batch {
                match ready.device {
                    LISTENER => self.accept(),
                    END => self.monitor.on_end(),
                    SAVED => self.saved(),
                    _ => self.serve(ready.token, &mut buffer),
                }
            }
            if let Some(reason) = self.monitor.exit().cloned() {
                for controller in self.controllers.values().filter(|controller| controller.waits_for_exit) {
                    let _ = respond(&controller.socket, Response::Exit(reason.clone())); // the peer may be gone
                }
                return Ok(reason);
            }
        }
    }

    fn poller(&self) -> Poller {
        self.events.poller(CONTROLLER)
    }

    fn accept(&mut self) {
        let Ok(socket) = self.listener.accept() else { return };
        while self.controllers.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let token = self.next;
        if self.poller().add(&socket, token, Interest::READ).is_ok() {
            self.next = self.next.wrapping_add(1);
            self.controllers
                .insert(token, Controller { socket, waits_for_exit: false, waits_for_save: false });
        }
        self.watch_listener();
    }

    /// Stops accepting while [`CONTROLLERS_MAX`] controllers are connected, and resumes afterwards.
    fn watch_listener(&mut self) {
        let wanted = self.controllers.len() < CONTROLLERS_MAX;
        if wanted != self.listening {
            let interest = if wanted { Interest::READ } else { Interest::NONE };
            if self.events.poller(LISTENER).modify(&self.listener, 0, interest).is_ok() {
                self.listening = wanted;
            }
        }
    }

    /// Sends the result of a save to every controller that waits for it.
    fn saved(&mut self) {
        let Some(result) = self.monitor.on_saved() else { return };
        for controller in self.controllers.values_mut().filter(|controller| controller.waits_for_save) {
            controller.waits_for_save = false;
            let _ = respond(&controller.socket, result.clone()); // the controller may have disconnected
        }
    }

    fn serve(&mut self, token: u16, buffer: &mut Vec<u8>) {
        // Controllers that wait for a finished save receive its result before another save can begin.
        self.saved();
        let Some(controller) = self.controllers.get_mut(&token) else { return };
        let kept = match controller.socket.receive(buffer) {
            Ok(Some(fds)) => match self.monitor.handle(buffer, fds) {
                Outcome::Response(result) => respond(&controller.socket, result).is_ok(),
                Outcome::WhenExited => {
                    controller.waits_for_exit = true;
                    true
                }
                Outcome::WhenSaved => {
                    controller.waits_for_save = true;
                    true
                }
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let code = proto::ErrorCode::Protocol.into();
                let error = proto::Error { code, message: error.to_string() };
                respond(&controller.socket, Response::Error(error)).is_ok()
            }
            Ok(None) | Err(_) => false,
        };
        if !kept && let Some(controller) = self.controllers.remove(&token) {
            let _ = self.poller().remove(&controller.socket.as_fd()); // closing it would do so as well
            drop(controller);
            self.watch_listener();
        }
    }
}

fn respond(socket: &PacketSocket, result: Response) -> io::Result<()> {
    socket.send(&proto::Response { result: Some(result) }.encode_to_vec(), &[])
}
